"""The daemon is killed at every step of a sandbox's life; its successor loses nothing and leaves nothing."""

import asyncio
import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from caa.errors import CaaError
from caa.fakecloud import Fault
from caa.polling import growing, poll
from caa.proto import agent_pb2 as agent
from caa.sandbox import Step

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

HALF_MADE = [
    step
    for step in Step
    if step < Step.CREATE_RECORDED or Step.LAUNCH_INTENDED <= step < Step.RUNNING_RECORDED
]
HALF_GONE = [step for step in Step if step >= Step.STOP_INTENDED]


async def live_until_killed(node: "Node", step: Step, pod: str) -> str:
    """A pod's life with a daemon that dies at `step`; the sandbox's id."""
    netns, _ = await node.worker.add_pod(pod)
    shim = node.shim()
    async with node.mortal_daemon(step) as daemon, shim:
        with contextlib.suppress(CaaError, OSError):
            await shim.create_vm(pod=pod, namespace="default", netns=netns)
            await shim.start_vm()
            await shim.stop_vm()
        assert await daemon.process.wait() == -9, f"it should have died at {step.name}"
        assert daemon.events[-1].get("number") == step
    return shim.sandbox_id


@pytest.mark.parametrize("step", HALF_MADE, ids=lambda step: f"{step:02}-{step.name.lower()}")
async def test_what_was_half_made_is_undone(node: "Node", step: Step) -> None:
    sandbox = await live_until_killed(node, step, "web")
    async with node.daemon():
        await node.nothing_is_left("web")
        # The shim's own cleaning up, and a new life under the same id.
        shim = node.shim()
        shim.sandbox_id = sandbox
        await shim.stop_vm()
        await shim.create_vm(pod="web", namespace="default", netns=node.worker.netns_of("web"))
        await shim.stop_vm()
    assert node.ever_created <= 1


async def test_a_created_one_waits_for_its_start(node: "Node") -> None:
    sandbox = await live_until_killed(node, Step.CREATE_RECORDED, "web")
    async with node.daemon(), node.shim() as shim:
        shim.sandbox_id = sandbox
        shim.use_agent_socket(node.pods_dir / sandbox / "agent.ttrpc")
        await shim.start_vm()
        await shim.create_sandbox()
        await shim.stop_vm()
        await node.nothing_is_left("web")


async def test_a_running_one_goes_on(node: "Node") -> None:
    sandbox = await live_until_killed(node, Step.RUNNING_RECORDED, "web")
    async with node.daemon(), node.shim() as shim, node.shim() as other:
        shim.sandbox_id = sandbox
        shim.use_agent_socket(node.pods_dir / sandbox / "agent.ttrpc")
        before = list(node.instance_ids)
        await shim.start_vm()  # running: OK at once, and its agent is reached
        checked = await shim.agent.call(
            "grpc.Health", "Check", agent.CheckRequest(), agent.HealthCheckResponse, timeout=30
        )
        assert checked.status == agent.HealthCheckResponse.SERVING
        await node.worker.ping(node.worker.address_of("web"), timeout=10)
        assert node.instance_ids == before

        netns, _ = await node.worker.add_pod("other")
        await other.create_vm(pod="other", namespace="default", netns=netns)
        vnis = [
            json.loads((node.pods_dir / each / "apf.json").read_text())["pod-network"]["vxlan-id"]
            for each in (sandbox, other.sandbox_id)
        ]
        assert vnis[0] != vnis[1], "the VNI of the one that runs stays taken"
        await other.stop_vm()
        await shim.stop_vm()
        await node.nothing_is_left("web")


@pytest.mark.parametrize("step", HALF_GONE, ids=lambda step: f"{step:02}-{step.name.lower()}")
async def test_what_was_half_gone_is_finished(node: "Node", step: Step) -> None:
    await live_until_killed(node, step, "web")
    async with node.daemon():
        await node.nothing_is_left("web")


async def test_one_from_before_the_nodes_last_boot_is_removed(node: "Node") -> None:
    """Its pod ended with the node, and no shim will ever ask for its end."""
    await live_until_killed(node, Step.RUNNING_RECORDED, "web")
    with contextlib.closing(sqlite3.connect(node.journal, isolation_level=None)) as journal:
        journal.execute("UPDATE sandboxes SET record = json_set(record, '$.boot_id', 'another')")
    async with node.daemon():
        await node.nothing_is_left("web")


async def test_an_instance_whose_answer_was_lost_is_found_and_deleted(node: "Node") -> None:
    """RunInstances took effect, its answer was not seen: only the client token is known."""
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon() as daemon, node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        node.cloud.faults.add(Fault(action="RunInstances", when="after", delay=60))
        start = asyncio.create_task(shim.start_vm())

        async def took_effect() -> tuple[bool | None, str]:
            return bool(node.instance_ids) or None, "no instance"

        await poll(took_effect, what="RunInstances to take effect", pauses=growing(0.02), timeout=30)
        daemon.process.kill()
        with pytest.raises(CaaError):
            await start
        assert len(node.instance_ids) == 1
    async with node.daemon():
        await node.nothing_is_left("web")
    assert node.ever_created == 1
