"""The service account's token (RRSA), as far as its bearer can read it: a JWT, whose signature is STS's
business.
"""

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caa.errors import FailedPreconditionError

AUDIENCE = "sts.aliyuncs.com"
"""What RRSA tokens are issued for."""
LONGEST = 20_000
"""Characters of a token that AssumeRoleWithOIDC takes, by its API reference."""


@dataclass(frozen=True)
class Token:
    """A token's text and its unverified claims."""

    text: str = field(repr=False)
    issuer: str
    subject: str
    audiences: tuple[str, ...]
    expires: float | None
    """Unix time; None: it doesn't say."""

    def __str__(self) -> str:
        return (
            f"issuer {self.issuer or 'none'}, audience {', '.join(self.audiences) or 'none'}, subject"
            f" {self.subject or 'none'}, expiry {self.expiry}"
        )

    @property
    def service_account(self) -> str:
        """NAMESPACE:NAME, or whatever else the subject is."""
        return self.subject.removeprefix("system:serviceaccount:")

    @property
    def expiry(self) -> str:
        if self.expires is None:
            return "none"
        return datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_token(path: Path) -> Token:
    """Read the token file. Raises FailedPreconditionError that names the file and what is wrong with it.

    A file that holds something else is not sent to anybody.
    """
    where = f"ALIBABA_CLOUD_OIDC_TOKEN_FILE={path}"
    hint = f"the pod needs the service account token volume for it (audience {AUDIENCE})"
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST + 2).decode("ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise FailedPreconditionError(f"{where}: {why}; {hint}") from None
    if not text:
        raise FailedPreconditionError(f"{where}: the file is empty; {hint}")
    try:
        return parse(text)
    except ValueError as error:
        raise FailedPreconditionError(f"{where}: it holds no JSON Web Token ({error}); {hint}") from None


def parse(text: str) -> Token:
    """Read a token's claims. Raises ValueError, without any of the text, if it is no JWT (RFC 7519)."""
    parts = text.split(".")
    if len(text) > LONGEST:
        raise ValueError(f"more than {LONGEST} characters")
    if len(parts) != 3:
        raise ValueError(f"{len(parts)} parts with dots between them instead of 3")
    try:
        claims = json.loads(base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), "-_", validate=True))
    except (ValueError, RecursionError):
        raise ValueError("its claims are not base64 of JSON") from None
    if not isinstance(claims, dict):
        raise ValueError("its claims are no JSON object")  # noqa: TRY004  it is the text that is wrong
    audiences = claims.get("aud", [])
    expires = claims.get("exp")
    return Token(
        text,
        issuer=_shown(claims.get("iss", "")),
        subject=_shown(claims.get("sub", "")),
        audiences=tuple(map(_shown, audiences if isinstance(audiences, list) else [audiences])),
        expires=_time(expires),
    )


def _time(value: Any) -> float | None:
    """A moment that can be shown as a date, or None."""
    return float(value) if isinstance(value, int | float) and 0 < value < 1e11 else None


def _shown(value: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))[:200]
