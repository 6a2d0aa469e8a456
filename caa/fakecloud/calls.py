"""What has been called: the last calls with their outcomes, for tests and for people who look."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

KEPT = 1000
LONGEST = 256
"""Characters that are kept of whatever a caller sent."""
_SECRET = frozenset({"UserData", "OIDCToken", "Password"})


@dataclass(kw_only=True)
class Call:
    action: str
    version: str
    request_id: str
    began_at: float
    """Seconds since the epoch."""
    connection: str
    """The caller's address and port: the same for all calls of one connection."""
    parameters: Mapping[str, str]
    """The action's own. Of what may hold secrets, only the length."""
    signature: str = ""
    """What came of checking it, such as "HMAC-SHA1 ok" or a refusal's code; empty if it was not checked."""
    identity: str = ""
    """Who called, if the signature is good: a role session's name, or the id of the user's key."""
    outcome: str = ""
    """ok, an error's code, or dropped; empty while it is under way."""
    status: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.action, self.version = _short(self.action), _short(self.version)

    def end(self, outcome: str, status: int, now: float) -> None:
        self.outcome = outcome
        self.status = status
        self.seconds = now - self.began_at
        log.debug("call", action=self.action, outcome=outcome, request_id=self.request_id)


def without_secrets(parameters: Mapping[str, str]) -> dict[str, str]:
    return {
        _short(name): f"({len(value)} characters)" if name in _SECRET else _short(value)
        for name, value in parameters.items()
    }


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


class CallLog:
    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=KEPT)

    def add(self, call: Call) -> None:
        self._calls.append(call)

    def __iter__(self) -> Iterator[Call]:
        """The oldest first."""
        return iter(tuple(self._calls))

    def of(self, action: str) -> list[Call]:
        return [call for call in self._calls if call.action == action]
