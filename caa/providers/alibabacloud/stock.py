"""Where there was no stock lately, so that the next pod does not run into the same wall."""

import time
from collections.abc import Callable, Iterable

from caa.providers.alibabacloud.holding import Place

REMEMBERED = 300.0
"""Seconds. Stock comes back in minutes or in days; asking again costs one call."""


class Stock:
    """A place without stock is tried last for a while, but it is tried: no pod fails by memory alone."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._walls: dict[Place, tuple[float, str]] = {}

    def in_turn(self, places: Iterable[Place]) -> list[Place]:
        """The places in their order, those with a wall last."""
        return sorted(places, key=lambda place: bool(self.wall(place)))

    def wall(self, place: Place) -> str:
        """What the cloud said there lately; empty: nothing against it."""
        for each in (place, Place("", place.vswitch)):
            until, said = self._walls.get(each, (0.0, ""))
            if self._now() < until:
                return said
        return ""

    def ran_out(self, place: Place, said: str, *, whole_vswitch: bool) -> None:
        """`whole_vswitch`: it is no matter of the type: there is no address left."""
        at = Place("", place.vswitch) if whole_vswitch else place
        self._walls[at] = (self._now() + REMEMBERED, said)

    def found(self, place: Place) -> None:
        self._walls.pop(place, None)
        self._walls.pop(Place("", place.vswitch), None)
