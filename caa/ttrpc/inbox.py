"""Where a connection leaves what arrives for one stream, until that stream's reader takes it."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

from caa.ttrpc.frames import MAX_DATA

T = TypeVar("T")

MAX_ITEMS = 64
MAX_BYTES = 2 * MAX_DATA

# ttRPC has no flow control: a stream that nobody reads holds up its whole connection. It may do so for this
# long, as in containerd/ttrpc, before it is given up.
STALL_SECONDS = 1.0


class Inbox(Generic[T]):
    """A bounded queue with one writer, who may close it, and one reader, who may leave."""

    def __init__(self) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._error: Exception | None = None
        self._abandoned = False
        self._changed = asyncio.Event()

    async def put(self, item: T, size: int) -> None:
        """Add `item`, which counts as `size` bytes, when there is room. Dropped if the reader has left.

        Raises TimeoutError if the reader does not make room within STALL_SECONDS.
        """
        if self._is_full(size):
            async with asyncio.timeout(STALL_SECONDS):
                while self._is_full(size):
                    await self._change()
        if not self._abandoned:
            self._items.append((item, size))
            self._bytes += size
            self._changed.set()

    def _is_full(self, size: int) -> bool:
        return bool(self._items) and (len(self._items) >= MAX_ITEMS or self._bytes + size > MAX_BYTES)

    async def get(self) -> T | None:
        """The next item. After the last, None; or the error that the inbox was closed with is raised."""
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._closed:
                return None
            await self._change()
        item, size = self._items.popleft()
        self._bytes -= size
        self._changed.set()
        return item

    async def _change(self) -> None:
        # One event serves both: the writer waits only while there are items, the reader while there are none.
        self._changed.clear()
        await self._changed.wait()

    def close(self, error: Exception | None = None) -> None:
        """Nothing more comes."""
        self._closed = True
        self._error = error
        self._changed.set()

    def abandon(self) -> None:
        """Nobody reads any more."""
        self._abandoned = True
        self._items.clear()
        self._bytes = 0
        self._changed.set()
