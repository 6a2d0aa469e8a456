"""The daemon is killed while a request of each kind is under way, before its effect and after it.

One pod for each request: all of them hang when the daemon dies, and its successor finds all that they made.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from caa.demo import Child, Shim
from caa.errors import CaaError
from caa.fakecloud import Fault
from caa.polling import growing, poll

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

LAUNCH = (
    "CreateNetworkInterface",
    "AllocateEipAddress",
    "RunInstances",
    "DescribeInstanceAttribute",
    "AssociateEipAddress",
    "DescribeEipAddresses",
)
RELEASE = (
    "DeleteInstance",
    "UnassociateEipAddress",
    "DescribeEipAddresses",
    "ReleaseEipAddress",
    "DeleteNetworkInterface",
)
HANGS = 60.0
"""Seconds; longer than the daemon lives."""


class Hanging:
    """Has the next request of a kind hang, whoever makes it."""

    def __init__(self, node: "Node", when: str) -> None:
        self._faults = node.cloud.faults
        self._when = when
        self._calls: list[asyncio.Task[None]] = []

    async def at(self, action: str, call: asyncio.Task[None]) -> None:
        """Returns when a request of this kind hangs, which `call` brings about."""
        self._calls.append(call)
        fault = Fault.model_validate({"action": action, "delay": HANGS, "drop": self._when})
        self._faults.add(fault)

        async def struck() -> tuple[bool | None, str]:
            return (fault not in list(self._faults)) or None, "none came"

        await poll(struck, what=f"{action} to hang", pauses=growing(0.02, longest=0.1), timeout=30)

    async def until_killed(self, daemon: Child) -> None:
        daemon.process.kill()
        await asyncio.wait(self._calls)
        self._faults.clear()


async def make(node: "Node", pod: str) -> Shim:
    netns, _ = await node.worker.add_pod(pod)
    shim = node.shim()
    await shim.create_vm(pod=pod, namespace="default", netns=netns)
    return shim


async def quietly(call: asyncio.Future[None] | asyncio.Task[None]) -> None:
    with contextlib.suppress(CaaError, OSError):
        await call


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("actions", [LAUNCH, RELEASE], ids=["launch", "release"])
async def test_nothing_is_left(node: "Node", actions: tuple[str, ...], when: str) -> None:
    flags = ("--use-public-ip", "--ext-network-via-podvm")
    hanging = Hanging(node, when)
    async with node.daemon_with(*flags) as daemon:
        starts: dict[str, tuple[Shim, asyncio.Task[None]]] = {}
        for action in actions:
            shim = await make(node, action.lower())
            start = asyncio.create_task(quietly(asyncio.ensure_future(shim.start_vm())))
            starts[action] = shim, start
            if actions is LAUNCH:
                await hanging.at(action, start)
        if actions is RELEASE:

            async def bound() -> tuple[bool | None, str]:
                eips = [eip.status.value for eip in node.cloud.eips]
                return (eips == ["InUse"] * len(actions)) or None, str(eips)

            await poll(bound, what="all EIPs to be bound", pauses=growing(0.05, longest=0.3), timeout=30)
            for action, (shim, _) in starts.items():
                stop = asyncio.create_task(quietly(asyncio.ensure_future(shim.stop_vm())))
                await hanging.at(action, stop)
        assert len(node.cloud.leftovers()) > 0
        await hanging.until_killed(daemon)
        for shim, start in starts.values():
            await start
            await shim.close()
    async with node.daemon_with(*flags):
        await node.nothing_is_left(actions[0].lower())
    assert node.ever_created <= len(actions)
