"""What the demo shows: a line for each thing it does, and at the end where the time went."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from caa.demo.child import seconds

_STEPS = {
    "create_recorded": "network read, TLS, journal",
    "launch_intended": "journal: intent to launch",
    "launched": "RunInstances",
    "launch_recorded": "journal: instance id",
    "address_known": "poll for its address",
    "address_recorded": "journal: address",
    "tunnel_up": "VXLAN tunnel",
    "agent_reached": "VM boots, TLS to forwarder",
    "socket_listening": "agent socket",
    "running_recorded": "journal: running",
}
"""What the time before each step of CreateVM and StartVM goes into."""

_BAR = 24
"""Columns of the timeline's bars, so that all of it fits into 80."""


@dataclass(frozen=True)
class Span:
    """A part of the way, in seconds since the epoch."""

    what: str
    began: float
    ended: float


class Report:
    """Prints as it goes, and keeps the time of everything."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.spans: list[Span] = []

    @contextmanager
    def doing(self, what: str) -> Iterator[list[str]]:
        """Shows `what` while it is done and, when it is, with the time it took. What the caller puts into the
        list is shown beside it.
        """
        found: list[str] = []
        began = time.time()
        try:
            with self.console.status(f"{what} …"):
                yield found
        except BaseException:
            self.console.print(f"[red]✗[/red] {what}")
            raise
        ended = time.time()
        self.spans.append(Span(what, began, ended))
        took = f"{(ended - began) * 1000:7.0f} ms"
        self.console.print(f"[green]✓[/green] {what:<38} {took}", *found, soft_wrap=True)

    def spans_after(self, what: str) -> list[Span]:
        names = [span.what for span in self.spans]
        return self.spans[names.index(what) + 1 :]

    def check(self, what: str, problem: str) -> bool:
        """A tick if there is no problem, else a cross with it."""
        if problem:
            self.console.print(f"[red]✗[/red] {what}: {problem}", soft_wrap=True)
        else:
            self.console.print(f"[green]✓[/green] {what}")
        return not problem


def timeline(spans: Sequence[Span], title: str) -> Table:
    """The spans as bars under each other, on one axis of time."""
    began = min(span.began for span in spans)
    whole = max(span.ended for span in spans) - began
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("step", no_wrap=True)
    table.add_column("at ms", justify="right")
    table.add_column("took ms", justify="right")
    table.add_column("", width=_BAR, no_wrap=True)
    for span in spans:
        start = round((span.began - began) / whole * _BAR)
        length = max(1, round((span.ended - span.began) / whole * _BAR))
        bar = " " * min(start, _BAR - 1) + "█" * min(length, _BAR - min(start, _BAR - 1))
        table.add_row(
            span.what,
            f"{(span.began - began) * 1000:.0f}",
            f"{(span.ended - span.began) * 1000:.0f}",
            f"[cyan]{bar}[/cyan]",
        )
    return table


def start_spans(events: Sequence[Mapping[str, Any]], sandbox: str) -> list[Span]:
    """What a sandbox's CreateVM and StartVM consisted of, from the events that the daemon logged."""
    steps = [event for event in events if event.get("event") == "step" and event["sandbox"] == sandbox]
    times = {event["step"]: seconds(event) for event in steps}
    spans = []
    previous = times["create_intended"]
    for step, what in _STEPS.items():
        # Tunnel and connection are made side by side: both begin when the address is known.
        began = times["address_recorded"] if step in ("tunnel_up", "agent_reached") else previous
        spans.append(Span(what, began, times[step]))
        previous = max(previous, times[step])
    return spans
