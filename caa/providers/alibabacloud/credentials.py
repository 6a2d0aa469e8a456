"""The two ways to authenticate, in the contract's order: an access key, or the service account's role (RRSA).

Both end in the SDK's own seam, an `ICredentialsProvider` inside a `CredentialClient`, from which it takes the
key that it signs a request with. For access keys the SDK's providers are used as they are. For RRSA its
`OIDCRoleArnCredentialsProvider` (1.0.12) is not, for four reasons: in a session's last 15 minutes, valid as
it is, requests wait for STS, and fail if STS fails; it calls `https://` only; it takes no CA file; and its
errors are one string with the whole answer in it. `RoleSession` takes its place: it calls AssumeRoleWithOIDC
as the other calls of this package are made, but unsigned, and renews in the background.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from alibabacloud_credentials.client import Client as CredentialClient
from alibabacloud_credentials.provider import StaticAKCredentialsProvider, StaticSTSCredentialsProvider
from alibabacloud_credentials.provider.refreshable import Credentials as Key

from caa.config import AlibabaCloudSettings
from caa.errors import DeadlineExceededError, StartupError, UnavailableError
from caa.polling import poll
from caa.providers.alibabacloud.client import STS, Client
from caa.providers.alibabacloud.errors import ApiError, explained
from caa.providers.alibabacloud.retry import TRANSIENT, jittered
from caa.providers.alibabacloud.token import Token, read_token
from caa.providers.base import CallObserver

log = structlog.get_logger(__name__)

SESSION_SECONDS = 3600
"""The longest that a role allows unless told otherwise."""
STS_TIMEOUT = 45.0
"""Seconds for getting a session, retries included."""


def credentials_for(
    settings: AlibabaCloudSettings, *, sts_timeout: float = STS_TIMEOUT, on_call: CallObserver | None = None
) -> "AccessKey | RoleSession":
    """The credentials that the settings give; an access key goes before a role. Raises StartupError if they
    give none, or half of them.
    """
    role = _role_variables(settings)
    if settings.access_key_id or settings.access_key_secret:
        key = AccessKey(settings, otherwise=all(role.values()))
        if any(role.values()):
            given = ", ".join(name for name, value in role.items() if value)
            log.info("the access key is used, and not the role", key=key.id, passed_over=given)
        return key
    if settings.security_token:
        raise StartupError(
            "ALIBABACLOUD_SECURITY_TOKEN is set but its key is not: it goes with ALIBABACLOUD_ACCESS_KEY_ID"
            " and ALIBABACLOUD_ACCESS_KEY_SECRET"
        )
    return RoleSession(settings, sts_timeout=sts_timeout, on_call=on_call)


class AccessKey:
    """A fixed access key, of a user or of somebody else's session."""

    def __init__(self, settings: AlibabaCloudSettings, *, otherwise: bool = False) -> None:
        """`otherwise`: there would be a role too. Raises StartupError for half a key."""
        key = {"ALIBABACLOUD_ACCESS_KEY_ID": settings.access_key_id}
        key["ALIBABACLOUD_ACCESS_KEY_SECRET"] = settings.access_key_secret
        missing = [name for name, value in key.items() if not value]
        if missing:
            given = next(name for name, value in key.items() if value)
            hint = f"; without {given} the role (RRSA) would be used, which is set too" if otherwise else ""
            raise StartupError(f"{given} is set but {missing[0]} is not: an access key is both of them{hint}")
        self.id = settings.access_key_id
        self.temporary = bool(settings.security_token)
        """Of a session, which ends at a time that only the cloud knows."""
        provider = (
            StaticSTSCredentialsProvider(
                access_key_id=settings.access_key_id,
                access_key_secret=settings.access_key_secret,
                security_token=settings.security_token,
            )
            if settings.security_token
            else StaticAKCredentialsProvider(
                access_key_id=settings.access_key_id, access_key_secret=settings.access_key_secret
            )
        )
        self.sdk = CredentialClient(provider=provider)

    async def ready(self) -> None:
        pass

    async def renew(self) -> bool:
        return False

    def left(self) -> float | None:
        return None

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Session:
    key: Key
    began: float
    """Unix time."""
    ends: float

    @property
    def renew_at(self) -> float:
        return self.began + (self.ends - self.began) * 0.75


_USED: ContextVar[tuple["RoleSession", _Session | None] | None] = ContextVar("_USED", default=None)
"""The session that the task's request was let through with, and whose it is."""


class RoleSession:
    """A session of the role that the cluster's OIDC provider vouches for (RRSA).

    It is renewed in the background when three quarters of its time have passed, again and again if that
    fails. A request waits only if there is no valid session. To the SDK it is an `ICredentialsProvider`.
    """

    def __init__(
        self,
        settings: AlibabaCloudSettings,
        now: Callable[[], float] = time.time,
        *,
        sts_timeout: float = STS_TIMEOUT,
        on_call: CallObserver | None = None,
    ) -> None:
        """`sts_timeout` is in seconds, for all tries to get a session together. Raises StartupError."""
        given = _role_variables(settings)
        missing = [name for name, value in given.items() if not value]
        if len(missing) == len(given):
            raise StartupError(
                "no credentials: set ALIBABACLOUD_ACCESS_KEY_ID and ALIBABACLOUD_ACCESS_KEY_SECRET, or, for"
                f" the service account's role (RRSA), {', '.join(given)}"
            )
        if missing:
            raise StartupError(
                f"{' and '.join(missing)} not set: a service account's role (RRSA) takes all of"
                f" {', '.join(given)}"
            )
        self.role_arn = settings.role_arn
        self.provider_arn = settings.oidc_provider_arn
        self.token_file = Path(settings.oidc_token_file)
        self._now = now
        self._sts_timeout = sts_timeout
        self._sts = Client(
            STS,
            endpoint=settings.sts_endpoint,
            region=settings.region,
            ca_file=settings.ca_file,
            threads=1,
            on_call=on_call,
        )
        self._session: _Session | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._pauses = jittered(5.0, 60.0)
        self.sdk = CredentialClient(provider=self)

    def get_credentials(self) -> Key:
        """The SDK's question, from the thread of a request that waited for `ready`."""
        assert self._session
        return self._session.key

    def get_provider_name(self) -> str:
        return "oidc_role_arn"

    async def ready(self) -> None:
        if not self.left():
            await asyncio.shield(self._renew())
        _USED.set((self, self._session))

    async def renew(self) -> bool:
        # Many requests hear one after the other that their session is over; the first gets the next.
        role, used = _USED.get() or (None, None)
        if role is not self or used is self._session:
            await asyncio.shield(self._renew())
        return True

    def left(self) -> float | None:
        return max(0.0, self._session.ends - self._now()) if self._session else 0.0

    async def close(self) -> None:
        self._closed = True
        if self._renewal:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        if self._timer:
            self._timer.cancel()
        await self._sts.close()

    def _renew(self) -> asyncio.Task[None]:
        """The renewal under way, or a new one."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._assume_role(), name="assume-role")
            self._renewal.add_done_callback(self._renewed)
        return self._renewal

    def _renewed(self, renewal: asyncio.Task[None]) -> None:
        failure = None if renewal.cancelled() else renewal.exception()
        if renewal.cancelled() or self._closed:
            return
        if failure is None:
            assert self._session
            self._pauses = jittered(5.0, 60.0)
            pause = self._session.renew_at - self._now()
        else:
            # Whoever waited has the error itself. One line for all of a renewal's tries.
            log.warning(
                "the role's session was not renewed", error=str(failure), left=round(self.left() or 0.0)
            )
            pause = next(self._pauses)
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause, self._renew)

    async def _assume_role(self) -> None:
        not_before = 0.0

        async def ask() -> tuple[_Session | None, str]:
            nonlocal not_before
            # The kubelet replaces the file's content every hour or sooner.
            token = read_token(self.token_file)
            request = {
                "RoleArn": self.role_arn,
                "OIDCProviderArn": self.provider_arn,
                "OIDCToken": token.text,
                "RoleSessionName": "caa",
                "DurationSeconds": SESSION_SECONDS,
            }
            try:
                return self._read(await self._sts.call("AssumeRoleWithOIDC", request)), ""
            except ApiError as error:
                if error.kind not in TRANSIENT:
                    raise self._explained(error, token) from None
                not_before = error.retry_after
                return None, str(self._explained(error, token))

        def pauses() -> Iterator[float]:
            for pause in jittered(0.5, 5.0):
                yield max(pause, not_before)

        try:
            self._session = await poll(
                ask, what="AssumeRoleWithOIDC to be answered", timeout=self._sts_timeout, pauses=pauses()
            )
        except DeadlineExceededError as error:
            raise UnavailableError(str(error)) from None

    def _explained(self, error: ApiError, token: Token) -> Exception:
        seen = f"the token has {token}" if error.code.startswith("AuthenticationFail") else ""
        return explained(error, f" for role {self.role_arn}", more=seen)

    def _read(self, answer: object) -> _Session:
        match answer:
            case {
                "Credentials": {
                    "AccessKeyId": str(key_id),
                    "AccessKeySecret": str(secret),
                    "SecurityToken": str(token),
                    "Expiration": str(expiration),
                }
            }:
                now = self._now()
                try:
                    ends = datetime.fromisoformat(expiration).timestamp()
                except ValueError:
                    raise UnavailableError("AssumeRoleWithOIDC: the answer's Expiration is no time") from None
                if ends <= now:
                    raise UnavailableError(
                        f"AssumeRoleWithOIDC: a session that ended at {expiration}: check this node's clock"
                    )
                key = Key(
                    access_key_id=key_id,
                    access_key_secret=secret,
                    security_token=token,
                    provider_name=self.get_provider_name(),
                )
                # By a clock that is slow, it would end later than it does.
                return _Session(key, now, min(ends, now + SESSION_SECONDS))
        raise UnavailableError("AssumeRoleWithOIDC: the answer holds no credentials")


def _role_variables(settings: AlibabaCloudSettings) -> dict[str, str]:
    return {
        "ALIBABA_CLOUD_ROLE_ARN": settings.role_arn,
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": settings.oidc_provider_arn,
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": settings.oidc_token_file,
    }
