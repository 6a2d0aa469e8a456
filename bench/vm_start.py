"""Where does the time of CreateVM and StartVM go: for one pod, and for twenty at once?

The real daemon on the local cloud, whose machines boot as network namespaces on this computer: the boot's
share says more about the computer than about a cloud, the daemon's own share is what is to be looked at.
Prints a table, writes out/vm_start.json and the picture out/vm_start.png. Needs root.

Run: python bench/vm_start.py
"""

import asyncio
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from caa import logs
from caa.demo import Child, Shim, Span, Stage, start_spans

mpl.use("Agg")
import matplotlib.pyplot as plt  # the backend has to be chosen before

OUT = Path(__file__).parent / "out"
ROUNDS = {1: 10, 20: 3}
"""Pods at once, and how often that is measured."""

WHOLE = "CreateVM + StartVM"


async def measure(stage: Stage, daemon: Child, count: int) -> list[list[Span]]:
    """The spans of `count` pods whose shims call at once."""
    shims = [stage.shim() for _ in range(count)]
    pods = [(f"p{number}", (await stage.worker.add_pod(f"p{number}"))[0]) for number in range(count)]

    async def live(shim: Shim, name: str, netns: Path) -> None:
        await shim.create_vm(pod=name, namespace="bench", netns=netns)
        await shim.start_vm()

    await asyncio.gather(*(live(shim, *pod) for shim, pod in zip(shims, pods, strict=True)))
    spans = [start_spans(daemon.events, shim.sandbox_id) for shim in shims]
    await asyncio.gather(*(shim.stop_vm() for shim in shims))
    for name, _ in pods:
        await stage.worker.remove_pod(name)
    return spans


async def run(folder: Path) -> dict[int, list[list[Span]]]:
    async with Stage.up(f"caa-bench-{os.getpid()}", folder) as stage, stage.daemon() as daemon:
        await measure(
            stage, daemon, 1
        )  # connections, imports and caches are as in a daemon that has run for a while
        return {
            count: [spans for _ in range(rounds) for spans in await measure(stage, daemon, count)]
            for count, rounds in ROUNDS.items()
        }


def milliseconds(pods: list[list[Span]]) -> dict[str, list[float]]:
    """Of each step, what it took each pod; the steps in their order."""
    steps = {
        span.what: [(pod[index].ended - pod[index].began) * 1000 for pod in pods]
        for index, span in enumerate(pods[0])
    }
    steps[WHOLE] = [(max(s.ended for s in pod) - pod[0].began) * 1000 for pod in pods]
    return steps


def tabulate(results: dict[int, dict[str, list[float]]]) -> Table:
    table = Table(title="CreateVM + StartVM on the local cloud, in ms", title_justify="left")
    table.add_column("step")
    for count in results:
        table.add_column(f"{count} at once\nmedian", justify="right")
        table.add_column("slowest", justify="right")
    for step in results[1]:
        cells = [f"{of(result[step]):.1f}" for result in results.values() for of in (statistics.median, max)]
        table.add_row(step, *cells, style="bold" if step == WHOLE else None)
    return table


def draw(pods: dict[int, list[list[Span]]], path: Path) -> None:
    """A pod of median length for each count, its steps as bars on one axis of time."""
    figure, axes = plt.subplots(len(pods), 1, figsize=(9, 3 * len(pods)), layout="constrained")
    for axis, (count, all_spans) in zip(axes, pods.items(), strict=True):
        by_length = sorted(all_spans, key=lambda spans: max(s.ended for s in spans) - spans[0].began)
        spans = by_length[len(by_length) // 2]
        began = spans[0].began
        axis.barh(
            [span.what for span in spans],
            [(span.ended - span.began) * 1000 for span in spans],
            left=[(span.began - began) * 1000 for span in spans],
            color="#0969da",
        )
        axis.invert_yaxis()
        axis.set_title(f"{count} at once: the median pod", loc="left")
        axis.set_xlabel("ms since CreateVM")
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    figure.savefig(path, dpi=110)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "cloud.log").open("w") as log:
        logs.configure("warning", "json", log)
        pods = asyncio.run(run(Path(folder)))
    results = {count: milliseconds(spans) for count, spans in pods.items()}
    Console().print(tabulate(results))
    report = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "milliseconds": {str(count): result for count, result in results.items()},
    }
    (OUT / "vm_start.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(pods, OUT / "vm_start.png")


if __name__ == "__main__":
    main()
