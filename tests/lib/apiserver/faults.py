"""Misbehaviour to order: answers that are late, lost, broken or errors.

It strikes who is authenticated, before it is asked what they may do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from apiserver.calls import Call


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and with which calls."""

    verb: str = "*"
    resource: str = "*"
    """Plural, with its subresource if it has one: `nodes/status`."""
    name: str = "*"
    times: int | None = 1
    """How often; None: until `Faults.clear()`."""

    delay: float = 0
    """Seconds to wait before anything happens."""
    status: int = 0
    """Answer with this code: 401, 403, 409, 410, 429, 500, 503, 504."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """More headers for it, such as Retry-After."""
    answer: Literal["hang", "drop", "cut", "garbage", ""] = ""
    """No answer at all; a connection closed without one, or in the middle of one; something not JSON."""
    after_effect: bool = False
    """Do what is asked first: only the answer goes wrong."""

    def is_about(self, call: Call) -> bool:
        return (
            self.verb in ("*", call.verb)
            and self.resource in ("*", call.full_resource)
            and self.name in ("*", call.name)
        )


class Faults:
    """The faults that are still to happen."""

    def __init__(self) -> None:
        self._armed: list[tuple[Fault, list[None]]] = []

    def add(self, fault: Fault) -> None:
        self._armed.append((fault, []))

    def clear(self) -> None:
        self._armed.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter([fault for fault, _ in self._armed])

    def strike(self, call: Call) -> Fault | None:
        """The fault that this call meets, the oldest first."""
        for armed in self._armed:
            fault, struck = armed
            if fault.is_about(call):
                struck.append(None)
                if fault.times is not None and len(struck) >= fault.times:
                    self._armed.remove(armed)
                return fault
        return None
