"""How fast do pods get their VMs under the cloud's limits: 1 to 200 at once?

The provider, with its shared budget of calls, against a naive client: each of its calls backs off by itself
(exponentially, with jitter, up to 20 s), and asks for the address once a second. Each has a local cloud of
its own, and they run at the same time, so that the minutes by which the cloud counts begin for both alike.
Twice: with limits by the second, and with those of the preset `real`, by the minute (partly assumed). Prints
a table, writes out/creates_under_limits.json and the picture out/creates_under_limits.png. Takes two to four
minutes.

Run: python bench/creates_under_limits.py
"""

import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from caa import logs
from caa.config import load
from caa.fakecloud import FakeCloudSettings, LocalCloud, Timings, parse_limits
from caa.polling import growing
from caa.providers import SANDBOX, CloudCall, Holding, VmOrder
from caa.providers.alibabacloud import AlibabaCloud
from caa.providers.alibabacloud.budget import Budget, Turn
from caa.providers.alibabacloud.client import ECS, Client
from caa.providers.alibabacloud.credentials import credentials_for
from caa.providers.alibabacloud.errors import ApiError, Kind

mpl.use("Agg")
import matplotlib.pyplot as plt  # the backend has to be chosen before

OUT = Path(__file__).parent / "out"
COUNTS = (1, 10, 50, 100, 200)
LIMITS = {
    "by the second: RunInstances=10/1s": ["*=30/1s", "RunInstances=10/1s"],
    "by the minute (preset real): RunInstances=100/60s": ["real"],
}
TIMINGS = Timings().slower(20)
"""An address is there after 2 s."""
CLIENTS = ("budget", "naive")

Start = Callable[[int], Awaitable[None]]
"""Get one VM with an address."""


@dataclass(frozen=True)
class Result:
    longest: float
    """Wait of a pod for its VM in seconds, which is when all were done."""
    median: float
    creates_per_minute: float
    calls_per_pod: float
    throttled_percent: float
    """Of all calls."""
    most_refusals: int
    """Of one pod's RunInstances."""


class NoBudget(Budget):
    """Each call has a budget of its own."""

    async def turn(self, action: str, sandbox: str, *, at_once: int) -> Turn:
        return await Budget().turn(action, sandbox, at_once=at_once)


def with_budget(cloud: LocalCloud, calls: list[CloudCall], stack: AsyncExitStack) -> Start:
    provider = AlibabaCloud(
        load({}, dict(cloud.environment)).alibabacloud, node="bench", on_call=calls.append
    )
    stack.push_async_callback(provider.close)

    async def start(number: int) -> None:
        holding: Holding = provider.plan(
            VmOrder(
                sandbox_id=f"{number:064x}",
                pod_name=f"pod-{number}",
                pod_namespace="bench",
                name=f"podvm-bench-{number}",
                user_data=b"#cloud-config\n",
                client_token=f"bench-{number}",
            )
        )

        async def keep(changed: Holding) -> None:
            nonlocal holding
            holding = changed

        await provider.launch(holding, keep)
        await provider.addresses(holding, keep)

    return start


class Naive:
    """As simple as a client can be."""

    def __init__(self, cloud: LocalCloud, calls: list[CloudCall], stack: AsyncExitStack) -> None:
        self._settings = settings = load({}, dict(cloud.environment)).alibabacloud
        credentials = credentials_for(settings)
        self._ecs = Client(
            ECS,
            endpoint=settings.ecs_endpoint,
            region=settings.region,
            ca_file="",
            credentials=credentials,
            budget=NoBudget(),
            on_call=calls.append,
        )
        stack.push_async_callback(credentials.close)
        stack.push_async_callback(self._ecs.close)

    async def start(self, number: int) -> None:
        request = {
            "RegionId": self._settings.region,
            "ImageId": self._settings.image_id,
            "InstanceType": self._settings.instance_type,
            "SecurityGroupId": self._settings.security_group_ids[0],
            "VSwitchId": self._settings.vswitch_ids[0],
            "ClientToken": f"bench-{number}",
        }
        answer = await self._call("RunInstances", request)
        (instance_id,) = answer["InstanceIdSets"]["InstanceIdSet"]
        while not await self._has_address(instance_id):
            await asyncio.sleep(1)

    async def _has_address(self, instance_id: str) -> bool:
        try:
            instance = await self._call("DescribeInstanceAttribute", {"InstanceId": instance_id})
        except ApiError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return False
        return bool(instance["VpcAttributes"]["PrivateIpAddress"]["IpAddress"])

    async def _call(self, action: str, request: Mapping[str, Any]) -> dict[str, Any]:
        for longest in growing(1.0, 2.0, 20.0):
            try:
                return await self._ecs.call(action, request)
            except ApiError as error:
                if error.kind is not Kind.THROTTLED:
                    raise
            await asyncio.sleep(random.uniform(0, longest))
        raise AssertionError


async def measure(client: str, limits: list[str], count: int, folder: Path) -> Result:
    settings = FakeCloudSettings(dir=folder, credentials="keys", timings=TIMINGS, limits=parse_limits(limits))
    calls: list[CloudCall] = []
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(LocalCloud(settings))
        start = with_budget(cloud, calls, stack) if client == "budget" else Naive(cloud, calls, stack).start
        began = time.monotonic()

        async def one(number: int) -> float:
            SANDBOX.set(str(number))
            await start(number)
            return time.monotonic() - began

        waits = await asyncio.gather(*(one(number) for number in range(count)))
    refused = [call for call in calls if call.outcome.startswith("Throttling")]
    creates = Counter(call.sandbox for call in refused if call.action == "RunInstances")
    return Result(
        longest=max(waits),
        median=statistics.median(waits),
        creates_per_minute=60 * count / max(waits),
        calls_per_pod=len(calls) / count,
        throttled_percent=100 * len(refused) / len(calls),
        most_refusals=max(creates.values(), default=0),
    )


Results = dict[str, dict[int, dict[str, Result]]]
"""By limits, pods at once and client."""


async def run(folder: Path) -> Results:
    async def compare(name: str, limits: list[str], count: int) -> dict[str, Result]:
        if count == COUNTS[-1]:
            # From the beginning of one of the limit's windows, or each run would tell another story.
            await asyncio.sleep(-time.time() % parse_limits(limits)["RunInstances"].seconds)
        async with asyncio.TaskGroup() as group:
            tasks = {
                client: group.create_task(
                    measure(client, limits, count, folder / f"{len(name)}-{count}-{client}")
                )
                for client in CLIENTS
            }
        return {client: task.result() for client, task in tasks.items()}

    return {
        name: {count: await compare(name, limits, count) for count in COUNTS}
        for name, limits in LIMITS.items()
    }


def tabulate(name: str, by_count: Mapping[int, Mapping[str, Result]]) -> Table:
    table = Table(title=f"Limits {name}", title_justify="left")
    for column in ("pods\nat once", "client"):
        table.add_column(column)
    for column in (
        "all done\nafter s",
        "median\nwait s",
        "VMs a\nminute",
        "calls\na pod",
        "refused\n%",
        "most for\none pod",
    ):
        table.add_column(column, justify="right")
    for count, results in by_count.items():
        for client, result in results.items():
            table.add_row(
                str(count) if client == CLIENTS[0] else "",
                client,
                f"{result.longest:.1f}",
                f"{result.median:.1f}",
                f"{result.creates_per_minute:.0f}",
                f"{result.calls_per_pod:.1f}",
                f"{result.throttled_percent:.0f}",
                str(result.most_refusals),
                end_section=client == CLIENTS[-1],
            )
    return table


def draw(results: Results, path: Path) -> None:
    """A row of panels for each kind of limit, a line in each for each client."""
    panels: dict[str, Callable[[Result], float]] = {
        "longest wait, s": lambda result: result.longest,
        "throttled per 100 calls": lambda result: result.throttled_percent,
        "calls per pod": lambda result: result.calls_per_pod,
    }
    figure, axes = plt.subplots(len(results), len(panels), figsize=(13, 8), layout="constrained")
    for row, (name, by_count) in zip(axes, results.items(), strict=True):
        for axis, (title, value) in zip(row, panels.items(), strict=True):
            for client, colour in zip(CLIENTS, ("#0969da", "#bf8700"), strict=True):
                values = [value(by_count[count][client]) for count in COUNTS]
                axis.plot(COUNTS, values, marker="o", label=client, color=colour)
            axis.set_title(f"{title}\n{name}", loc="left", fontsize=10)
            axis.set_xlabel("pods at once")
            axis.set_xscale("log")
            axis.set_xticks(COUNTS, [str(count) for count in COUNTS])
            axis.minorticks_off()
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
            axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        logs.configure("error", "json", log)
        results = asyncio.run(run(Path(folder)))
    for name, by_count in results.items():
        Console().print(tabulate(name, by_count))
    ratios = {
        name: {
            field: ours / theirs
            for (field, ours), theirs in zip(
                asdict(by_count[COUNTS[-1]]["budget"]).items(),
                asdict(by_count[COUNTS[-1]]["naive"]).values(),
                strict=True,
            )
            if theirs
        }
        for name, by_count in results.items()
    }
    for name, by_field in ratios.items():
        Console().print(f"{COUNTS[-1]} at once, budget : naive; limits {name}")
        for field, ratio in by_field.items():
            Console().print(f"  {field:20} {ratio:.2f}")
    report = {
        "python": platform.python_version(),
        "limits": {
            name: {
                count: {client: asdict(result) for client, result in clients.items()}
                for count, clients in by_count.items()
            }
            for name, by_count in results.items()
        },
        f"budget_to_naive_{COUNTS[-1]}_at_once": ratios,
    }
    (OUT / "creates_under_limits.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(results, OUT / "creates_under_limits.png")


if __name__ == "__main__":
    main()
