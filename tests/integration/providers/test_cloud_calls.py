"""How many calls the cloud gets, and that many pods at once get their VMs under its limits.

Times are a tenth of real ones: the cloud's, and those that the provider begins with.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from caa.config import load
from caa.fakecloud import LocalCloud, Timings, parse_limits
from caa.providers import SANDBOX, CloudCall
from caa.providers.alibabacloud import AlibabaCloud
from caa.providers.alibabacloud.watch import Experience

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakePodVm = Callable[..., Any]
NothingLeft = Callable[[LocalCloud], Awaitable[None]]

# A VM runs after 20 s. It is not deleted before that, which would be refused at first.
TIMINGS = replace(Timings().slower(7), initializing=0.0, deleting=0.1)
LISTS = "ecs:DescribeInstances"


class Node:
    """A worker's provider, and the calls that it made."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.calls: list[CloudCall] = []
        self.provider = AlibabaCloud(
            load({}, dict(cloud.environment)).alibabacloud, node="worker-1", on_call=self.calls.append
        )

    def outcomes(self, action: str) -> Counter[str]:
        return Counter(call.outcome for call in self.calls if call.action == action)

    def describes(self) -> int:
        return sum(call.action.startswith("Describe") for call in self.calls)

    async def live(self, pod_vm: MakePodVm, number: int) -> Any:
        """A pod's VM, from its order to its address."""
        SANDBOX.set(f"sandbox-{number}")
        vm = pod_vm(self.provider, sandbox_id=f"{number:064}", client_token=f"token-{number}")
        await vm.launch()
        assert await vm.finish()
        return vm


@pytest.fixture(autouse=True)
def _a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "SHORTEST", "LONGEST"):
        monkeypatch.setattr(Experience, name, getattr(Experience, name) / 10)


@pytest.fixture
async def start_node() -> AsyncIterator[Callable[[LocalCloud], Node]]:
    nodes: list[Node] = []

    def start(cloud: LocalCloud) -> Node:
        nodes.append(Node(cloud))
        return nodes[-1]

    yield start
    for node in nodes:
        await node.provider.close()


StartNode = Callable[[LocalCloud], Node]


@pytest.mark.parametrize("allow", [(), (LISTS,)], ids=["published", "with lists"])
async def test_a_plain_pod_takes_few_calls(
    start_cloud: StartCloud,
    start_node: StartNode,
    pod_vm: MakePodVm,
    nothing_left: NothingLeft,
    allow: tuple[str, ...],
) -> None:
    cloud = await start_cloud(credentials="keys", allow=allow, timings=TIMINGS)
    node = start_node(cloud)
    for number in range(4):
        node.calls.clear()
        vm = await node.live(pod_vm, number)
        await vm.release()
        assert node.outcomes("RunInstances") == {"ok": 1}
        assert node.outcomes("DeleteInstance") == {"ok": 1}
        assert node.describes() <= 6
        assert len(node.calls) == 2 + node.describes()
    await nothing_left(cloud)


async def test_what_the_provider_reports_is_what_the_cloud_got(
    start_cloud: StartCloud, start_node: StartNode, pod_vm: MakePodVm
) -> None:
    cloud = await start_cloud(credentials="keys", allow=(LISTS,))
    node = start_node(cloud)
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(node.live(pod_vm, number))
    got = {(call.action, call.outcome, call.request_id) for call in cloud.calls}
    assert {(call.action, call.outcome, call.request_id) for call in node.calls} == got
    by_action = {
        action: {call.sandbox for call in node.calls if call.action == action}
        for action in ("RunInstances", "DescribeInstances")
    }
    assert by_action == {
        "RunInstances": {f"sandbox-{number}" for number in range(5)},
        "DescribeInstances": {""},
    }


async def test_a_list_serves_many_pods(
    start_cloud: StartCloud, start_node: StartNode, pod_vm: MakePodVm
) -> None:
    cloud = await start_cloud(credentials="keys", allow=(LISTS,), timings=TIMINGS)
    node = start_node(cloud)
    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(node.live(pod_vm, number))
    assert node.outcomes("DescribeInstances").total() <= 15


@pytest.mark.parametrize("allow", [(), (LISTS,)], ids=["published", "with lists"])
async def test_two_hundred_at_once_get_their_vms_under_limits(
    start_cloud: StartCloud,
    start_node: StartNode,
    pod_vm: MakePodVm,
    allow: tuple[str, ...],
) -> None:
    limits = parse_limits(["RunInstances=40/1s", "*=60/1s"])
    cloud = await start_cloud(credentials="keys", allow=allow, timings=TIMINGS, limits=limits)
    node = start_node(cloud)
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(node.live(pod_vm, number))
    assert len(list(cloud.instances)) == 200

    creates = node.outcomes("RunInstances")
    assert creates["ok"] == 200
    assert set(creates) <= {"ok", "Throttling.User"}
    assert creates["Throttling.User"] <= 50
    refused = Counter(call.sandbox for call in node.calls if call.outcome == "Throttling.User")
    assert max(refused.values(), default=0) <= 8
    assert sum(call.outcome == "Throttling.User" for call in node.calls) < 0.2 * len(node.calls)
    # Whoever asked first got through first, but for those that were under way beside it.
    through = [call.sandbox for call in node.calls if (call.action, call.outcome) == ("RunInstances", "ok")]
    assert max(abs(rank - int(name.removeprefix("sandbox-"))) for rank, name in enumerate(through)) < 40
