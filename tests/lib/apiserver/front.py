"""The front: who may come in, with what, and how answers go out. Faults strike here."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from apiserver import discovery, errors
from apiserver.calls import Call, understand
from apiserver.faults import Fault, Faults
from apiserver.handlers import LARGEST_BODY, Answer, Handlers, Sent, Watching
from apiserver.rbac import NOBODY, Rbac, User, refusal
from apiserver.resources import ACCESS_REVIEWS
from apiserver.store import Store
from apiserver.tokens import Tokens
from apiserver.watch import Watch


@dataclass
class Request:
    """One that came, for tests to count."""

    call: Call
    user: str = ""
    status: int = 0
    """Of the answer; 0 if there was no whole one, or none yet."""


class Front:
    def __init__(self, store: Store, rbac: Rbac, tokens: Tokens, faults: Faults) -> None:
        self._store = store
        self._rbac = rbac
        self._tokens = tokens
        self._faults = faults
        self._handlers = Handlers(store, rbac)
        self._connections: set[asyncio.Transport] = set()
        self.requests: list[Request] = []
        self.watches: set[Watch] = set()

    def abort(self) -> None:
        """Reset the connections of all requests that are under way."""
        for connection in tuple(self._connections):
            connection.abort()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = understand(request.method, request.path, request.query)
        record = Request(call)
        self.requests.append(record)
        with self._connected(request):
            try:
                user = self._authenticate(request)
            except errors.StatusError as error:
                record.status = error.code
                return _refusal(error)
            record.user = user.name
            fault = self._faults.strike(call)
            answer: web.Response | Watching | None = None
            if fault is None or fault.after_effect or fault.answer == "cut":
                answer = await self._answer(request, call, user)
            if fault is not None:
                spoiled = await _spoil(fault, request, answer)
                answer = answer if spoiled is None else spoiled
            if answer is None:
                answer = await self._answer(request, call, user)
            if isinstance(answer, Watching):
                record.status = 200
                return await self._stream(request, answer)
            if fault is None or fault.answer not in ("drop", "cut"):
                record.status = answer.status
            return answer

    @contextlib.contextmanager
    def _connected(self, request: web.Request) -> Iterator[None]:
        transport = request.transport
        assert transport is not None
        self._connections.add(transport)
        try:
            yield
        finally:
            self._connections.discard(transport)

    def _authenticate(self, request: web.Request) -> User:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return NOBODY
        user = self._tokens.user(token.strip())
        if user is None:
            raise errors.unauthorized()
        return user

    async def _answer(self, request: web.Request, call: Call, user: User) -> web.Response | Watching:
        try:
            if not self._rbac.allows(user, call):
                raise errors.forbidden(call.group, call.resource, call.name, refusal(user, call))
            if not _accepts_json(request.headers.get("Accept", "")):
                raise errors.not_acceptable(["application/json", "application/yaml"])
            groups = {ACCESS_REVIEWS.group, *(each.group for each in self._store.resources)}
            if not call.resource or call.group not in groups:
                return self._page(call)
            content_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
            sent = Sent(request.query, content_type, await _read(request))
            answer = self._handlers.perform(call, user, sent)
        except errors.StatusError as error:
            return _refusal(error)
        if isinstance(answer, Answer):
            return _json(answer.body, answer.status)
        return answer

    def _page(self, call: Call) -> web.Response:
        """What is no object: of an API group that nobody has defined too. There the 404 is no JSON."""
        page = None if call.resource else discovery.document(call.path, self._store.resources)
        if page is None:
            headers = {"X-Content-Type-Options": "nosniff"}
            return web.Response(text="404 page not found\n", status=404, headers=headers)
        return web.Response(text=page) if isinstance(page, str) else _json(page)

    async def _stream(self, request: web.Request, watching: Watching) -> web.StreamResponse:
        response = await _begin_stream(request)
        watch = watching.watch
        self.watches.add(watch)
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(watching.timeout, watch.time_out) if watching.timeout else None
        try:
            async with contextlib.aclosing(watch.events(watching.version)) as events:
                async for event in events:
                    await response.write(json.dumps(event).encode() + b"\n")
            await response.write_eof()
        except ConnectionError:
            pass  # the client is gone, or was sent away
        finally:
            self.watches.discard(watch)
            if deadline:
                deadline.cancel()
        return response


async def _begin_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=_JSON)
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


async def _read(request: web.Request) -> bytes:
    with contextlib.suppress(web.HTTPRequestEntityTooLarge):
        body = await request.read()
        if len(body) <= LARGEST_BODY:
            return body
    raise errors.too_large(f"limit is {LARGEST_BODY}")


def _accepts_json(accept: str) -> bool:
    offered = [each.partition(";")[0].strip() for each in accept.split(",")]
    return not accept or bool({"application/json", "application/*", "*/*"} & set(offered))


_JSON = {"Content-Type": "application/json"}
"""Without a charset: there are clients that look for just this."""


def _json(document: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), status=status, headers=_JSON)


def _refusal(error: errors.StatusError) -> web.Response:
    return _json(error.body, error.code)


async def _spoil(
    fault: Fault, request: web.Request, answer: web.Response | Watching | None
) -> web.Response | None:
    """What goes out instead of the answer; None if it only comes late."""
    await asyncio.sleep(fault.delay)
    match fault.answer:
        case "hang":
            await asyncio.Event().wait()
        case "drop":
            return _cut_off(request)
        case "cut":
            return await _cut_in_the_middle(request, answer)
        case "garbage":
            return web.Response(body=b"<html>not what you asked for", headers=_JSON)
    if not fault.status:
        return None
    if fault.status == 429:  # by priority and fairness, which doesn't answer in JSON
        text, headers = "Too many requests, please try again later.", {"Retry-After": "1"}
        return web.Response(text=text, status=429, headers=headers | dict(fault.headers))
    answer = _refusal(errors.generic(fault.status))
    answer.headers.update(fault.headers)
    return answer


async def _cut_in_the_middle(request: web.Request, answer: web.Response | Watching | None) -> web.Response:
    if isinstance(answer, web.Response):
        assert isinstance(answer.body, bytes)
        response = web.StreamResponse(status=answer.status, headers=_JSON)
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
    else:
        response = await _begin_stream(request)
        await response.write(b'{"type":"ADDED","object":{"kind":')
    return _cut_off(request)


def _cut_off(request: web.Request) -> web.Response:
    """Close the connection, after what was written to it."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()  # goes nowhere
