"""Pipes to and from a process, without buffers of our own.

What the process has not read, or nobody has read from it, stays in the pipe. So the kernel's limit on a
pipe (64 KiB) is the limit on memory, and a slow reader slows the process down.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from caa.errors import FailedPreconditionError


class _Pipe:
    """Our end of a pipe, and until the process has it, the process's (`child_end`)."""

    def __init__(self, ours: int, child_end: int) -> None:
        os.set_blocking(ours, False)
        self._fd = ours
        self.child_end = child_end
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        return self._fd == -1

    def close_child_end(self) -> None:
        if self.child_end != -1:
            os.close(self.child_end)
            self.child_end = -1

    def close(self) -> None:
        """Close what is open of it. Whoever waits for it goes on."""
        self.close_child_end()
        if not self.closed:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._wake()

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        add(self._fd, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if not self.closed:
                remove(self._fd)


class OutputPipe(_Pipe):
    """A process's standard output or error."""

    def __init__(self) -> None:
        super().__init__(*os.pipe())
        self._more_expected = True

    async def read(self, size: int) -> bytes:
        """At least one byte and at most `size`, or b"" at the end. Cancelled, it has taken nothing."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            while not self.closed:
                try:
                    data = os.read(self._fd, size)
                except BlockingIOError:
                    if self._more_expected:
                        await self._ready(loop.add_reader, loop.remove_reader)
                        continue
                    data = b""
                if not data:
                    self.close()
                return data
        return b""

    def expect_no_more(self) -> None:
        """From now on the end is where nothing is there to read, even if some process holds the pipe open."""
        self._more_expected = False
        self._wake()


class InputPipe(_Pipe):
    """A process's standard input."""

    def __init__(self) -> None:
        theirs, ours = os.pipe()
        super().__init__(ours, theirs)

    async def write(self, data: bytes) -> None:
        """Return when the pipe has taken all of `data`.

        Raises FailedPreconditionError if the input is closed, by us or by the process.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            left = memoryview(data)
            while left:
                if self.closed:
                    raise FailedPreconditionError("standard input is closed")
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    await self._ready(loop.add_writer, loop.remove_writer)
                except BrokenPipeError:
                    raise FailedPreconditionError("the process has closed its standard input") from None

    async def end(self) -> None:
        """Close it, once what was to be written before has been."""
        async with self._turn:
            self.close()
