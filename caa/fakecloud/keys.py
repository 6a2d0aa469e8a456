"""Access keys: the account's own, and those of role sessions."""

import secrets
from dataclasses import dataclass, field

from caa.fakecloud.clock import Clock
from caa.fakecloud.policy import Policy


@dataclass(frozen=True)
class AccessKey:
    id: str
    secret: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    """Empty for a key that is not a session's."""
    expires_at: float | None = None
    """Seconds since the epoch; None: never."""
    session: str = ""
    """The role session's name; empty for the user's key."""
    session_policy: Policy | None = None
    """What narrows the session's rights below those of its role."""

    @property
    def identity(self) -> str:
        """Who calls with it, for people who look."""
        return self.session or self.id


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

    def issue(self, seconds: float, session: str = "session", policy: Policy | None = None) -> AccessKey:
        """A new session's key, valid that long."""
        key = AccessKey(
            id=f"STS.N{secrets.token_hex(10)}",
            secret=secrets.token_hex(22),
            session_token=f"CAIS{secrets.token_urlsafe(400)}",
            expires_at=self._clock.now() + seconds,
            session=session,
            session_policy=policy,
        )
        self._keys[key.id] = key
        return key
