"""How an import tells how far it is: a bar on a terminal, now and then a line elsewhere. Both on stderr."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY = 10.0
"""Seconds between the lines about one step."""


class Progress(Protocol):
    """One step at a time. `advance` may be called from any thread."""

    def step(self, what: str, total: int, *, in_bytes: bool) -> None:
        """Begin a step of that many bytes, or of 100 percent."""

    def advance(self, amount: int) -> None:
        """So much more; negative if it has to be done again."""

    def done(self) -> None:
        """The step is over."""

    def say(self, line: str) -> None: ...


class Lines:
    """Plain lines. Silent for a step that takes no longer than a line's pause."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._what = ""
        self._total = 1
        self._at = 0
        self._said_at = 0.0

    def step(self, what: str, total: int, *, in_bytes: bool) -> None:
        _ = in_bytes
        self._what, self._total, self._at = what, max(1, total), 0
        self._said_at = self._clock()
        self.say(f"{what} …")

    def advance(self, amount: int) -> None:
        self._at += amount
        if self._clock() - self._said_at >= LINE_EVERY:
            self._said_at = self._clock()
            self.say(f"{self._what}: {100 * self._at // self._total} %")

    def done(self) -> None:
        self._what = ""

    def say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class Bar:
    """One line that moves; what is said stands above it."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def step(self, what: str, total: int, *, in_bytes: bool) -> None:
        from rich.progress import (  # noqa: PLC0415  slow to import, and only for a terminal
            BarColumn,
            DownloadColumn,
            ProgressColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress  # noqa: PLC0415  as above

        self.done()
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(20)]
        columns += (
            [DownloadColumn(binary_units=True), TransferSpeedColumn()] if in_bytes else [TaskProgressColumn()]
        )
        self._bar = RichProgress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task = self._bar.add_task(what, total=total)
        self._bar.start()

    def advance(self, amount: int) -> None:
        if self._bar and self._task is not None:
            self._bar.advance(self._task, amount)

    def done(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)
