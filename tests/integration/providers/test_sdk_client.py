"""The client against servers that behave in ways that the cloud's API does not describe."""

import asyncio
import email.utils
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from darabonba.core import DaraCore

from caa.providers import SANDBOX, CloudCall
from caa.providers.alibabacloud import client as client_module
from caa.providers.alibabacloud.budget import Budget
from caa.providers.alibabacloud.client import ECS, Client
from caa.providers.alibabacloud.errors import ApiError, Kind

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[Client]]
Until = Callable[[Callable[[], object], str], Awaitable[None]]


@pytest.fixture
def serve(stack: AsyncExitStack) -> Serve:
    """Starts a server that answers as the handler does, and gives a client of it, with one thread unless told
    otherwise.
    """

    async def start(handler: Handler, *, threads: int = 1, **options: Any) -> Client:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        client = Client(ECS, endpoint=url, region="cn-beijing", ca_file="", threads=threads, **options)
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


async def test_every_try_is_reported(serve: Serve) -> None:
    answers = [
        web.json_response({"Code": "Throttling.User", "RequestId": "1"}, status=400),
        web.Response(status=502, text="bad gateway"),
        web.json_response({"Code": "InvalidParameter", "RequestId": "3"}, status=400),
        web.json_response({"RequestId": "4"}),
    ]

    async def answer(_: web.Request) -> web.Response:
        return answers.pop(0)

    reported: list[CloudCall] = []
    client = await serve(answer, on_call=reported.append)
    began = time.time()
    SANDBOX.set("ab" * 32)
    for _ in range(3):
        with pytest.raises(ApiError):
            await client.call("RunInstances", {})
    SANDBOX.set("")
    await client.call("RunInstances", {})
    told = [(call.action, call.outcome, call.request_id, call.sandbox) for call in reported]
    assert told == [
        ("RunInstances", "Throttling.User", "1", "ab" * 32),
        ("RunInstances", "HTTP 502", "", "ab" * 32),
        ("RunInstances", "InvalidParameter", "3", "ab" * 32),
        ("RunInstances", "ok", "4", ""),
    ]
    times = [at for call in reported for at in (call.began_at, call.began_at + call.seconds)]
    assert began <= times[0]
    assert times == sorted(times)
    assert times[-1] <= time.time()


async def test_an_abandoned_call_is_reported_when_it_ends_and_one_never_sent_is_not(
    serve: Serve, until: Until
) -> None:
    let_go = asyncio.Event()
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers["x-acs-action"])
        await let_go.wait()
        return web.json_response({"RequestId": "1"})

    reported: list[CloudCall] = []
    client = await serve(answer, on_call=reported.append)
    # They are different actions, so that the second one waits for a thread and not for its turn.
    calls = [asyncio.create_task(client.call(action, {})) for action in ("RunInstances", "DeleteInstance")]
    await until(lambda: asked, "the first request")
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    let_go.set()
    await until(lambda: reported, "the report")
    assert [(call.action, call.outcome) for call in reported] == [("RunInstances", "ok")]
    await client.call("DeleteInstance", {})  # nothing of the cancelled one is left in the way
    assert asked == ["RunInstances", "DeleteInstance"]


async def test_clients_share_a_budget(serve: Serve) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers["x-acs-action"])
        if asked[-1] == "RunInstances":
            return web.json_response({"Code": "Throttling"}, status=400, headers={"Retry-After": "600"})
        return web.json_response({})

    budget = Budget()
    first, second = await serve(answer, budget=budget), await serve(answer, budget=budget)
    with pytest.raises(ApiError):
        await first.call("RunInstances", {})
    for client in (first, second):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.call("RunInstances", {})
        await client.call("DeleteInstance", {})
    assert asked == ["RunInstances", "DeleteInstance", "DeleteInstance"]


async def test_slow_creates_leave_room_for_deletes(serve: Serve, until: Until) -> None:
    let_go = asyncio.Event()
    creating: list[object] = []

    async def answer(request: web.Request) -> web.Response:
        if request.headers["x-acs-action"] == "RunInstances":
            creating.append(request)
            await let_go.wait()
        return web.json_response({})

    client = await serve(answer, threads=4)
    creates = [asyncio.create_task(client.call("RunInstances", {})) for _ in range(20)]
    await until(lambda: len(creating) == 3, "three creates under way")
    await client.call("DeleteInstance", {})
    assert len(creating) == 3
    let_go.set()
    await asyncio.gather(*creates)
    assert len(creating) == 20
