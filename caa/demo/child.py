"""A `caa` command that runs beside the demo, in a network namespace if need be, and what it logs."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from caa.errors import DeadlineExceededError, UnavailableError

CAA = (sys.executable, "-m", "caa")


class Child:
    """A process whose log, JSON lines on standard error, is read as it comes and kept in a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.events: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        command: Sequence[str],
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        keep_environ: bool = True,
        netns: Path | None = None,
    ) -> AsyncIterator[Self]:
        """Run `command` for as long as the context lasts, then end it. `environ` is added to the
        environment of this process, or instead of it.

        It gets a session of its own, so that a Ctrl-C reaches the demo alone, and is ended with the thread
        that started it, so that it can't outlive a demo that was killed.
        """
        prefix = ["setpriv", "--pdeathsig", "TERM"]
        if netns is not None:
            prefix += ["nsenter", f"--net={netns}"]
        process = await asyncio.create_subprocess_exec(
            *prefix,
            *command,
            env={**(os.environ if keep_environ else {}), **(environ or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1024 * 1024,  # bytes that a line may have: a traceback is one line
            start_new_session=True,
        )
        child = cls(process, log)
        try:
            yield child
        finally:
            await child.end()

    async def event(self, name: str, timeout: float) -> dict[str, Any]:
        """The first event of that name. Raises UnavailableError with the end of the log if the process ends
        before it, DeadlineExceededError if it doesn't come in time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(lambda: self._first(name) is not None or self._reader.done())
        found = self._first(name)
        if found is not None:
            return found
        if self._reader.done():
            raise UnavailableError(
                f"ended too early, with status {await self.process.wait()}: {self._last_words()}"
            )
        raise DeadlineExceededError(f"not ready after {timeout:g} s: {self._last_words()}")

    def _first(self, name: str) -> dict[str, Any] | None:
        return next((event for event in self.events if event.get("event") == name), None)

    def _last_words(self) -> str:
        return " | ".join(self.log.read_text().splitlines()[-3:]) + f" (all of it: {self.log})"

    async def end(self, signal_: signal.Signals = signal.SIGTERM, patience: float = 30.0) -> int:
        """End the process, hard if it takes longer than `patience` seconds; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal_)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
        await self._reader
        return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        try:
            with self.log.open("wb") as file:
                async for line in self.process.stderr:
                    file.write(line)
                    file.flush()
                    with contextlib.suppress(ValueError):
                        event = json.loads(line)
                        self.events.append(event)
                        async with self._news:
                            self._news.notify_all()
        finally:
            async with self._news:
                self._news.notify_all()


def seconds(event: Mapping[str, Any]) -> float:
    """When an event was logged, in seconds since the epoch."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()
