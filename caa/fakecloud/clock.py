"""Time, so that a test can hold it still.

It runs as fast as everybody's. What is faster or slower than in the cloud is how long things take, and that
is in `Timings`. Were the clock itself faster, signatures would be too old and sessions over as soon as they
came, for the callers' clocks are real ones.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def timestamp(seconds: float) -> str:
    """The form that the API's answers use (ISO 8601, UTC, whole seconds)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
