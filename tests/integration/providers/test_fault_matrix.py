"""Whatever request fails, and whenever the daemon dies, nothing is left in the cloud.

One pod VM with all that it can have: a public address, a second interface, an EIP. First a life in which all
goes well tells the requests; then each of them, in a life of its own, is refused, lost before its effect or
after it, or is the last thing that its process does before it is killed, before the effect or after it. Then
the holding that was kept last is released, by another provider where the first one was killed.

A table of it all is printed at the end of the run.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caa.errors import CaaError
from caa.fakecloud import FakeCloudSettings, Fault, LocalCloud
from caa.providers.alibabacloud import AlibabaCloud

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakeProvider = Callable[..., AlibabaCloud]
MakePodVm = Callable[..., Any]
Until = Callable[[Callable[[], object], str], Awaitable[None]]

ENVIRON = {"USE_PUBLIC_IP": "true"}
REQUESTS = (
    # launch
    ("CreateNetworkInterface", 1),
    ("AllocateEipAddress", 1),
    ("RunInstances", 1),
    # finish
    ("DescribeInstanceAttribute", 1),
    ("DescribeEipAddresses", 1),
    ("AssociateEipAddress", 1),
    ("DescribeEipAddresses", 2),
    # release
    ("DeleteInstance", 1),
    ("DescribeEipAddresses", -1),
    ("UnassociateEipAddress", 1),
    ("ReleaseEipAddress", 1),
    ("DeleteNetworkInterface", 1),
)
HANGS = 1.0
"""Seconds for which a request hangs in which its process is killed."""


@dataclass(frozen=True)
class Ill:
    """What befalls a request."""

    faults: Mapping[str, Any]
    kills: bool = False


ILLS = {
    "refused": Ill({"code": "Forbidden.Whatever", "status": 403}),
    "lost before": Ill({"drop": "before"}),
    "lost after": Ill({"drop": "after"}),
    "error after": Ill({"code": "InternalError", "status": 500, "when": "after"}),
    "killed before": Ill({"drop": "before", "delay": HANGS}, kills=True),
    "killed after": Ill({"drop": "after", "delay": HANGS}, kills=True),
}


async def live(vm: Any) -> None:
    await vm.launch()
    await vm.finish()


@pytest.fixture
async def matrix_cloud(start_cloud: StartCloud) -> LocalCloud:
    return await start_cloud(credentials="keys")


async def test_the_requests_of_a_life(
    matrix_cloud: LocalCloud, make_provider: MakeProvider, pod_vm: MakePodVm, until: Until
) -> None:
    """The matrix has every request that there is."""
    vm = pod_vm(make_provider(matrix_cloud, **ENVIRON), second_interface=True)
    await live(vm)
    (instance,) = matrix_cloud.instances
    assert len(matrix_cloud.leftovers()) == 3
    await vm.release()
    await until(lambda: not matrix_cloud.leftovers(), "the cloud to be empty")
    called = Counter(call.action for call in matrix_cloud.calls)
    # The published policy refuses one, for which no fault need be made.
    assert called.keys() == {action for action, _ in REQUESTS} | {"DescribeInstances"}
    once = ("RunInstances", "CreateNetworkInterface", "AllocateEipAddress", "AssociateEipAddress")
    assert all(called[action] == 1 for action in once)
    assert instance.id not in matrix_cloud.leftovers()


@pytest.mark.parametrize(("action", "nth"), REQUESTS, ids=[f"{action}-{nth}" for action, nth in REQUESTS])
async def test_nothing_is_left(
    tmp_path: Path,
    make_provider: MakeProvider,
    pod_vm: MakePodVm,
    until: Until,
    record_property: Callable[[str, object], None],
    action: str,
    nth: int,
) -> None:
    async def befall(name: str, ill: Ill) -> None:
        settings = FakeCloudSettings(dir=tmp_path / name.replace(" ", "-"), credentials="keys")
        async with LocalCloud(settings) as cloud:
            vm = pod_vm(make_provider(cloud, **ENVIRON), second_interface=True)
            if nth < 0:
                await live(vm)
            fault = Fault(action=action, nth=abs(nth), **ill.faults)
            cloud.faults.add(fault)
            life = asyncio.create_task(live_and_release(vm, already=nth < 0))
            if ill.kills:
                await until(lambda: fault not in list(cloud.faults), "the request")
                holding = vm.holding  # of what is killed nothing comes after
                life.cancel()
                vm = pod_vm(make_provider(cloud, **ENVIRON), second_interface=True)
                vm.holding = holding
            await asyncio.wait([life])
            assert fault not in list(cloud.faults), f"{name}: it should have struck"
            try:
                await vm.release()
            except CaaError:  # the refusal was for the release, and now is over
                await vm.release()
            await until(lambda: not cloud.leftovers(), f"{name}: the cloud to be empty")
            told[name] = str(len(cloud.leftovers()))

    told: dict[str, str] = {}
    async with asyncio.TaskGroup() as side_by_side:
        for name, ill in ILLS.items():
            side_by_side.create_task(befall(name, ill))
    times = {1: "", 2: ", second", -1: ", at release"}
    rows = {f"{action}{times[nth]}": {name: told[name] for name in ILLS}}
    record_property("left in the cloud, by request and what befell it", rows)


async def live_and_release(vm: Any, *, already: bool) -> None:
    with contextlib.suppress(CaaError):  # of what was refused, the test releases the rest
        if not already:
            await live(vm)
        await vm.release()
