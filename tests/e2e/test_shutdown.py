"""How the daemon ends: SIGTERM at each kind of moment, and what its successor then finds."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caa.demo import CAA, Child, Shim
from caa.errors import CaaError, Code
from caa.fakecloud import Fault
from caa.polling import growing, poll
from caa.proto import agent_pb2 as agent
from caa.proto import hypervisor_pb2 as hypervisor
from caa.proto import podvminfo_pb2 as podvminfo
from caa.ttrpc import Client, RpcError

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

HANGS = 60.0
"""Seconds; longer than any daemon here lives."""


def hasty_daemon(node: "Node") -> AbstractAsyncContextManager[Child]:
    return node.daemon((sys.executable, str(Path(__file__).with_name("hasty_daemon.py"))))


@contextlib.asynccontextmanager
async def made(node: "Node", pod: str) -> AsyncIterator[Shim]:
    """A shim whose pod is created."""
    netns, _ = await node.worker.add_pod(pod)
    async with node.shim() as shim:
        await shim.create_vm(pod=pod, namespace="default", netns=netns)
        yield shim


async def struck(node: "Node", fault: Fault) -> None:
    """Returns when the fault has befallen a call."""

    async def look() -> tuple[bool | None, str]:
        return (fault not in list(node.cloud.faults)) or None, "no such call"

    await poll(look, what=f"{fault.action} to come", pauses=growing(0.02, longest=0.1), timeout=60)


async def version(client: Client) -> None:
    request = hypervisor.VersionRequest()
    await client.call("hypervisor.Hypervisor", "Version", request, hypervisor.VersionResponse, timeout=10)


async def told_to_end(daemon: Child) -> None:
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.event("ending", 10)


async def ended(daemon: Child) -> int:
    async with asyncio.timeout(40):
        return await daemon.process.wait()


async def test_pods_run_on_and_the_next_daemon_serves_them(node: "Node") -> None:
    async with node.daemon() as daemon, made(node, "web") as shim:
        await shim.start_vm()
        before = list(node.instance_ids)
        async with await Client.connect_unix(node.socket) as client:
            # Who waits for an instance is told, and delays nothing.
            request = podvminfo.GetInfoRequest(PodName="none", PodNamespace="default", Wait=True)
            waiting = asyncio.create_task(
                client.call("podvminfo.PodVMInfo", "GetInfo", request, podvminfo.GetInfoResponse, timeout=60)
            )
            await version(client)  # which was sent later: the first has arrived
            await told_to_end(daemon)
            with pytest.raises(RpcError, match="the daemon is ending"):
                await waiting
            assert await ended(daemon) == 0
            with pytest.raises(CaaError, match="closed"):
                await version(client)
    assert node.journal_rows() == [shim.sandbox_id]
    assert node.instance_ids == before
    for left in (node.socket, node.grpc_socket, node.folder / "state" / "admin.sock"):
        assert not left.exists()
    async with node.daemon():
        async with await Client.connect_unix(node.pods_dir / shim.sandbox_id / "agent.ttrpc") as client:
            health = await client.call(
                "grpc.Health", "Check", agent.CheckRequest(), agent.HealthCheckResponse, timeout=30
            )
        assert health.status == agent.HealthCheckResponse.SERVING
        assert node.instance_ids == before
        await shim.stop_vm()
        await node.nothing_is_left("web")


async def test_a_start_under_way_is_undone_and_its_caller_told(node: "Node") -> None:
    # Nobody answers at a local cloud's public addresses, so the pod stays on its way.
    async with (
        node.daemon_with("--use-public-ip") as daemon,
        await Client.connect_unix(node.socket) as idle,
        made(node, "web") as shim,
    ):
        starting = asyncio.create_task(shim.start_vm())
        deletion = Fault(action="DeleteInstance", delay=2)  # so that there is time to look
        node.cloud.faults.add(deletion)

        async def up() -> tuple[bool | None, str]:
            return any(event.get("step") == "tunnel_up" for event in daemon.events) or None, "no tunnel"

        await poll(up, what="the start to be half done", pauses=growing(0.02, longest=0.1), timeout=30)
        await told_to_end(daemon)
        await struck(node, deletion)
        for socket in (node.socket, node.grpc_socket):
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                await asyncio.open_unix_connection(socket)
        with pytest.raises(CaaError, match="closed"):
            await version(idle)
        assert not starting.done(), "its caller is told once it is undone"
        with pytest.raises(RpcError, match="the daemon is ending") as told:
            await starting
        assert told.value.code == Code.ABORTED
        assert await ended(daemon) == 0
    await node.nothing_is_left("web")


@contextlib.asynccontextmanager
async def start_that_hangs(node: "Node") -> AsyncIterator["asyncio.Task[None]"]:
    """A StartVM whose RunInstances has taken effect and is not answered."""
    async with made(node, "web") as shim:
        fault = Fault(action="RunInstances", when="after", delay=HANGS)
        node.cloud.faults.add(fault)
        starting = asyncio.create_task(shim.start_vm())
        await struck(node, fault)
        yield starting
        await asyncio.wait([starting])


async def test_a_slow_cloud_is_left_to_the_next_daemon(node: "Node") -> None:
    async with hasty_daemon(node) as daemon, start_that_hangs(node) as starting:
        await told_to_end(daemon)
        with pytest.raises(RpcError, match="the daemon is ending"):
            await starting
        assert await ended(daemon) == 0
        assert len(node.journal_rows()) == 1
    async with node.daemon():
        await node.nothing_is_left("web")
    assert node.ever_created == 1


async def test_a_second_signal_ends_it_sooner(node: "Node") -> None:
    async with node.daemon() as daemon, made(node, "web") as shim:
        await shim.start_vm()
        fault = Fault(action="DeleteInstance", code="OperationDenied", share=1.0)
        hanging = Fault(action="DeleteInstance", delay=3)
        node.cloud.faults.add(hanging)
        node.cloud.faults.add(fault)
        stopping = asyncio.create_task(shim.stop_vm())
        await struck(node, hanging)
        await told_to_end(daemon)
        daemon.process.send_signal(signal.SIGINT)
        assert await ended(daemon) == 0
        assert [each for each in daemon.events if each["event"].startswith("told to end again")]
        with contextlib.suppress(RpcError, OSError):
            await stopping
    node.cloud.faults.clear()
    assert len(node.journal_rows()) == 1
    async with node.daemon():
        await node.nothing_is_left("web")


async def test_before_it_serves(node: "Node") -> None:
    asked = Fault(delay=3)
    node.cloud.faults.add(asked)
    log = node.folder / "early.log"
    command = (*CAA, "alibabacloud", "--cloud-config-verify")
    async with Child.running(command, log, environ=node.environ, netns=node.worker.netns) as daemon:
        await struck(node, asked)
        daemon.process.send_signal(signal.SIGTERM)
        assert await ended(daemon) == 0
    assert "serving" not in [event["event"] for event in daemon.events]
    assert not node.socket.exists()
    assert node.journal_rows() == []


async def test_hanging_up_and_the_command_change_the_log_level(node: "Node") -> None:
    async with node.daemon() as daemon:

        async def changes(number: int) -> list[tuple[str, str]]:
            async def look() -> tuple[list[tuple[str, str]] | None, str]:
                told = [event for event in daemon.events if event["event"] == "log level changed"]
                found = [(event["to"], event["by"]) for event in told]
                return (found if len(found) >= number else None), str(found)

            return await poll(look, what="a change", pauses=growing(0.02, longest=0.1), timeout=10)

        daemon.process.send_signal(signal.SIGHUP)
        await changes(1)
        daemon.process.send_signal(signal.SIGHUP)
        await changes(2)
        state = str(node.folder / "state")
        command = (*CAA, "log-level", "error", "--state-dir", state)
        await asyncio.to_thread(subprocess.run, command, check=True)
        assert await changes(3) == [("debug", "SIGHUP"), ("info", "SIGHUP"), ("error", "an operator")]
    assert daemon.process.returncode == 0
    refused = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no daemon listens on" in refused.stderr


async def test_a_vm_whose_pod_was_given_up_meanwhile_is_taken_down(node: "Node") -> None:
    """Its shim lost the agent with the old daemon, and asked for the VM's end when nobody was there."""
    async with hasty_daemon(node), made(node, "left") as left, made(node, "stays") as stays:
        await left.start_vm()
        await stays.start_vm()
    await node.worker.remove_pod("left")
    async with hasty_daemon(node) as daemon:
        await daemon.event("a pod is gone, and its VM is taken down", 30)

        async def gone() -> tuple[bool | None, str]:
            return (node.journal_rows() == [stays.sandbox_id]) or None, str(node.journal_rows())

        await poll(gone, what="the VM to be taken down", pauses=growing(0.05, longest=0.3), timeout=30)
        await stays.stop_vm()
        await node.nothing_is_left("stays")
