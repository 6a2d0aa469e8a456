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
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from alibabacloud_credentials.client import Client as CredentialClient
from alibabacloud_credentials.provider import StaticAKCredentialsProvider, StaticSTSCredentialsProvider
from alibabacloud_credentials.provider.refreshable import Credentials as Key

from caa.config import AlibabaCloudSettings
from caa.errors import FailedPreconditionError, StartupError, UnavailableError
from caa.providers.alibabacloud.client import STS, Client, Credentials
from caa.providers.alibabacloud.errors import ApiError, explained
from caa.providers.alibabacloud.retry import jittered, persist

log = structlog.get_logger(__name__)

SESSION_SECONDS = 3600
"""The longest that a role allows unless told otherwise."""
STS_TIMEOUT = 45.0
"""Seconds for getting a session, retries included."""


def credentials_for(settings: AlibabaCloudSettings) -> Credentials:
    """The credentials that the settings give. Raises StartupError if they give none, or half of them."""
    if settings.access_key_id or settings.access_key_secret:
        return AccessKey(settings)
    return RoleSession(settings)


class AccessKey:
    """A fixed access key, of a user or of somebody else's session."""

    def __init__(self, settings: AlibabaCloudSettings) -> None:
        key = {"ALIBABACLOUD_ACCESS_KEY_ID": settings.access_key_id}
        key["ALIBABACLOUD_ACCESS_KEY_SECRET"] = settings.access_key_secret
        missing = [name for name, value in key.items() if not value]
        if missing:
            given = next(name for name, value in key.items() if value)
            raise StartupError(f"{given} is set but {missing[0]} is not: an access key is both of them")
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

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Session:
    key: Key
    ends: float
    """Unix time."""
    renew_at: float


class RoleSession:
    """A session of the role that the cluster's OIDC provider vouches for (RRSA).

    It is renewed in the background when three quarters of its time have passed, again and again if that
    fails. A request waits only if there is no valid session. To the SDK it is an `ICredentialsProvider`.
    """

    def __init__(self, settings: AlibabaCloudSettings, now: Callable[[], float] = time.time) -> None:
        given = {
            "ALIBABA_CLOUD_ROLE_ARN": settings.role_arn,
            "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": settings.oidc_provider_arn,
            "ALIBABA_CLOUD_OIDC_TOKEN_FILE": settings.oidc_token_file,
        }
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
        self._role_arn = settings.role_arn
        self._provider_arn = settings.oidc_provider_arn
        self._token_file = Path(settings.oidc_token_file)
        self._now = now
        self._sts = Client(
            STS, endpoint=settings.sts_endpoint, region=settings.region, ca_file=settings.ca_file, threads=1
        )
        self._session: _Session | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pauses = jittered(5.0, 60.0)
        self.sdk = CredentialClient(provider=self)

    def get_credentials(self) -> Key:
        """The SDK's question, from the thread of a request that waited for `ready`."""
        assert self._session
        return self._session.key

    def get_provider_name(self) -> str:
        return "oidc_role_arn"

    async def ready(self) -> None:
        if self._session is None or self._now() >= self._session.ends:
            await asyncio.shield(self._renew())

    async def renew(self) -> bool:
        await asyncio.shield(self._renew())
        return True

    async def close(self) -> None:
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
        if renewal.cancelled():
            return
        failure = renewal.exception()
        if failure is None:
            assert self._session
            self._pauses = jittered(5.0, 60.0)
            pause = self._session.renew_at - self._now()
        else:
            # Whoever waited has the error itself.
            log.warning("the role's session was not renewed", error=str(failure), role=self._role_arn)
            pause = next(self._pauses)
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause, self._renew)

    async def _assume_role(self) -> None:
        # The kubelet replaces the file's content every hour or sooner.
        token = read_token(self._token_file)
        request = {
            "RoleArn": self._role_arn,
            "OIDCProviderArn": self._provider_arn,
            "OIDCToken": token,
            "RoleSessionName": "caa",
            "DurationSeconds": SESSION_SECONDS,
        }

        async def ask() -> tuple[_Session | None, str]:
            return self._read(await self._sts.call("AssumeRoleWithOIDC", request)), ""

        try:
            self._session = await persist(
                ask, what="AssumeRoleWithOIDC", timeout=STS_TIMEOUT, pauses=jittered(0.5, 5.0)
            )
        except ApiError as error:
            raise explained(error, f" for role {self._role_arn}") from None

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
                name = self.get_provider_name()
                key = Key(
                    access_key_id=key_id, access_key_secret=secret, security_token=token, provider_name=name
                )
                return _Session(key, ends, now + (ends - now) * 0.75)
        raise UnavailableError("AssumeRoleWithOIDC: the answer holds no credentials")


def read_token(path: Path) -> str:
    """The service account's token. Raises FailedPreconditionError that names the file."""
    hint = "the pod needs the service account token volume for it (audience sts.aliyuncs.com)"
    try:
        token = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise FailedPreconditionError(f"ALIBABA_CLOUD_OIDC_TOKEN_FILE={path}: {why}; {hint}") from None
    if not token:
        raise FailedPreconditionError(f"ALIBABA_CLOUD_OIDC_TOKEN_FILE={path}: the file is empty; {hint}")
    return token
