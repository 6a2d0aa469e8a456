"""Bearer tokens: who has which, and until when."""

import secrets
import time

from apiserver.rbac import User


class Tokens:
    def __init__(self) -> None:
        self._known: dict[str, tuple[User, float]] = {}

    def issue(self, user: User, *, lifetime: float = 3600) -> str:
        """A new token; older ones stay good. `lifetime` in seconds."""
        token = secrets.token_urlsafe(24)
        self._known[token] = (user, time.monotonic() + lifetime)
        return token

    def expire(self, token: str) -> None:
        """From now on it is as good as none."""
        self._known.pop(token, None)

    def user(self, token: str) -> User | None:
        """Whose it is, if it is any good."""
        user, until = self._known.get(token, (None, 0.0))
        return user if time.monotonic() < until else None
