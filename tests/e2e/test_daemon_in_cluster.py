"""The daemon of a node that is in a cluster: what the cluster sees of its pods, and what it does without the
cluster."""

import base64
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from apiserver import ApiServer
from pyroute2.netns import setns

from caa.errors import CaaError
from caa.podvm.userdata import AUTH_JSON, parse_user_data
from caa.polling import growing, poll
from caa.sandbox import Step

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

NODE = "worker-1"


def listening_in(netns: Path) -> Callable[[int], socket.socket]:
    """Makes sockets on the loopback of a network namespace."""

    def listen(port: int) -> socket.socket:
        made: list[socket.socket] = []

        def inside() -> None:
            setns(str(netns))
            made.append(socket.create_server(("127.0.0.1", port), backlog=128))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return made[0]

    return listen


async def startup(node: "Node") -> int:
    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=10)
        try:
            connection.request("GET", "/startup")
            return connection.getresponse().status
        finally:
            connection.close()

    return await node.worker._in_namespace(ask)


async def becomes(seen: Callable[[], object], expected: object) -> None:
    async def look() -> tuple[bool | None, str]:
        now = seen()
        return now == expected or None, repr(now)

    await poll(look, what=repr(expected), pauses=growing(0.02, 1.3, 0.2), timeout=40)


async def test_cluster_and_cloud_agree_whatever_happens_in_between(
    node: "Node", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ApiServer(listen=listening_in(node.worker.netns)) as api:
        api.add_node(NODE)
        monkeypatch.setenv("NODE_NAME", NODE)
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        monkeypatch.setenv("PEERPODS_LIMIT_PER_NODE", "7")

        def capacity() -> str | None:
            found = api.object("Node", NODE)
            assert found is not None
            value: str | None = found["status"]["capacity"].get("kata.peerpods.io/vm")
            return value

        def held() -> set[str]:
            return {
                each["spec"]["instanceID"]
                for each in api.objects("PeerPod")
                if "peer.pod/finalizer" in each["metadata"].get("finalizers", [])
            }

        async def add_pod(name: str) -> Path:
            api.add_pod(name, node=NODE, runtime_class="kata-remote", pull_secrets=["pull"])
            return (await node.worker.add_pod(name))[0]

        api.add_pull_secret("pull", {"registry.example": {"username": "u", "password": "p"}})
        web, db = await add_pod("web"), await add_pod("db")
        async with node.shim() as web_shim, node.shim() as db_shim:
            monkeypatch.setenv("POD_UID", "first")
            async with node.mortal_daemon(Step.FORGOTTEN) as first:
                assert await startup(node) == 503
                await becomes(capacity, "7")
                await web_shim.create_vm(pod="web", namespace="default", netns=web)
                await web_shim.start_vm()
                [instance] = node.cloud.instances
                auth = base64.b64encode(b"u:p").decode()
                files = parse_user_data(instance.order.user_data)
                assert json.loads(files[AUTH_JSON]) == {"auths": {"registry.example": {"auth": auth}}}
                await becomes(held, {instance.id})

                # Without the cluster a pod comes and another one goes, and that kills the daemon.
                await api.stop()
                await db_shim.create_vm(pod="db", namespace="default", netns=db)
                await db_shim.start_vm()
                with contextlib.suppress(CaaError, OSError):
                    await web_shim.stop_vm()
                [other] = set(node.instance_ids) - {instance.id}
                assert await first.process.wait() == -9

            monkeypatch.setenv("POD_UID", "second")
            async with node.daemon() as second:
                await api.start()
                await becomes(held, {other})
                for pod in api.objects("Pod"):
                    api.set_ready(pod)
                await poll(
                    lambda: _answers(node, 200), what="startup", pauses=growing(0.1, 1.5, 0.5), timeout=40
                )
                await becomes(capacity, "7")
                await db_shim.stop_vm()
                await becomes(held, set())
                await second.end()
            assert capacity() is None
            assert not any("u:p" in line or auth in line for line in first.log.read_text().splitlines())
            await node.nothing_is_left("web")
            await node.nothing_is_left("db")


async def test_pod_of_a_daemon_that_knew_of_no_cluster_gets_its_object(
    node: "Node", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ApiServer(listen=listening_in(node.worker.netns)) as api, node.shim() as shim:
        api.add_node(NODE)
        api.add_pod("web", node=NODE)
        netns, _ = await node.worker.add_pod("web")
        async with node.daemon() as before:
            await shim.create_vm(pod="web", namespace="default", netns=netns)
            await shim.start_vm()
            assert api.requests == []
            await before.end()
        monkeypatch.setenv("NODE_NAME", NODE)
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        async with node.daemon():
            await becomes(
                lambda: [each["spec"]["instanceID"] for each in api.objects("PeerPod")], node.instance_ids
            )
            await shim.stop_vm()
            await becomes(
                lambda: [each["metadata"].get("finalizers") for each in api.objects("PeerPod")], [None]
            )
        await node.nothing_is_left("web")


async def _answers(node: "Node", expected: int) -> tuple[bool | None, str]:
    status = await startup(node)
    return status == expected or None, str(status)
