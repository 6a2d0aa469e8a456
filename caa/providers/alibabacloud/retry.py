"""Trying again: the one place that decides for which failures, how often and how long.

All waits of the provider go through `persist`, so that a limit shared by all requests has one place to be.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import TypeVar

import structlog

from caa.polling import growing, poll
from caa.providers.alibabacloud.errors import ApiError, Kind

log = structlog.get_logger(__name__)

T = TypeVar("T")

TRANSIENT = frozenset({Kind.THROTTLED, Kind.LOST})
"""What is repeated whatever the request was: one that could do harm twice carries a client token."""


def jittered(first: float, longest: float, draw: Callable[[], float] = random.random) -> Iterator[float]:
    """Pauses in seconds that grow from `first` to `longest`, each drawn from its upper half, so that many
    daemons don't come back at once.
    """
    for pause in growing(first, longest=longest):
        yield pause * (1 + draw()) / 2


async def persist(
    ask: Callable[[], Awaitable[tuple[T | None, str]]],
    *,
    what: str,
    timeout: float,
    pauses: Iterator[float],
    waiting_for: Collection[Kind] = (),
) -> T:
    """Poll `ask` as `caa.polling.poll` does. A transient ApiError, or one `waiting_for`, means "not yet"; the
    next try comes no sooner than the cloud asks for (Retry-After).

    Raises DeadlineExceededError after `timeout` seconds, and ApiError for every other failure at once.
    """
    loop = asyncio.get_running_loop()
    not_before = 0.0

    async def attempt() -> tuple[T | None, str]:
        nonlocal not_before
        await asyncio.sleep(not_before - loop.time())
        try:
            return await ask()
        except ApiError as error:
            if error.kind in TRANSIENT:
                log.warning("a request is repeated", error=str(error))
            elif error.kind not in waiting_for:
                raise
            not_before = loop.time() + error.retry_after
            return None, str(error)

    return await poll(attempt, what=what, pauses=pauses, timeout=timeout)
