"""How the cloud is called: the SDK's engine (alibabacloud-tea-openapi: signatures, credentials, errors), its
synchronous call, in threads.

Three choices, with the numbers of `bench/sdk_calls.py` behind them:

- Threads, not the SDK's `*_async`: those make a TLS context (which parses a CA bundle) and a connection for
  every call, on the event loop, and take some 20 times as long. The synchronous ones keep connections.
- The engine's `call_api` with an action's name, not the generated clients of ECS and VPC: a request is then
  exactly the JSON that a plan holds, and thousands of model classes need not be imported.
- Parameters in the body. The generated clients put all of them into the URL, up to 43 KiB of user data too,
  and the cloud's front end answers long URLs with 414. (Alibaba Cloud's Terraform provider uses the body.)

A thread can't be cancelled: a call whose caller was cancelled goes on until its answer or its timeout.
`Client.settled` waits for such calls.

Each request waits for its turn in the daemon's budget of calls (`budget`), and is reported when it has ended.
"""

import asyncio
import email.utils
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from alibabacloud_credentials.client import Client as CredentialClient
from alibabacloud_tea_openapi.client import Client as Engine
from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
from darabonba.core import DaraCore
from darabonba.runtime import RuntimeOptions
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

import caa
from caa.errors import StartupError
from caa.providers.alibabacloud.budget import Answer, Budget, Turn
from caa.providers.alibabacloud.errors import ApiError, Kind, NotTheApiError, from_sdk
from caa.providers.base import SANDBOX, CallObserver, CloudCall

_MEANS = {Kind.THROTTLED: Answer.THROTTLED, Kind.LOST: Answer.LOST}
"""Every other refusal is an answer as good as success: the request was let through."""

CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 15.0
"""Seconds. A request without an answer is repeated with the same client token, so waiting for longer than a
slow answer takes only loses time."""

# With DEBUG=sdk in the environment this logger prints each request's headers, session token included.
getLogger("darabonba-core").disabled = True


@dataclass(frozen=True)
class Product:
    """A cloud service, by the name that endpoints and RAM give it."""

    name: str
    version: str


ECS = Product("ecs", "2014-05-26")
VPC = Product("vpc", "2016-04-28")
STS = Product("sts", "2015-04-01")


class Credentials(Protocol):
    """What requests are signed with. Must be closed."""

    sdk: CredentialClient
    """Gives the key to the SDK, without waiting; there is a valid one after `ready`."""

    async def ready(self) -> None:
        """Return once there is a valid key: at once, if there already is. Raises CaaError."""

    async def renew(self) -> bool:
        """Replace a key that the cloud calls expired. False if that is not possible. Raises CaaError."""

    def left(self) -> float | None:
        """Seconds that the present key stays valid, 0 without one; None: for ever."""

    async def close(self) -> None:
        """Stop renewing."""


@dataclass(eq=False)
class _Request:
    """One request, from its turn to its end."""

    action: str
    parameters: Mapping[str, Any]
    turn: Turn
    sandbox: str = field(default_factory=SANDBOX.get)
    began_at: float = 0.0
    seconds: float = 0.0


class Client:
    """One product at one endpoint. Must be closed."""

    def __init__(
        self,
        product: Product,
        *,
        endpoint: str,
        region: str,
        ca_file: str,
        credentials: Credentials | None = None,
        threads: int = 16,
        budget: Budget | None = None,
        on_call: CallObserver | None = None,
    ) -> None:
        """`endpoint` is a host, or a URL without a path, or empty for the region's. Without `credentials`,
        requests are not signed. Clients of one account share a `budget`; `on_call` is told of each request,
        repetitions too. Raises StartupError for a bad endpoint or CA file.
        """
        if ca_file:
            try:
                ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise StartupError(f"ALIBABACLOUD_CA_FILE={ca_file}: {error.strerror or error}") from None
        protocol, host = _parse_endpoint(product, endpoint or f"{product.name}.{region}.aliyuncs.com")
        self.product = product
        self._credentials = credentials
        self._engine = Engine(
            Config(
                credential=credentials.sdk if credentials else None,
                protocol=protocol,
                endpoint=host,
                region_id=region,
                connect_timeout=int(CONNECT_TIMEOUT * 1000),
                read_timeout=int(READ_TIMEOUT * 1000),
                max_idle_conns=threads,
                ca=ca_file or None,
                user_agent=f"caa/{caa.__version__}",
                retry_options=None,  # `retry.persist` repeats
            )
        )
        self._session = _Session(threads)
        self._session_key = f"{protocol}://{host}:80:pool={threads}"
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"caa-{product.name}")
        # So that many slow creates leave threads for deletes.
        self._at_once = max(1, threads * 3 // 4)
        self._budget = budget or Budget()
        self._on_call = on_call
        self._requests: dict[asyncio.Future[dict[str, Any]], _Request] = {}

    async def call(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One request and its answer. Raises ApiError, and what the credentials raise."""
        if self._credentials is None:
            return await self._request(action, parameters)
        await self._credentials.ready()
        try:
            return await self._request(action, parameters)
        except ApiError as error:
            # Clocks differ, and sessions can be revoked: the cloud has the last word on what is expired.
            if error.kind is not Kind.EXPIRED or not await self._credentials.renew():
                raise
            return await self._request(action, parameters)

    async def settled(self, client_token: str) -> None:
        """Return once no request with this client token is under way any more, waited for or not."""
        under_way = [
            answer
            for answer, request in self._requests.items()
            if request.parameters.get("ClientToken") == client_token
        ]
        if under_way:
            await asyncio.wait(under_way)

    async def close(self) -> None:
        """Wait for the requests under way, which end by their timeouts; release threads and connections."""
        if self._requests:
            await asyncio.wait(self._requests)
        self._threads.shutdown()
        if DaraCore._sessions.get(self._session_key) is self._session:  # noqa: SLF001  see _Session
            del DaraCore._sessions[self._session_key]  # noqa: SLF001
        self._session.close()

    async def _request(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        turn = await self._budget.turn(self._permission(action), SANDBOX.get(), at_once=self._at_once)
        request = _Request(action, parameters, turn)
        submitted = self._threads.submit(self._timed, request)
        answer = asyncio.wrap_future(submitted)
        self._requests[answer] = request
        # The first of its callbacks: the budget has learned from the answer before its caller wakes up.
        answer.add_done_callback(self._ended)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            submitted.cancel()  # so that what still waits for a thread is never sent
            raise

    def _ended(self, answer: asyncio.Future[dict[str, Any]]) -> None:
        request = self._requests.pop(answer)
        if answer.cancelled():
            request.turn.unused()
            return
        # Asked for here, since whoever waited for it may have left.
        failure = answer.exception()
        if isinstance(failure, ApiError):
            outcome, request_id = failure.code, failure.request_id
            request.turn.ended(_MEANS.get(failure.kind, Answer.PASSED), failure.retry_after)
        elif failure:
            outcome, request_id = type(failure).__name__, ""
            request.turn.unused()
        else:
            outcome, request_id = "ok", str(answer.result().get("RequestId", ""))
            request.turn.ended(Answer.PASSED)
        if self._on_call:
            self._on_call(
                CloudCall(
                    action=request.action,
                    outcome=outcome,
                    request_id=request_id,
                    began_at=request.began_at,
                    seconds=request.seconds,
                    sandbox=request.sandbox,
                )
            )

    def _timed(self, request: _Request) -> dict[str, Any]:
        request.began_at, began = time.time(), time.monotonic()
        try:
            return self._send(request.action, request.parameters)
        finally:
            request.seconds = time.monotonic() - began

    def _permission(self, action: str) -> str:
        """The action as RAM names it."""
        return f"{self.product.name}:{action}"

    def _send(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        DaraCore._sessions[self._session_key] = self._session  # noqa: SLF001  see _Session
        params = Params(
            action=action,
            version=self.product.version,
            protocol="HTTPS",
            pathname="/",
            method="POST",
            auth_type="AK" if self._credentials else "Anonymous",
            style="RPC",
            req_body_type="formData",
            body_type="json",
        )
        permission = self._permission(action)
        try:
            answer = self._engine.call_api(params, OpenApiRequest(body=dict(parameters)), RuntimeOptions())
        except Exception as failure:  # noqa: BLE001  the SDK raises whatever befell it
            error = from_sdk(permission, failure)
        else:
            if isinstance(answer["body"], dict):
                return answer["body"]
            error = from_sdk(permission, TypeError())
        # Here and not above, so that it does not bring the SDK's exception along as its context: there, in
        # texts and frames, is what must not be logged.
        raise error


def _parse_endpoint(product: Product, endpoint: str) -> tuple[str, str]:
    url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if url.scheme not in ("http", "https") or not url.netloc or url.path.strip("/") or url.query:
        raise StartupError(
            f"ALIBABACLOUD_{product.name.upper()}_ENDPOINT={endpoint} is not valid; allowed: a host name,"
            " or a URL without a path such as http://127.0.0.1:8080"
        )
    return url.scheme, url.netloc


class _Session(requests.Session):
    """The connections to one endpoint.

    The SDK would make such a session itself and keep it in a table of its own for ever. This one is put into
    that table in its place, because it can be closed, follows NO_PROXY, and keeps of an error answer what the
    SDK drops: Retry-After, and the status where the body is not the API's.
    """

    def __init__(self, connections: int) -> None:
        super().__init__()
        for prefix in ("http://", "https://"):
            self.mount(prefix, _Adapter(pool_maxsize=connections))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        kwargs["proxies"] = get_environ_proxies(request.url or "")
        response = super().send(request, **kwargs)
        if response.status_code >= 400:
            wait = _retry_after(response.headers.get("Retry-After", ""))
            if wait:
                # In milliseconds, and heard by the SDK, which passes it on with the exception.
                response.headers.setdefault("x-acs-retry-after", str(int(wait * 1000)))
            if not _is_api_error(response):
                raise NotTheApiError(response.status_code, wait)
        return response


class _Adapter(HTTPAdapter):
    def close(self) -> None:
        """Close connections now, and not when nothing refers to them any more: an old traceback may."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  no mapping: it can't be iterated over
                manager.pools[key].close()
        super().close()


def _is_api_error(response: requests.Response) -> bool:
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header: seconds or a date (RFC 9110, 10.2.3). 0 if it is neither."""
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
