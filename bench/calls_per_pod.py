"""How many API calls does a pod take, from its order until nothing is left of it?

Each kind of pod, with the rights of the published policy and with the one to DescribeInstances too, has a
provider and a local cloud of its own, in which a VM runs after 20 seconds. It starts as a fresh daemon that
knows nothing: first one pod, then one more, then 5, 20 and 100 at once. Prints a table, writes
out/calls_per_pod.json and the picture out/calls_per_pod.png. Takes two and a half minutes.

Run: python bench/calls_per_pod.py
"""

import asyncio
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from caa import logs
from caa.config import load
from caa.fakecloud import FakeCloudSettings, LocalCloud, Timings
from caa.providers import SANDBOX, CloudCall, Holding, VmOrder
from caa.providers.alibabacloud import AlibabaCloud

mpl.use("Agg")
import matplotlib.pyplot as plt  # the backend has to be chosen before
from matplotlib.patches import Patch

OUT = Path(__file__).parent / "out"
RUNNING = 20.0
"""Seconds until a VM runs."""
TIMINGS = replace(
    Timings().slower(10),  # an address or interface changes its state within a second: an assumption
    **{
        name: getattr(Timings(), name) * RUNNING / Timings().running_after
        for name in ("visible_after", "address_after", "starting_after", "running_after", "initializing")
    },
)
LIFE = 15.0
"""Seconds that a pod lives once it has its addresses: its VM runs when it is deleted."""
BATCHES = ("first", "1", "5", "20", "100")
"""Pods at once; the first one ever."""


@dataclass(frozen=True)
class Case:
    environ: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "plain": Case(),
    "second interface": Case(order={"second_interface": True}),
    "second interface, public address": Case({"USE_PUBLIC_IP": "true"}, {"second_interface": True}),
}
RIGHTS = {"published": (), "and DescribeInstances": ("ecs:DescribeInstances",)}

Row = tuple[str, str]
Calls = Mapping[str, float]
"""Of each action, the calls per pod."""


async def live(provider: AlibabaCloud, case: Case, number: int) -> None:
    holding: Holding = provider.plan(
        VmOrder(
            sandbox_id=f"{number:064x}",
            pod_name=f"pod-{number}",
            pod_namespace="bench",
            name=f"podvm-bench-{number}",
            user_data=b"#cloud-config\n",
            client_token=f"bench-{number}",
            **case.order,
        )
    )

    async def keep(changed: Holding) -> None:
        nonlocal holding
        holding = changed

    SANDBOX.set(f"{number:064x}")
    await provider.launch(holding, keep)
    await provider.addresses(holding, keep)
    await provider.complete(holding)
    await asyncio.sleep(LIFE)
    await provider.release(holding, keep)


async def measure(case: Case, allow: tuple[str, ...], folder: Path) -> dict[str, Calls]:
    settings = FakeCloudSettings(
        dir=folder,
        credentials="keys",
        allow=allow,
        timings=TIMINGS,
        eni_quota=1000,
        eip_quota=1000,
    )
    results: dict[str, Calls] = {}
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(LocalCloud(settings))
        calls: list[CloudCall] = []
        provider = AlibabaCloud(
            load({}, dict(cloud.environment) | dict(case.environ)).alibabacloud,
            node="bench",
            on_call=calls.append,
        )
        stack.push_async_callback(provider.close)
        number = 0
        for batch in BATCHES:
            count = 1 if batch == "first" else int(batch)
            calls.clear()
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    number += 1
                    group.create_task(live(provider, case, number))
            by_action = Counter(call.action for call in calls)
            results[batch] = {action: of / count for action, of in sorted(by_action.items())}
    return results


async def run(folder: Path) -> dict[Row, dict[str, Calls]]:
    rows = [(case, rights) for case in CASES for rights in RIGHTS]
    async with asyncio.TaskGroup() as group:
        tasks = {
            row: group.create_task(measure(CASES[row[0]], RIGHTS[row[1]], folder / str(number)))
            for number, row in enumerate(rows)
        }
    return {row: task.result() for row, task in tasks.items()}


def tabulate(case: str, rights: str, results: Mapping[str, Calls]) -> Table:
    table = Table(title=f"Calls per pod: {case}; rights: {rights}", title_justify="left")
    table.add_column("pods at once")
    for batch in BATCHES:
        table.add_column(batch, justify="right")
    for action in sorted({action for calls in results.values() for action in calls}):
        table.add_row(action, *(f"{results[batch].get(action, 0):.2f}" for batch in BATCHES))
    table.add_row("all", *(f"{sum(results[batch].values()):.2f}" for batch in BATCHES), style="bold")
    return table


def draw(results: Mapping[Row, Mapping[str, Calls]], path: Path) -> None:
    """For each kind of pod a panel of stacked bars, those of both rights side by side."""
    actions = sorted({action for row in results.values() for calls in row.values() for action in calls})
    colours = dict(zip(actions, mpl.color_sequences["tab20"], strict=False))
    figure, axes = plt.subplots(1, len(CASES), figsize=(14, 6), sharey=True, layout="constrained")
    for axis, case in zip(axes, CASES, strict=True):
        for side, rights in enumerate(RIGHTS):
            for place, batch in enumerate(BATCHES):
                bottom = 0.0
                for action, count in results[case, rights][batch].items():
                    axis.bar(place + 0.42 * side - 0.21, count, 0.38, bottom=bottom, color=colours[action])
                    bottom += count
                axis.text(
                    place + 0.42 * side - 0.21,
                    bottom + 0.15,
                    "policy" if side == 0 else "+ lists",
                    ha="center",
                    va="bottom",
                    rotation=90,
                    fontsize=8,
                )
        axis.set_title(case, loc="left")
        axis.set_xticks(range(len(BATCHES)), BATCHES)
        axis.set_xlabel("pods at once")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("calls per pod")
    axes[0].margins(y=0.15)
    handles = [Patch(color=colours[action]) for action in actions]
    figure.legend(handles, actions, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        logs.configure("warning", "json", log)
        results = asyncio.run(run(Path(folder)))
    for (case, rights), row in results.items():
        Console().print(tabulate(case, rights, row))
    report = {
        "python": platform.python_version(),
        "vm_runs_after_seconds": RUNNING,
        "calls_per_pod": [
            {"pod": case, "rights": rights, "pods_at_once": row} for (case, rights), row in results.items()
        ],
    }
    (OUT / "calls_per_pod.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(results, OUT / "calls_per_pod.png")


if __name__ == "__main__":
    main()
