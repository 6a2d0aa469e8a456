"""The client against servers that behave in ways that the cloud's API does not describe."""

import asyncio
import email.utils
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from darabonba.core import DaraCore

from caa.providers.alibabacloud import client as client_module
from caa.providers.alibabacloud.client import ECS, Client
from caa.providers.alibabacloud.errors import ApiError, Kind

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[Client]]
Until = Callable[[Callable[[], object], str], Awaitable[None]]


@pytest.fixture
def serve(stack: AsyncExitStack) -> Serve:
    """Starts a server that answers as the handler does, and gives a client of it with one thread."""

    async def start(handler: Handler) -> Client:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        client = Client(ECS, endpoint=url, region="cn-beijing", ca_file="", threads=1)
        stack.push_async_callback(client.close)
        return client

    return start


async def test_parameters_go_into_the_body(serve: Serve) -> None:
    seen: dict[str, str] = {}

    async def answer(request: web.Request) -> web.Response:
        seen.update({key: str(value) for key, value in (await request.post()).items()})
        seen["query"] = request.query_string
        seen["action"] = request.headers["x-acs-action"]
        return web.json_response({"RequestId": "1"})

    client = await serve(answer)
    long = "x" * 44_000
    await client.call("RunInstances", {"UserData": long, "Tag": [{"Key": "a", "Value": "ü&="}], "Amount": 1})
    assert seen["UserData"] == long
    assert (seen["Tag.1.Key"], seen["Tag.1.Value"], seen["Amount"]) == ("a", "ü&=", "1")
    assert seen["action"] == "RunInstances"
    assert long not in seen["query"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(502, Kind.LOST), (504, Kind.LOST), (503, Kind.THROTTLED), (429, Kind.THROTTLED), (403, Kind.DENIED)],
)
async def test_an_answer_that_is_not_the_apis(serve: Serve, status: int, kind: Kind) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>gateway</html>", content_type="text/html")

    with pytest.raises(ApiError) as caught:
        await (await serve(answer)).call("RunInstances", {})
    assert (caught.value.kind, caught.value.code) == (kind, f"HTTP {status}")


@pytest.mark.parametrize("body", ["", "[]", "<html>", '"x"'])
async def test_success_without_an_answer_is_lost(serve: Serve, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    with pytest.raises(ApiError) as caught:
        await (await serve(answer)).call("RunInstances", {})
    assert caught.value.kind is Kind.LOST


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": email.utils.formatdate(time.time() + 86400, usegmt=True)}, 86400),
        ({"Retry-After": "soon"}, 0),
        ({}, 0),
    ],
)
@pytest.mark.parametrize("is_api", [True, False])
async def test_retry_after_is_read(
    serve: Serve, headers: dict[str, str], seconds: float, is_api: bool
) -> None:
    async def answer(_: web.Request) -> web.Response:
        if is_api:
            return web.json_response({"Code": "Throttling", "Message": ""}, status=503, headers=headers)
        return web.Response(status=503, text="busy", headers=headers)

    with pytest.raises(ApiError) as caught:
        await (await serve(answer)).call("RunInstances", {})
    assert caught.value.kind is Kind.THROTTLED
    assert caught.value.retry_after == pytest.approx(seconds, abs=3600 if seconds == 86400 else 0)


async def test_the_apis_own_retry_after_is_in_milliseconds(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        headers = {"x-acs-retry-after": "2500", "Retry-After": "9"}
        return web.json_response({"Code": "Throttling"}, status=400, headers=headers)

    with pytest.raises(ApiError) as caught:
        await (await serve(answer)).call("RunInstances", {})
    assert caught.value.retry_after == 2.5


async def test_an_answer_that_does_not_come_in_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 0.1)

    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.json_response({})

    with pytest.raises(ApiError, match="no answer in time") as caught:
        await (await serve(answer)).call("RunInstances", {})
    assert caught.value.kind is Kind.LOST


async def test_a_cancelled_call_goes_on_and_one_that_waits_for_a_thread_does_not(
    serve: Serve, until: Until
) -> None:
    asked: list[str] = []
    answered: list[str] = []
    let_go = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        token = str((await request.post())["ClientToken"])
        asked.append(token)
        await let_go.wait()
        answered.append(token)
        return web.json_response({})

    client = await serve(answer)
    calls = [asyncio.create_task(client.call("RunInstances", {"ClientToken": token})) for token in "ab"]
    await until(lambda: asked, "the first request")
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)

    settled = asyncio.create_task(client.settled("a"))
    await client.settled("b")
    assert not settled.done()
    let_go.set()
    await settled
    assert asked == answered == ["a"]


async def test_errors_bring_nothing_of_the_request_along(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"Code": "InvalidParameter", "Message": "no"}, status=400)

    with pytest.raises(ApiError) as caught:
        await (await serve(answer)).call("RunInstances", {"UserData": "secret"})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_closing_leaves_nothing_in_the_sdks_tables(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({})

    client = await serve(answer)
    await client.call("RunInstances", {})
    key = client._session_key
    assert DaraCore._sessions[key] is client._session
    await client.close()
    assert key not in DaraCore._sessions


async def test_closing_closes_connections_that_failures_still_refer_to(serve: Serve, until: Until) -> None:
    transports: list[asyncio.BaseTransport] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        transports.append(request.transport)
        return web.json_response({"Code": "InvalidParameter"}, status=400)

    client = await serve(answer)
    gc.disable()  # the SDK's exceptions are in cycles with their frames, which hold the connection
    try:
        with pytest.raises(ApiError):
            await client.call("RunInstances", {})
        await client.close()
        await until(lambda: [each.is_closing() for each in transports] == [True], "the connection's end")
    finally:
        gc.enable()
