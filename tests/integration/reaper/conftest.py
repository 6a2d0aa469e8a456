"""A cluster, a cloud, and reapers between them: the strict API server and the local cloud, over real HTTP."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer, Object, ServiceAccountFolder, User

from caa.config import load, load_reaper
from caa.fakecloud import FakeCloudSettings, LocalCloud, Timings
from caa.podvm import instance_name
from caa.polling import growing, poll
from caa.providers import Holding, VmOrder
from caa.providers.alibabacloud import AlibabaCloud
from caa.reaper import CLUSTER_RIGHTS, OWN_RIGHTS, run
from caa.reaper.lease import Times

NAMESPACE = "confidential-containers-system"
ACCOUNT = User.service_account(NAMESPACE, "caa-reaper").name
FINALIZER = "peer.pod/finalizer"
LEASE_TIMES = Times(duration=2, deadline=1.4, retry=0.2)

Until = Callable[[Callable[[], object], str], Awaitable[None]]


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    """With the rights that the reaper says it needs, and no others."""
    async with ApiServer() as server:
        server.add_namespace(NAMESPACE)
        for rights, where in ((CLUSTER_RIGHTS, ""), (OWN_RIGHTS, NAMESPACE)):
            rules = [
                {"verbs": [each.verb], "apiGroups": [each.group], "resources": [each.resource]}
                for each in rights
            ]
            server.rbac.grant(ACCOUNT, rules, namespace=where)
        server.add_node("worker-1")
        yield server


@pytest.fixture
async def cloud(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LocalCloud]:
    """A parameter, if there is one, has the rights beyond the published policy."""
    timings = Timings(
        visible_after=0, address_after=0, starting_after=0, running_after=0, initializing=0, deleting=0
    )
    settings = FakeCloudSettings(
        dir=tmp_path / "cloud",
        credentials="keys",
        timings=timings,
        boot_seconds=0,
        allow=getattr(request, "param", ()),
    )
    async with LocalCloud(settings) as running:
        yield running


class World:
    """What daemons on nodes have done so far, and reapers to clean up after them."""

    def __init__(self, api: ApiServer, cloud: LocalCloud, folder: Path) -> None:
        self.api = api
        self.cloud = cloud
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self.reapers: list[asyncio.Task[None]] = []
        self.accounts: list[ServiceAccountFolder] = []

    async def close(self) -> None:
        for reaper in self.reapers:
            await self.end(reaper)
        await self._stack.aclose()

    async def vm(self, pod: str, namespace: str = "shop", node: str = "worker-1", **environ: str) -> str:
        """The instance that a node's daemon makes for a pod."""
        provider = AlibabaCloud(load({}, dict(self.cloud.environment) | environ).alibabacloud, node=node)
        self._stack.push_async_callback(provider.close)
        sandbox = secrets.token_hex(32)
        holding: Holding = provider.plan(
            VmOrder(
                sandbox_id=sandbox,
                pod_name=pod,
                pod_namespace=namespace,
                name=instance_name(pod, sandbox),
                user_data=b"#cloud-config\n",
                client_token=sandbox[:32],
                second_interface="USE_PUBLIC_IP" in environ,
            )
        )

        async def keep(changed: Holding) -> None:
            nonlocal holding
            holding = changed

        instance = await provider.launch(holding, keep)
        await provider.addresses(holding, keep)
        await provider.complete(holding)
        return instance

    async def pod(self, name: str, namespace: str = "shop", **more: str) -> tuple[Object, str]:
        """A pod that runs, with its VM and its PeerPod object. The pod, and the instance's id."""
        pod = self.api.add_pod(name, namespace=namespace, node="worker-1", runtime_class="kata-remote")
        self.api.set_ready(pod)
        instance = await self.vm(name, namespace, **more)
        self.claim(pod, instance)
        return pod, instance

    def claim(self, pod: Object, instance: str, *, cloud: str = "alibabacloud", **metadata: Any) -> Object:
        """The PeerPod object, as the Go daemon makes it."""
        about = pod["metadata"]
        owner = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": about["name"],
            "uid": about["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        return self.api.add(
            {
                "apiVersion": "confidentialcontainers.org/v1alpha1",
                "kind": "PeerPod",
                "metadata": {
                    "name": f"{about['name']}-resource-{secrets.token_hex(3)[:5]}",
                    "namespace": about["namespace"],
                    "finalizers": [FINALIZER],
                    "ownerReferences": [owner],
                    **metadata,
                },
                "spec": {"cloudProvider": cloud, "instanceID": instance},
            }
        )

    def evict(self, pod: Object) -> None:
        """Ask for the pod's end; its kubelet does not answer."""
        about = pod["metadata"]
        resource = self.api._resource("Pod")
        self.api.store.delete(resource, about["namespace"], about["name"], {"gracePeriodSeconds": 1})

    def reap(self, **options: str) -> "asyncio.Task[None]":
        """Start a reaper."""
        folder = self.api.service_account_folder(
            self._folder / f"account-{len(self.reapers)}", namespace=NAMESPACE, name="caa-reaper"
        )
        self.accounts.append(folder)
        environ = {**self.cloud.environment, **self.api.environment}
        flags = {"grace": "300ms", "node-grace": "600ms", "probe-port": "0"} | {
            name.replace("_", "-"): text for name, text in options.items()
        }
        settings = load_reaper(flags, environ)
        reaper = asyncio.create_task(
            run(settings, environ, service_account=folder.path, times=LEASE_TIMES, every=0.1)
        )
        self.reapers.append(reaper)
        return reaper

    async def end(self, reaper: "asyncio.Task[None]") -> None:
        """As SIGTERM does."""
        reaper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reaper

    @property
    def leader(self) -> str:
        lease = self.api.object("Lease", "caa-reaper", NAMESPACE)
        return str(lease["spec"].get("holderIdentity", "")) if lease else ""

    @property
    def instances(self) -> set[str]:
        return {each.id for each in self.cloud.instances if not each.deleting}

    @property
    def claims(self) -> Mapping[str, bool]:
        """By pod, whether the PeerPod objects are held."""
        return {
            each["metadata"]["ownerReferences"][0]["name"]: FINALIZER
            in each["metadata"].get("finalizers", ())
            for each in self.api.objects("PeerPod")
        }

    @property
    def asked_to_delete(self) -> list[str]:
        return [call.outcome for call in self.cloud.calls.of("DeleteInstance")]


@pytest.fixture
async def world(api: ApiServer, cloud: LocalCloud, tmp_path: Path) -> AsyncIterator[World]:
    made = World(api, cloud, tmp_path)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def until() -> Until:
    """Waits until something is true."""

    async def wait(true: Callable[[], object], what: str) -> None:
        async def ask() -> tuple[bool | None, str]:
            seen = true()
            return (True if seen else None), repr(seen)

        await poll(ask, what=what, pauses=growing(0.01, longest=0.1), timeout=20)

    return wait


@pytest.fixture
def rounds(api: ApiServer, until: Until) -> Callable[[int], Awaitable[None]]:
    """Waits until a reaper has looked so many more times at a pod that it has reason to look at."""

    async def wait(number: int) -> None:
        before = api.count("get", "pods")
        await until(lambda: api.count("get", "pods") >= before + number, f"{number} more looks at pods")

    return wait
