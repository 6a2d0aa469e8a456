"""Faults to order: an answer that is lost, late or an error, before the effect or after it.

Only calls that are let in are counted: not what is unsigned, too often or without a right. A client that
tries again makes another call, of which `per` can keep track.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_STATUSES = (
    (r"Throttling(\..+)?", 400),
    (r"ServiceUnavailable(\..+)?", 503),
    (r"InternalError(\..+)?", 500),
    (r"(Forbidden|OperationDenied|IncorrectInstanceStatus|QuotaExceed(ed)?)(\..+)?", 403),
    (r".+\.NotFound", 404),
)
"""Of the codes that tests order, the usual status in the API references. All others have 400."""


class Fault(BaseModel):
    """What goes wrong, and with which calls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: str = "*"
    """An action's name, or * for all."""
    where: Mapping[str, str] = Field(default_factory=dict)
    """Parameters that the call must have, with their values."""
    nth: int | None = Field(default=None, ge=1)
    """Begin with the nth of those calls from now on (the first if not given)."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Only this part of those calls, by chance."""
    times: int | None = Field(default=None, ge=1)
    """How often it happens. Not given: once, or with `share` without end."""
    per: str = ""
    """A parameter: `nth` and `times` hold for each of its values. With ClientToken, say, it strikes each
    first try and lets each repetition through."""

    when: Literal["before", "after"] = "before"
    """Whether `delay` and `code` come before the effect (an error: instead of it), or after it."""
    delay: float = Field(default=0, ge=0, le=600)
    """Seconds to wait."""
    drop: Literal["before", "after"] | None = None
    """Close the connection without an answer, before the effect or after it."""
    code: str = ""
    """Answer with this error."""
    status: int | None = Field(default=None, ge=400, le=599)
    """Not given: the usual one for the code."""
    message: str = "This is a fault made to order."
    headers: Mapping[str, str] = Field(default_factory=dict)
    """More headers of the error's answer, such as Retry-After."""

    @property
    def after_effect(self) -> bool:
        return (self.drop or self.when) == "after"

    @property
    def answer_status(self) -> int:
        if self.status is not None:
            return self.status
        return next((status for pattern, status in _STATUSES if re.fullmatch(pattern, self.code)), 400)


class _Armed:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._times = fault.times if fault.times is not None else None if fault.share is not None else 1
        self._seen: defaultdict[str, int] = defaultdict(int)
        self._struck: defaultdict[str, int] = defaultdict(int)

    def counts(self, action: str, parameters: Mapping[str, str]) -> bool:
        """Count the call if it is one of those that the fault is about; whether its turn has come."""
        fault = self.fault
        if fault.action not in ("*", action) or not fault.where.items() <= parameters.items():
            return False
        of = parameters.get(fault.per, "")
        self._seen[of] += 1
        return self._seen[of] >= (fault.nth or 1) and not self._is_spent(of)

    def strike(self, parameters: Mapping[str, str]) -> None:
        self._struck[parameters.get(self.fault.per, "")] += 1

    @property
    def over(self) -> bool:
        """It will not happen again. With `per` there may always be another value."""
        return not self.fault.per and self._is_spent("")

    def _is_spent(self, of: str) -> bool:
        return self._times is not None and self._struck[of] >= self._times


class Faults:
    """The faults that are still to happen."""

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)  # noqa: S311  it has to be repeatable, not hard to guess
        self._armed: list[_Armed] = []

    def add(self, fault: Fault) -> None:
        self._armed.append(_Armed(fault))

    def clear(self) -> None:
        self._armed.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter([each.fault for each in self._armed])

    def strike(self, action: str, parameters: Mapping[str, str]) -> Fault | None:
        """The fault that this call meets, the oldest first; counts the call."""
        met: _Armed | None = None
        for armed in self._armed:
            if armed.counts(action, parameters) and not met and self._by_chance(armed.fault.share):
                met = armed
        if met is None:
            return None
        met.strike(parameters)
        if met.over:
            self._armed.remove(met)
        return met.fault

    def _by_chance(self, share: float | None) -> bool:
        return share is None or self._random.random() < share
