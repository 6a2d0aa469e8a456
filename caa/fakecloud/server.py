"""The API over HTTP: RPC-style requests in, JSON answers out.

A request names its action and version in headers (x-acs-action, x-acs-version; today's SDKs) or parameters
(Action, Version), and has its parameters in the query and in a form body. An error's body is {RequestId,
HostId, Code, Message, Recommend}. All services share one listener; the version tells them apart.

What is asked of a call, in this order: a good signature, a rate within the limits, the right to it. Then a
fault may strike it. A call that was refused before does not count for limits and faults.
"""

import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from aiohttp import web

from caa.fakecloud.actions import Service
from caa.fakecloud.calls import Call, CallLog, without_secrets
from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError, missing
from caa.fakecloud.faults import Fault, Faults
from caa.fakecloud.keys import AccessKey
from caa.fakecloud.limits import Limiter
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.ram import Ram
from caa.fakecloud.signature import FORM, RPC_PARAMETERS, SignatureVerifier, SignedRequest

log = structlog.get_logger(__name__)

MAX_REQUEST = 256 * 1024
"""Bytes of a body, and of a request's line: SDKs put all parameters there, 32 KiB of user data too."""
MAX_HEADER = 16 * 1024
MAX_PARAMETERS = 1000


_BUG = ApiError(500, "InternalError", "The request processing has failed due to some unknown error.")


class _DroppedError(Exception):
    """The connection is to be closed without an answer."""


class ApiServer:
    """Finds out who calls what, and answers. The state is the services'."""

    def __init__(
        self,
        services: Iterable[Service],
        *,
        verifier: SignatureVerifier,
        limiter: Limiter,
        ram: Ram,
        faults: Faults,
        calls: CallLog,
        clock: Clock,
    ) -> None:
        self._services = {service.version: service for service in services}
        self._verifier = verifier
        self._limiter = limiter
        self._ram = ram
        self._faults = faults
        self._calls = calls
        self._clock = clock

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The handler of `/`."""
        signed = await _read(request)
        own = {name: value for name, value in signed.parameters.items() if name not in RPC_PARAMETERS}
        call = Call(
            action=signed.named("x-acs-action", "Action"),
            version=signed.named("x-acs-version", "Version"),
            request_id=str(uuid.uuid4()).upper(),
            began_at=self._clock.now(),
            connection=_peer(request),
            parameters=without_secrets(own),
        )
        self._calls.add(call)
        try:
            answer = await self._perform(signed, call, Parameters(own))
        except _DroppedError:
            call.end("dropped", 0, self._clock.now())
            assert request.transport is not None
            request.transport.abort()
            return web.Response()  # goes nowhere
        except ApiError as error:
            return _refusal(request, call, error, self._clock.now())
        except Exception:
            log.exception("call failed inside", action=call.action, request_id=call.request_id)
            return _refusal(request, call, _BUG, self._clock.now())
        call.end("ok", 200, self._clock.now())
        return web.json_response({"RequestId": call.request_id} | answer)

    async def _perform(self, signed: SignedRequest, call: Call, parameters: Parameters) -> dict[str, Any]:
        if signed.method not in ("GET", "POST"):
            # The status is assumed.
            raise ApiError(400, "UnsupportedHTTPMethod", "This http method is not supported.")
        if not call.action:
            raise missing("Action")
        service = self._services.get(call.version)
        if service is None:
            raise ApiError(400, "InvalidVersion", "Specified parameter Version is not valid.")
        perform = self._admit(service, signed, call, parameters)
        fault = self._faults.strike(call.action, parameters.values)
        if fault and not fault.after_effect:
            await self._fail(fault)
        try:
            return perform()
        finally:
            if fault and fault.after_effect:
                await self._fail(fault)

    def _admit(
        self, service: Service, signed: SignedRequest, call: Call, parameters: Parameters
    ) -> Callable[[], dict[str, Any]]:
        """What the call does, once it is let in."""
        name = call.action
        if name in service.anonymous:
            call.signature = "none (anonymous)"
            self._limiter.admit(name)
            return partial(service.actions[name], parameters)
        if name not in service.actions and name not in service.own:
            raise ApiError(
                404, "InvalidAction.NotFound", "Specified api is not found, please check your url and method."
            )
        key = self._verify(signed, call)
        self._limiter.admit(name)
        if name in service.own:
            return partial(service.own[name], parameters, key)
        address = call.connection.rpartition(":")[0]
        self._ram.authorize_call(key, service.name, name, parameters.values, address=address)
        return partial(service.actions[name], parameters)

    def _verify(self, signed: SignedRequest, call: Call) -> AccessKey:
        try:
            key = self._verifier.verify(signed)
        except ApiError as refusal:
            call.signature = refusal.code
            raise
        call.signature = f"{signed.algorithm} ok"
        call.identity = key.identity
        return key

    async def _fail(self, fault: Fault) -> None:
        await self._clock.sleep(fault.delay)
        if fault.drop:
            raise _DroppedError
        if fault.code:
            raise ApiError(fault.answer_status, fault.code, fault.message, headers=fault.headers)


async def _read(request: web.Request) -> SignedRequest:
    # aiohttp's own view of the URL is normalised; the signature is of what was sent.
    url = urlsplit(request.raw_path)
    body = await request.read()
    is_form = request.content_type == FORM
    return SignedRequest(
        method=request.method,
        path=url.path,
        query=_pairs(url.query),
        form=_pairs(body.decode("utf-8", "replace")) if is_form else (),
        headers=[(name, value) for name, value in request.headers.items()],
        body=body,
    )


def _pairs(encoded: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(encoded, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise web.HTTPBadRequest(text="too many parameters") from None


def _peer(request: web.Request) -> str:
    name = request.transport.get_extra_info("peername") if request.transport else None
    return f"{name[0]}:{name[1]}" if name else ""


def _refusal(request: web.Request, call: Call, error: ApiError, now: float) -> web.Response:
    call.end(error.code, error.status, now)
    body = {
        "RequestId": call.request_id,
        "HostId": request.host,
        "Code": error.code,
        "Message": error.message,
        "Recommend": f"https://api.aliyun.com/troubleshoot?q={quote(error.code)}&requestId={call.request_id}",
    }
    return web.json_response(body | error.details, status=error.status, headers=error.headers)
