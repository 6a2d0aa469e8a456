"""Trying again: the one place that decides for which failures, how often and how long.

How long a throttled request waits is not decided here but by the budget of calls, in the `Client`: it knows
of all requests, and of what the cloud asked for (Retry-After). So `persist` asks again at once, which is to
wait in the old place of the budget's queue. A pause of its own would only come on top: the way could be free
before the request is back.
"""

import asyncio
import itertools
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
    """Poll `ask`, which calls the cloud through a `Client`, as `caa.polling.poll` does. A transient ApiError,
    or one `waiting_for`, means "not yet"; the next try comes no sooner than the cloud asks for (Retry-After).

    Raises DeadlineExceededError after `timeout` seconds, and ApiError for every other failure at once.
    """
    loop = asyncio.get_running_loop()
    not_before = 0.0

    async def attempt() -> tuple[T | None, str]:
        nonlocal not_before
        await asyncio.sleep(not_before - loop.time())
        retry_after = 0.0
        try:
            value, seen = await ask()
        except ApiError as error:
            if error.kind is Kind.THROTTLED:
                return None, str(error)
            if error.kind in TRANSIENT:
                log.warning("a request is repeated", error=str(error))
            elif error.kind not in waiting_for:
                raise
            value, seen, retry_after = None, str(error), error.retry_after
        not_before = loop.time() + max(next(pauses), retry_after)
        return value, seen

    return await poll(attempt, what=what, pauses=itertools.repeat(0.0), timeout=timeout)
