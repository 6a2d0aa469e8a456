"""Access keys: the account's own, and those of role sessions."""

import secrets
from dataclasses import dataclass, field

from caa.fakecloud.clock import Clock


@dataclass(frozen=True)
class AccessKey:
    id: str
    secret: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    """Empty for a key that is not a session's."""
    expires_at: float | None = None
    """Seconds since the epoch; None: never."""


class KeyRing:
    """Every access key of the account. A session's key stays known after it has expired, so that its use is
    told apart from that of a key that never was.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.own = AccessKey(f"LTAI5t{secrets.token_hex(9)}", secrets.token_hex(15))
        self._keys = {self.own.id: self.own}

    def find(self, key_id: str) -> AccessKey | None:
        return self._keys.get(key_id)

    def issue(self, seconds: float) -> AccessKey:
        """A new session's key, valid that long."""
        key = AccessKey(
            id=f"STS.N{secrets.token_hex(10)}",
            secret=secrets.token_hex(22),
            session_token=f"CAIS{secrets.token_urlsafe(400)}",
            expires_at=self._clock.now() + seconds,
        )
        self._keys[key.id] = key
        return key
