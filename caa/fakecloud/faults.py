"""Faults to order: an answer that is lost, late or an error, before the effect or after it."""

from collections.abc import Iterator, Mapping
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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

    when: Literal["before", "after"] = "before"
    """Whether `delay` and `code` come before the effect (an error: instead of it), or after it."""
    delay: float = Field(default=0, ge=0, le=600)
    """Seconds to wait."""
    drop: Literal["before", "after"] | None = None
    """Close the connection without an answer, before the effect or after it."""
    code: str = ""
    """Answer with this error."""
    status: int = Field(default=400, ge=400, le=599)
    message: str = "This is a fault made to order."
    headers: Mapping[str, str] = Field(default_factory=dict)
    """More headers of the error's answer, such as Retry-After."""

    @property
    def after_effect(self) -> bool:
        return (self.drop or self.when) == "after"


class _Armed:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.left = fault.times if fault.times is not None else None if fault.share is not None else 1


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
        met = None
        for armed in list(self._armed):
            fault = armed.fault
            if fault.action not in ("*", action) or not fault.where.items() <= parameters.items():
                continue
            armed.seen += 1
            if met or armed.seen < (fault.nth or 1):
                continue
            if fault.share is not None and self._random.random() >= fault.share:
                continue
            met = fault
            if armed.left is not None:
                armed.left -= 1
                if not armed.left:
                    self._armed.remove(armed)
        return met
