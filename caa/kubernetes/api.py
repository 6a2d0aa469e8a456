"""Calls to the API server: each by one of our rights, within a time, and with errors that are ours.

The token is read again when the server refuses it (the kubelet replaces it every hour or so), and CA or
kubeconfig when their file has changed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import httpx2
import msgspec
from lightkube import AsyncClient, ConfigError, KubeConfig
from lightkube.config.models import Cluster as ClusterAddress
from lightkube.config.models import User
from lightkube.models.meta_v1 import Status, StatusDetails

from caa.errors import (
    AbortedError,
    AlreadyExistsError,
    CaaError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from caa.kubernetes.complaints import Complaints
from caa.kubernetes.errors import NoPeerPodsError, NotSentError
from caa.kubernetes.peer_pod import GROUP, PLURAL
from caa.kubernetes.rights import Right

T = TypeVar("T")

_TIMEOUT = 20.0
"""Seconds for a call that says nothing else. The server itself gives up after 60."""
_MOST_AT_ONCE = 16
_CONNECT_TIMEOUT = 5.0
_LONGEST_MESSAGE = 1000

_UNREACHABLE = "API server"
_NO_PEER_PODS = "PeerPod"


@dataclass(frozen=True)
class Access:
    """How to find the API server."""

    config: Callable[[], KubeConfig]
    file: Path
    """When it changes, `config` is asked again: trust has changed."""


def by_service_account(environ: Mapping[str, str], folder: Path) -> Access:
    """As the kubelet lays it out for a pod: folder with token and ca.crt, address by environment."""

    def config() -> KubeConfig:
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
        return KubeConfig.from_one(
            cluster=ClusterAddress(
                server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
                certificate_auth=str(folder / "ca.crt"),
            ),
            user=User(token_file=str(folder / "token")),
        )

    return Access(config, folder / "ca.crt")


def by_kubeconfig(path: Path) -> Access:
    return Access(lambda: KubeConfig.from_file(path), path)


class Api:
    """The API server. Calls from any task; bounded in number. Must be closed."""

    def __init__(self, access: Access) -> None:
        self.complaints = Complaints()
        self._access = access
        self._client: AsyncClient | None = None
        self._seen: object = None
        self._replaced: list[AsyncClient] = []
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)

    async def call(
        self,
        right: Right,
        ask: Callable[[AsyncClient], Awaitable[T]],
        *,
        namespace: str = "",
        timeout: float | None = None,
    ) -> T:
        """What `ask` returns. `namespace` is for the messages; `timeout` is in seconds.

        Raises NotSentError and UnavailableError, which pass; PermissionDeniedError; NotFoundError;
        NoPeerPodsError; AlreadyExistsError; AbortedError (somebody else changed it meanwhile: read it again);
        FailedPreconditionError (it refuses the request as it is). The first two and missing rights are
        complained about here.
        """
        timeout = timeout or _TIMEOUT
        try:
            async with self._places, asyncio.timeout(timeout):
                answer = await ask(self._connected())
        except Exception as error:
            explained = _explain(error, right, namespace, timeout)
            match explained:
                case UnavailableError():
                    self.complaints.about(
                        _UNREACHABLE, "the API server can't be used: it is asked again", error=str(explained)
                    )
                case NoPeerPodsError():
                    self.complaints.about(
                        _NO_PEER_PODS,
                        "the cluster has no PeerPod objects: instances of lost nodes can't be found by them",
                        error=str(explained),
                    )
                case PermissionDeniedError():
                    self.complaints.about(
                        f"{right} in {namespace}", "a right in the cluster is missing", error=str(explained)
                    )
            raise explained from error
        self.complaints.over(_UNREACHABLE, "the API server can be used again")
        self.complaints.over(
            f"{right} in {namespace}", "a right in the cluster is there now", right=_meant(right, namespace)
        )
        if right.group == GROUP:
            self.complaints.over(_NO_PEER_PODS, "the cluster has PeerPod objects now")
        return answer

    def _connected(self) -> AsyncClient:
        seen = _stamp(self._access.file)
        if self._client is None or (seen and seen != self._seen):
            try:
                client = AsyncClient(
                    config=self._access.config(),
                    timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT),
                    trust_env=False,  # a proxy in the environment is for what is outside of the cluster
                    field_manager="caa",
                )
            except Exception as error:  # a file that is missing, or not what it should be
                raise NotSentError(
                    f"can't tell how to reach the API server from {self._access.file}: {error}"
                ) from error
            if self._client is not None:
                self._replaced.append(self._client)  # others may be at work with it; a CA is replaced rarely
            self._client, self._seen = client, seen
        return self._client

    async def close(self) -> None:
        clients = [*self._replaced, *([self._client] if self._client else [])]
        self._client = None
        for client in clients:
            await client.close()


def _stamp(file: Path) -> object:
    """Differs when the file does. The kubelet replaces files by a link to new ones."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _meant(right: Right, namespace: str) -> str:
    return f"“{right}”{f' in {namespace}' if namespace else ''}"


def _explain(error: Exception, right: Right, namespace: str, timeout: float) -> CaaError:
    """In our terms. Nothing of a request or an answer is told, but for the server's own message."""
    if isinstance(error, CaaError):
        return error
    meant = _meant(right, namespace)
    for cause in (error, error.__context__):  # lightkube stumbles over an answer without a content type
        if isinstance(cause, httpx2.HTTPStatusError):
            return _refusal(cause.response, right, meant)
    kind, reason = _trouble(error, timeout)
    return kind(f"{meant}: {reason}")


def _trouble(error: Exception, timeout: float) -> tuple[type[CaaError], str]:
    """Of a call that has no answer, or none that can be read."""
    match error:
        case TimeoutError() | httpx2.ReadTimeout() | httpx2.WriteTimeout():
            return UnavailableError, f"the API server did not answer within {timeout:g} s"
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return NotSentError, f"can't connect to the API server: {str(error) or type(error).__name__}"
        case ConfigError() | httpx2.LocalProtocolError():  # the latter quotes the token
            missing = isinstance(error, ConfigError)
            return NotSentError, str(error) if missing else "the token, or the address, is malformed"
        case httpx2.HTTPError() | OSError():
            return UnavailableError, f"the connection to the API server broke: {error!r}"
        case msgspec.MsgspecError() | ValueError() | LookupError():
            return UnavailableError, f"the API server's answer can't be read: {type(error).__name__}"
    return InternalError, repr(error)


def _refusal(response: httpx2.Response, right: Right, meant: str) -> CaaError:
    """Of an answer that is an error, in the API's own form (metav1.Status) or in some proxy's."""
    try:
        status = msgspec.json.decode(response.content, type=Status)
    except (msgspec.MsgspecError, ValueError):
        status = Status()
    code, message = response.status_code, (status.message or "")[:_LONGEST_MESSAGE]
    details = status.details or StatusDetails()
    if code == HTTPStatus.NOT_FOUND and details.name:
        return NotFoundError(f"{meant}: {message}")
    if code == HTTPStatus.CONFLICT and status.reason == "AlreadyExists":
        return AlreadyExistsError(f"{meant}: {message}")
    if code == HTTPStatus.FORBIDDEN and any(
        cause.reason == "NamespaceTerminating" for cause in details.causes or ()
    ):
        return FailedPreconditionError(f"{meant}: {message}")
    return _by_status(code, right, meant, message)


def _by_status(code: int, right: Right, meant: str, message: str) -> CaaError:
    said = f": {message}" if message else ""
    kind: type[CaaError] = UnavailableError
    reason = f"{meant}: the API server answered with status {code}"
    match code:
        case HTTPStatus.UNAUTHORIZED:
            reason = f"{meant}: the API server does not accept this node's token"
        case HTTPStatus.FORBIDDEN:
            kind = PermissionDeniedError
            reason = f"the API server does not grant {meant}; add it to the service account's ClusterRole"
        case HTTPStatus.NOT_FOUND if (right.group, right.resource) == (GROUP, PLURAL):
            kind = NoPeerPodsError
            reason = f"{meant}: the cluster has no {PLURAL}.{GROUP}; apply their CRD"
        case HTTPStatus.NOT_FOUND:
            kind, reason = NotFoundError, f"{meant}: not found"
        case HTTPStatus.CONFLICT:
            kind, reason = AbortedError, f"{meant}: changed by somebody else meanwhile"
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY | HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            kind, reason = FailedPreconditionError, f"{meant}: the API server refuses the request"
    return kind(f"{reason}{said}")
