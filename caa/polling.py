"""The one way to wait for something that has to be asked for again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from caa.errors import DeadlineExceededError

T = TypeVar("T")


def growing(first: float, factor: float = 1.5, longest: float = 2.0) -> Iterator[float]:
    """Pauses in seconds: `first`, then each `factor` times the one before, up to `longest`."""
    pause = first
    while True:
        yield pause
        pause = min(pause * factor, longest)


async def poll(
    ask: Callable[[], Awaitable[tuple[T | None, str]]],
    *,
    what: str,
    pauses: Iterator[float],
    timeout: float,
) -> T:
    """Call `ask` until it gives a value that is not None, and return that.

    `ask` returns the value, or None, and a word on what it saw. `what` says what is waited for.
    `timeout` is in seconds.

    Raises DeadlineExceededError with `what` and what was seen last.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    seen = "nothing yet"
    try:
        async with asyncio.timeout_at(deadline) as limit:
            for pause in pauses:
                value, seen = await ask()
                if value is not None:
                    return value
                await asyncio.sleep(pause)
    except TimeoutError:
        if not limit.expired():
            raise
    raise DeadlineExceededError(f"gave up waiting for {what} after {timeout:g} s; last seen: {seen}")
