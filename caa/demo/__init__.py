"""`caa demo`: one pod's life from end to end on one machine, with the local cloud.

`worker_node` and `shim` play what surrounds the daemon on a node, `child` runs it, and `stage` puts these
together with the local cloud; tests and benchmarks use them too. `story` is the demo, `report` what it shows.
"""

import asyncio
import os
import signal

from caa.demo.child import CAA, Child
from caa.demo.report import Report, Span, start_spans, timeline
from caa.demo.shim import Shim
from caa.demo.stage import Stage
from caa.demo.worker_node import WorkerNode
from caa.errors import FailedPreconditionError

__all__ = ["CAA", "Child", "Shim", "Span", "Stage", "WorkerNode", "run_demo", "start_spans", "timeline"]


def run_demo(*, keep: bool) -> int:
    """Run the demo; its exit status: 0 if everything held, 1 if not, 130 after a Ctrl-C.

    Raises FailedPreconditionError without root.
    """
    from caa.demo.story import Demo  # noqa: PLC0415  the story imports this package

    if os.geteuid() != 0:
        raise FailedPreconditionError("the demo makes network namespaces and needs root: sudo caa demo")
    report = Report()

    async def supervised() -> int:
        story = asyncio.create_task(Demo(report, keep=keep).run())

        def interrupted() -> None:
            if not story.cancelling():  # a second Ctrl-C must not cut the cleaning up short
                report.console.print("[yellow]cleaning up; this takes a few seconds[/yellow]")
                story.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupted)
        await asyncio.wait([story])
        if story.cancelled():
            report.console.print("stopped, and everything was removed")
            return 130
        return 0 if story.result() else 1

    return asyncio.run(supervised())
