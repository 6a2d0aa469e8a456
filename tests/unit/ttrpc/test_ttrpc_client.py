"""Each rule of the client, told by the frames that a raw server gets and sends."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caa.errors import CaaError, Code, ResourceExhaustedError, UnavailableError
from caa.proto import ttrpc_pb2
from caa.ttrpc import (
    MAX_DATA,
    Client,
    ClientStream,
    ConnectionClosedError,
    Flag,
    Frame,
    FrameType,
    Oversized,
    RpcError,
    client,
    encode_frame,
    inbox,
)

if TYPE_CHECKING:
    from tests.unit.ttrpc.conftest import Peer

PATIENCE = 20

Call = Callable[..., Awaitable[str]]
RawServer = tuple[Client, "Peer"]


def stream(
    client: Client, method: str, request: str | None = None, **options: float
) -> ClientStream[StringValue]:
    message = None if request is None else StringValue(value=request)
    return client.stream("trial.Trial", method, message, StringValue, **options)  # type: ignore[arg-type]  # timeout


# Calls


async def test_a_request_is_written_as_the_contract_says(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client, "hello", metadata={"trace": "a"}))
    frame, request = await server.receive_request()
    assert (frame.stream_id, frame.flags) == (1, 0)
    assert request == ttrpc_pb2.Request(
        service="trial.Trial",
        method="Unary",
        payload=StringValue(value="hello").SerializeToString(),
        metadata=[ttrpc_pb2.KeyValue(key="trace", value="a")],
    )
    await server.respond(1, "there")
    assert await calling == "there"


async def test_ids_are_odd_and_rise_as_they_are_written(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calls = [asyncio.ensure_future(call(client, "x" * 200_000)) for _ in range(20)]
    for i in range(20):
        frame, _ = await server.receive_request()
        assert frame.stream_id == 2 * i + 1
        await server.respond(frame.stream_id, str(i))
    assert await asyncio.gather(*calls) == [str(i) for i in range(20)]


async def test_answers_may_come_in_any_order(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calls = [asyncio.ensure_future(call(client)) for _ in range(3)]
    for _ in calls:
        await server.receive_request()
    for stream_id in (5, 1, 3):
        await server.respond(stream_id, str(stream_id))
    assert await asyncio.gather(*calls) == ["1", "3", "5"]


async def test_a_status_is_raised(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    detail = AnyMessage(type_url="trial/detail", value=b"\x01")
    await server.respond(1, code=Code.NOT_FOUND, message="no sandbox 7", details=[detail])
    with pytest.raises(RpcError) as caught:
        await calling
    error = caught.value
    assert (error.code, error.message, str(error)) == (Code.NOT_FOUND, "no sandbox 7", "no sandbox 7")
    assert error.details == (detail,)


async def test_a_status_that_grpc_does_not_know(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    await server.respond(1, code=99, message="odd")
    with pytest.raises(RpcError, match="status 99: odd") as caught:
        await calling
    assert caught.value.code == Code.UNKNOWN


async def test_a_status_that_is_ok(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    await server.respond(1, "fine", code=Code.OK, message="ignored")
    assert await calling == "fine"


@pytest.mark.parametrize(
    "frame",
    [
        Frame(1, FrameType.RESPONSE, 0, b"\xff"),
        Frame(1, FrameType.RESPONSE, 0, ttrpc_pb2.Response(payload=b"\xff").SerializeToString()),
        Frame(1, FrameType.DATA, 0, b""),
    ],
    ids=["no response", "not that message", "a stream"],
)
async def test_an_answer_that_makes_no_sense(raw_server: RawServer, call: Call, frame: Frame) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    await server.send(frame)
    with pytest.raises(RpcError, match=r"trial\.Trial/Unary") as caught:
        await calling
    assert caught.value.code == Code.INTERNAL
    await still_works(raw_server, call)


async def still_works(raw_server: RawServer, call: Call) -> None:
    """The next call works, whatever came before."""
    client, server = raw_server
    calling = asyncio.ensure_future(call(client, "again"))
    frame, request = await server.receive_request()
    assert request.payload == StringValue(value="again").SerializeToString()
    await server.respond(frame.stream_id, "works")
    assert await calling == "works"


async def test_frames_that_nobody_waits_for_are_discarded(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    await server.send(
        Frame(1, 0, 0, b"of a type to come"),
        Frame(1, FrameType.REQUEST, 0, b""),
        Frame(2, FrameType.REQUEST, 0, b""),
        Frame(7, FrameType.DATA, 0, b""),
        Oversized(9, FrameType.RESPONSE, 0, MAX_DATA + 1).encode_header() + bytes(MAX_DATA + 1),
    )
    await server.respond(3, "not asked")
    await server.respond(1, "asked")
    assert await calling == "asked"


# Sizes


async def test_a_request_that_does_not_fit_is_not_sent(raw_server: RawServer, call: Call) -> None:
    client, _ = raw_server
    with pytest.raises(ResourceExhaustedError, match=str(MAX_DATA)):
        await call(client, "x" * MAX_DATA)
    await still_works(raw_server, call)


async def test_an_oversized_answer_fails_its_call_only(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    first, second = (asyncio.ensure_future(call(client)) for _ in range(2))
    await server.receive_request()
    await server.receive_request()
    header = Oversized(1, FrameType.RESPONSE, 0, MAX_DATA + 1)
    await server.send(header.encode_header() + bytes(header.length))
    await server.respond(3, "fine")
    with pytest.raises(RpcError, match=str(MAX_DATA + 1)) as caught:
        await first
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    assert await second == "fine"


# Giving up


async def test_past_the_timeout_a_call_fails_and_its_late_answer_is_discarded(
    raw_server: RawServer, call: Call
) -> None:
    client, server = raw_server
    with pytest.raises(RpcError, match=r"trial\.Trial/Unary") as caught:
        await call(client, timeout=0.01)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    frame, request = await server.receive_request()
    assert request.timeout_nano == 10_000_000
    assert client._connection._inboxes == {}
    await server.respond(frame.stream_id, "late")
    await still_works(raw_server, call)


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_timeout_that_has_passed_is_not_sent(
    raw_server: RawServer, call: Call, timeout: float
) -> None:
    client, _ = raw_server
    with pytest.raises(RpcError) as caught:
        await call(client, timeout=timeout)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    await still_works(raw_server, call)


async def test_the_longest_timeout(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client, timeout=1e300))
    _, request = await server.receive_request()
    assert request.timeout_nano > 2**61
    await server.respond(1, "a")
    assert await calling == "a"


async def test_the_timeout_holds_while_the_server_does_not_read(raw_server: RawServer, call: Call) -> None:
    client, _ = raw_server
    results = await asyncio.gather(
        *(call(client, "x" * 1_000_000, timeout=0.1) for _ in range(4)), return_exceptions=True
    )
    assert [isinstance(r, RpcError) and r.code for r in results] == [Code.DEADLINE_EXCEEDED] * 4
    assert client._connection._inboxes == {}


async def test_a_cancelled_call_stops_waiting_and_its_late_answer_is_discarded(
    raw_server: RawServer, call: Call
) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await server.respond(1, "late")
    await still_works(raw_server, call)


# The end of the connection


async def test_when_the_server_leaves_all_waiting_calls_fail(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calls = [asyncio.ensure_future(call(client)) for _ in range(3)]
    async with stream(client, "Replies", "") as replies:
        reading = asyncio.ensure_future(anext(replies))
        for _ in range(4):
            await server.receive_request()
        await server.close()
        results = await asyncio.gather(*calls, reading, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionClosedError] * 4
    assert isinstance(results[0], UnavailableError)
    with pytest.raises(ConnectionClosedError):
        await call(client)


async def test_an_answer_that_came_before_the_end_counts(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    await server.respond(1, "just in time")
    await server.close()
    assert await calling == "just in time"


async def test_a_cut_off_answer_is_none(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    await server.send(encode_frame(Frame(1, FrameType.RESPONSE, 0, b"abc"))[:-1])
    server.writer.write_eof()
    with pytest.raises(ConnectionClosedError, match="by the server"):
        await calling


async def test_closing_fails_waiting_calls_and_later_ones(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    calling = asyncio.ensure_future(call(client))
    await server.receive_request()
    await client.close()
    for failing in (calling, call(client)):
        with pytest.raises(ConnectionClosedError, match="by this client"):
            await failing
    await server.end_of_connection()
    await client.close()


async def test_connecting_to_nobody(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await Client.connect_unix(tmp_path / "none.sock")


async def test_a_connection_runs_out_of_ids(
    raw_server: RawServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_STREAM_ID", 1)
    await still_works(raw_server, call)
    with pytest.raises(ConnectionClosedError, match="open another"):
        await call(raw_server[0])


# Streams


async def test_server_streaming(raw_server: RawServer) -> None:
    client, server = raw_server
    async with stream(client, "Replies", "ab") as replies:
        frame, request = await server.receive_request()
        assert (frame.stream_id, frame.flags) == (1, Flag.REMOTE_CLOSED)
        assert request.payload == StringValue(value="ab").SerializeToString()
        await server.data(1, "a")
        await server.data(1, "")  # zero bytes, but a message
        await server.data(1, "b")
        await server.close_stream(1)
        assert [reply.value async for reply in replies] == ["a", "", "b"]
        assert [reply async for reply in replies] == []
        with pytest.raises(ValueError, match="nothing can be sent"):
            await replies.send(StringValue())


async def test_the_last_message_may_end_the_stream(raw_server: RawServer) -> None:
    client, server = raw_server
    async with stream(client, "Replies", "") as replies:
        await server.data(1, "a", Flag.REMOTE_CLOSED)
        assert [reply.value async for reply in replies] == ["a"]


@pytest.mark.parametrize(("value", "seen"), [("", ["a"]), ("b", ["a", "b"])])
async def test_a_response_may_end_the_stream(raw_server: RawServer, value: str, seen: list[str]) -> None:
    client, server = raw_server
    async with stream(client, "Replies", "") as replies:
        await server.data(1, "a")
        await server.respond(1, value)
        assert [reply.value async for reply in replies] == seen


async def test_a_status_amid_a_stream_is_raised_after_what_came_before(raw_server: RawServer) -> None:
    client, server = raw_server
    async with stream(client, "Replies", "") as replies:
        await server.data(1, "a")
        await server.respond(1, code=Code.ABORTED, message="enough")
        assert (await anext(replies)).value == "a"
        with pytest.raises(RpcError, match="enough"):
            await anext(replies)


async def test_client_streaming(raw_server: RawServer) -> None:
    client, server = raw_server
    async with stream(client, "Join") as joining:
        frame, request = await server.receive_request()
        assert (frame.flags, request.payload) == (Flag.REMOTE_OPEN, b"")
        await joining.send(StringValue(value="a"))
        assert await server.message(1) == "a"
        await joining.close_send()
        await server.end_of_stream(1)
        await server.respond(1, "a")
        assert (await joining.response()).value == "a"
        with pytest.raises(RpcError, match="has ended"):
            await joining.response()
        with pytest.raises(ValueError, match="nothing can be sent"):
            await joining.close_send()


async def test_a_single_response_may_be_empty(raw_server: RawServer) -> None:
    client, server = raw_server
    async with stream(client, "Join") as joining:
        await server.respond(1, "")
        assert await joining.response() == StringValue()


async def test_bidirectional_streaming(raw_server: RawServer) -> None:
    client, server = raw_server
    async with stream(client, "Chat") as chat:
        await server.receive_request()
        for value in ("a", "b"):
            await chat.send(StringValue(value=value))
            assert await server.message(1) == value
            await server.data(1, value)
            assert (await anext(chat)).value == value
        await chat.close_send()
        await server.end_of_stream(1)
        await server.close_stream(1)
        assert [reply async for reply in chat] == []


async def test_the_timeout_is_for_the_whole_stream(raw_server: RawServer) -> None:
    client, server = raw_server
    async with stream(client, "Replies", "", timeout=0.5) as replies:
        _, request = await server.receive_request()
        assert request.timeout_nano == 500_000_000
        await server.data(1, "a")
        assert (await anext(replies)).value == "a"
        for _ in range(2):
            with pytest.raises(RpcError) as caught:
                await anext(replies)
            assert caught.value.code == Code.DEADLINE_EXCEEDED


async def test_a_stream_that_was_left_is_forgotten(raw_server: RawServer, call: Call) -> None:
    client, server = raw_server
    async with stream(client, "Replies", ""):
        await server.receive_request()
    for _ in range(2 * inbox.MAX_ITEMS):
        await server.data(1, "a")
    await still_works(raw_server, call)


async def test_a_stream_that_is_not_read_fails_alone(
    raw_server: RawServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "STALL_SECONDS", 0.01)
    client, server = raw_server
    async with stream(client, "Replies", "") as replies:
        await server.receive_request()
        for _ in range(inbox.MAX_ITEMS + 10):
            await server.data(1, "a")
        await still_works(raw_server, call)
        with pytest.raises(RpcError) as caught:
            _ = [reply async for reply in replies]
        assert caught.value.code == Code.RESOURCE_EXHAUSTED


# Anything at all

garbage = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda *fields: encode_frame(Frame(*fields)),
            st.sampled_from([0, 1, 2, 3, 4]),
            st.integers(0, 4),
            st.integers(0, 7),
            st.one_of(
                st.binary(max_size=20), st.just(ttrpc_pb2.Response(payload=b"\x0a\x01a").SerializeToString())
            ),
        ),
    ),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=garbage)
async def test_no_bytes_make_the_client_hang(
    pair: Callable[[], Awaitable[tuple["Peer", "Peer"]]], call: Call, pieces: list[bytes]
) -> None:
    """A call and a stream end, be it with an answer or with one of our errors."""
    ours, server = await pair()

    async def listen(client: Client) -> None:
        async with stream(client, "Replies", "") as replies:
            async for _ in replies:
                pass

    async with asyncio.timeout(PATIENCE), Client(ours.reader, ours.writer) as client:
        calls = [asyncio.ensure_future(call(client)), asyncio.ensure_future(listen(client))]
        await server.receive_request()
        await server.receive_request()
        await server.send(*pieces)
        server.writer.write_eof()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [r for r in results if not (r is None or isinstance(r, (str, CaaError)))] == []
    await server.close()
