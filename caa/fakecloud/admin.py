"""The local cloud's own API, under /local/: look inside, order faults, mint tokens.

It speaks JSON and asks for no credentials: whoever reaches the listener may use it. But not other web pages,
which a browser would let at it on behalf of a person who knows nothing of it.

    GET    /local/state     what there is, calls and armed faults; ?calls=N for the last N calls (100)
    GET    /local/events    the same as server-sent events, one now and one after each change
    POST   /local/fault     arm a fault (faults.Fault)
    DELETE /local/fault     disarm all
    POST   /local/stock     {"zone", "type", "stock"}: how many more instances there are; null: any number
    POST   /local/token     {"seconds", "audience", "subject"}, all optional: a service account token

A POST has the content type application/json.
"""

import asyncio
import json
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from caa.fakecloud.books import Books
from caa.fakecloud.faults import Fault
from caa.fakecloud.oidc import AUDIENCE, Issuer
from caa.fakecloud.page import Handler

SHOWN_CALLS = 100
LOOK_EVERY = 0.25
"""Seconds between looks at the books, for each stream of events. Statuses follow from the clock, so there is
nothing that could tell of a change."""
COME_BACK = 1000
"""Milliseconds after which a browser whose stream has ended asks again."""
HEARTBEAT = 15.0
"""Seconds without a change after which a stream says that it is still there."""


class _TokenOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: int = Field(default=3600, ge=-86400, le=86400)
    """Negative: a token that has expired already."""
    audience: str = AUDIENCE
    subject: str = ""


class _StockOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    zone: str
    type: str
    stock: int | None = Field(ge=0)


class Admin:
    def __init__(self, books: Books, issuer: Issuer) -> None:
        self._books = books
        self._issuer = issuer
        self._closing = asyncio.Event()

    def application(self, *more: web.RouteDef) -> web.Application:
        """What is served under /local, with `more` for the page."""
        application = web.Application(middlewares=[self._refuse_other_pages])
        application.add_routes(
            [
                web.get("/state", self._state),
                web.get("/events", self._events),
                web.post("/fault", self._add_fault),
                web.delete("/fault", self._clear_faults),
                web.post("/stock", self._set_stock),
                web.post("/token", self._mint_token),
                *more,
            ]
        )
        application.on_shutdown.append(self._end_streams)
        return application

    @web.middleware
    async def _refuse_other_pages(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Browsers say where a request comes from; programs do not. A name that is not ours may be somebody's
        that leads here (DNS rebinding); an address can't be.
        """
        host = _url(f"//{request.host}").hostname or ""
        if host not in ("localhost", self._books.settings.host) and not _is_address(host):
            raise web.HTTPForbidden(text=f"{host!r} is not this cloud's name: use its address, or localhost")
        origin = request.headers.get(hdrs.ORIGIN)
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("none", "same-origin") or (origin and _url(origin).netloc != request.host):
            raise web.HTTPForbidden(text="other web pages may not use this")
        if request.method == "POST" and request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="the body's content type must be application/json")
        return await handler(request)

    async def _state(self, request: web.Request) -> web.Response:
        wanted = request.query.get("calls", str(SHOWN_CALLS))
        if not wanted.isdecimal():
            raise web.HTTPBadRequest(text="calls must be a number")
        return web.json_response(self._books.state(int(wanted)), headers={"Cache-Control": "no-store"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await stream.prepare(request)
        shown: dict[str, Any] = {}
        quiet = 0.0
        with suppress(ConnectionError):  # nobody looks any more
            await stream.write(f"retry: {COME_BACK}\n\n".encode())
            while not self._closing.is_set() and not _is_gone(request):
                state = self._books.state(SHOWN_CALLS)
                if state != shown:
                    now = {"now": self._books.clock.now()}
                    await stream.write(f"data: {json.dumps(now | state)}\n\n".encode())
                    shown, quiet = state, 0.0
                elif quiet >= HEARTBEAT:
                    await stream.write(b":\n\n")
                    quiet = 0.0
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), LOOK_EVERY)
                quiet += LOOK_EVERY
        return stream

    async def _end_streams(self, _: web.Application) -> None:
        self._closing.set()

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault.model_validate_json(await request.read())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        self._books.faults.add(fault)
        return web.json_response(fault.model_dump())

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._books.faults.clear()
        return web.json_response({})

    async def _set_stock(self, request: web.Request) -> web.Response:
        try:
            order = _StockOrder.model_validate_json(await request.read())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        self._books.stock.set(order.zone, order.type, order.stock)
        return web.json_response(order.model_dump())

    async def _mint_token(self, request: web.Request) -> web.Response:
        try:
            order = _TokenOrder.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        token = self._issuer.mint(
            order.subject or self._books.settings.service_account,
            seconds=order.seconds,
            audience=order.audience,
        )
        return web.json_response({"token": token})


def _url(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"{text!r} is no URL") from None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
