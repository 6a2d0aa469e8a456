"""Trouble that lasts is told once, and once more when it is over; what comes and goes is told seldom."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_SELDOM = 60.0
"""Seconds between two warnings of the same cause."""

_MOST = 1000
"""Causes that are kept in mind; the oldest is forgotten, and would be told again."""


class Complaints:
    """What is wrong at present, by cause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._present: dict[str, bool] = {}
        """Whether it was told."""
        self._told: dict[str, float] = {}
        """When, last."""

    def about(self, cause: str, problem: str, **details: object) -> None:
        """A warning, unless the cause has been complained about and was not over since."""
        if cause in self._present:
            return
        now = self._clock()
        tell = now - self._told.get(cause, -_SELDOM) >= _SELDOM
        _remember(self._present, cause, tell)
        if tell:
            _remember(self._told, cause, now)
            _log.warning(problem, **details)

    def over(self, cause: str, relief: str, **details: object) -> None:
        """Say so, if there was a warning."""
        if self._present.pop(cause, False):
            _log.info(relief, **details)


def _remember(memory: dict[str, T], cause: str, value: T) -> None:
    memory.pop(cause, None)
    while len(memory) >= _MOST:
        del memory[next(iter(memory))]
    memory[cause] = value
