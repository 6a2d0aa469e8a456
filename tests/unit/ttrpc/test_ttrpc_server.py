"""Each rule of the server, told by the frames that a raw client sends and gets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caa.errors import CaaError, Code, DeadlineExceededError, NotFoundError, UnavailableError
from caa.ttrpc import (
    MAX_DATA,
    CallContext,
    Flag,
    Frame,
    FrameType,
    Oversized,
    RpcError,
    Server,
    encode_frame,
    inbox,
    transport,
)

if TYPE_CHECKING:
    from tests.unit.ttrpc.conftest import Connect, Peer, Trial

PATIENCE = 20


class Hanging:
    """A handler that waits until it is cancelled; its cleanup takes until `let_go` is set."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.cleaned_up = False

    async def __call__(self, request: object, context: CallContext) -> StringValue:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()
            await self.let_go.wait()
            self.cleaned_up = True
        return StringValue()


async def within_patience(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await event.wait()


def raising(error: BaseException) -> Callable[[StringValue, CallContext], Awaitable[StringValue]]:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        raise error

    return handler


# Calls


async def test_a_call_is_answered_with_one_response(peer: "Peer") -> None:
    await peer.request(1, "hello")
    frame = await peer.receive()
    assert frame == Frame(
        1, FrameType.RESPONSE, 0, b"\x12\x07" + b"\x0a\x05hello"
    )  # no status, just a payload


async def test_an_empty_message_is_a_message(peer: "Peer") -> None:
    await peer.request(1, "")
    assert await peer.value(1) == ""


async def test_requests_run_concurrently_and_are_answered_in_any_order(peer: "Peer", trial: "Trial") -> None:
    arrived = asyncio.Barrier(3)
    turns = [asyncio.Event() for _ in range(3)]

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        await arrived.wait()
        await turns[int(request.value)].wait()
        return request

    trial.unary = handler
    for i in range(3):
        await peer.request(2 * i + 1, str(i))
    for i in (2, 0, 1):
        turns[i].set()
        assert await peer.value(2 * i + 1) == str(i)


async def test_a_thousand_at_once(peer: "Peer", trial: "Trial") -> None:
    everyone = asyncio.Barrier(1000)

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        await everyone.wait()
        return request

    trial.unary = handler
    for i in range(1000):
        await peer.request(2 * i + 1, str(i))
    answered = {(await peer.receive()).stream_id for _ in range(1000)}
    assert answered == set(range(1, 2001, 2))


async def test_metadata_reaches_the_handler_by_lower_case_keys(peer: "Peer", trial: "Trial") -> None:
    seen: list[Any] = []

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        seen.append(context)
        return request

    trial.unary = handler
    pairs = [{"key": "Trace", "value": "a"}, {"key": "who", "value": "b"}, {"key": "trace", "value": "c"}]
    await peer.request(1, metadata=pairs)
    await peer.value(1)
    assert seen == [CallContext({"trace": ["a", "c"], "who": ["b"]}, None)]


# Stream ids


async def test_an_even_id_is_refused(peer: "Peer") -> None:
    await peer.request(2)
    code, message = await peer.failure(2)
    assert code == Code.INVALID_ARGUMENT
    assert "even" in message
    await peer.works(3)


@pytest.mark.parametrize("stream_id", [5, 3])
async def test_an_id_must_be_above_the_last(peer: "Peer", stream_id: int) -> None:
    await peer.request(5)
    await peer.value(5)
    await peer.request(stream_id)
    code, message = await peer.failure(stream_id)
    assert code == Code.INVALID_ARGUMENT
    assert "5" in message
    await peer.works(7)


async def test_the_id_of_a_running_call_ends_it_when_used_again(peer: "Peer", trial: "Trial") -> None:
    trial.unary = hanging = Hanging()
    await peer.request(1)
    await within_patience(hanging.started)
    await peer.request(1)
    assert (await peer.failure(1))[0] == Code.INVALID_ARGUMENT
    await within_patience(hanging.cancelled)
    await peer.works(3)  # and nothing more was said on stream 1


# What is not understood


async def test_an_unknown_service_is_unimplemented(peer: "Peer") -> None:
    await peer.request(1, service="trial.Other")
    code, message = await peer.failure(1)
    assert code == Code.UNIMPLEMENTED
    assert "trial.Other" in message
    await peer.works(3)


@pytest.mark.parametrize("method", ["Absent", "Unheard", "unary", "__init__"])
async def test_a_method_that_the_service_or_its_implementation_lacks_is_unimplemented(
    peer: "Peer", method: str
) -> None:
    await peer.request(1, method=method)
    code, message = await peer.failure(1)
    assert code == Code.UNIMPLEMENTED
    assert method in message
    await peer.works(3)


async def test_a_request_that_does_not_decode_is_invalid(peer: "Peer") -> None:
    await peer.send(Frame(1, FrameType.REQUEST, 0, b"\xff\xff"))
    assert (await peer.failure(1))[0] == Code.INVALID_ARGUMENT
    await peer.works(3)


async def test_a_message_that_does_not_decode_is_invalid(peer: "Peer") -> None:
    await peer.request(1, payload=b"\xff\xff")
    code, message = await peer.failure(1)
    assert code == Code.INVALID_ARGUMENT
    assert "trial.Trial/Unary" in message
    assert "google.protobuf.StringValue" in message
    await peer.works(3)


@pytest.mark.parametrize("kind", [0, FrameType.RESPONSE, 4, 255])
@pytest.mark.parametrize("stream_id", [0, 1])
async def test_frames_of_other_types_are_ignored(peer: "Peer", kind: int, stream_id: int) -> None:
    await peer.send(Frame(stream_id, kind, 255, b"abc"))
    await peer.works(1)


# Sizes


async def test_the_largest_request(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        return StringValue(value=str(len(request.value)))

    trial.unary = handler
    await peer.request(1, "x" * (MAX_DATA - 32))
    assert await peer.value(1) == str(MAX_DATA - 32)


async def test_an_oversized_request_is_refused_and_skipped(peer: "Peer") -> None:
    header = Oversized(1, FrameType.REQUEST, 0, MAX_DATA + 1)
    await peer.send(header.encode_header())
    code, message = await peer.failure(1)
    assert code == Code.RESOURCE_EXHAUSTED
    assert str(MAX_DATA + 1) in message
    await peer.send(bytes(header.length))
    await peer.works(3)


async def test_oversized_data_ends_its_stream(peer: "Peer", trial: "Trial") -> None:
    trial.join = hanging = Hanging()
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    await within_patience(hanging.started)
    header = Oversized(1, FrameType.DATA, 0, MAX_DATA + 1)
    await peer.send(header.encode_header(), bytes(header.length))
    assert (await peer.failure(1))[0] == Code.RESOURCE_EXHAUSTED
    await within_patience(hanging.cancelled)
    await peer.request(3)
    assert await peer.value(3) == ""


async def test_an_oversized_response_becomes_a_status(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        return StringValue(value="x" * MAX_DATA)

    trial.unary = handler
    await peer.request(1)
    assert (await peer.failure(1))[0] == Code.RESOURCE_EXHAUSTED
    await peer.works(3)


async def test_an_oversized_message_ends_a_stream_with_a_status(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: StringValue, context: CallContext) -> AsyncIterator[StringValue]:
        yield StringValue(value="a")
        yield StringValue(value="x" * MAX_DATA)

    trial.replies = handler
    await peer.request(1, method="Replies", flags=Flag.REMOTE_CLOSED)
    assert await peer.message(1) == "a"
    assert (await peer.failure(1))[0] == Code.RESOURCE_EXHAUSTED
    await peer.works(3)


# Errors of handlers


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NotFoundError("no sandbox 7"), Code.NOT_FOUND, "no sandbox 7"),
        (CaaError("odd"), Code.UNKNOWN, "odd"),
        (RpcError(Code.ABORTED, "told before"), Code.ABORTED, "told before"),
    ],
)
async def test_our_errors_become_their_code_and_message(
    peer: "Peer", trial: "Trial", error: CaaError, code: Code, message: str
) -> None:
    trial.unary = raising(error)
    await peer.request(1)
    assert await peer.failure(1) == (code, message)
    await peer.works(3)


async def test_other_exceptions_become_unknown_and_are_logged(
    peer: "Peer", trial: "Trial", capsys: pytest.CaptureFixture[str]
) -> None:
    trial.unary = raising(KeyError("eth0"))
    await peer.request(1)
    assert await peer.failure(1) == (Code.UNKNOWN, "KeyError: 'eth0'")
    logged = "".join(capsys.readouterr())
    assert "trial.Trial/Unary" in logged
    assert "Traceback" in logged
    await peer.works(3)


async def test_an_exception_that_can_not_say_what_it_is(peer: "Peer", trial: "Trial") -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    trial.unary = raising(MuteError())
    await peer.request(1)
    assert await peer.failure(1) == (Code.UNKNOWN, "MuteError")
    await peer.works(3)


async def test_a_message_that_is_not_unicode_or_endless(peer: "Peer", trial: "Trial") -> None:
    trial.unary = raising(NotFoundError("file \udcff" + "x" * MAX_DATA))
    await peer.request(1)
    code, message = await peer.failure(1)
    assert code == Code.NOT_FOUND
    assert message.startswith("file \\udcffxxx")
    assert len(message) < MAX_DATA


@pytest.mark.parametrize("answer", [None, "text", Empty()])
async def test_an_answer_of_the_wrong_type_is_the_handlers_mistake(
    peer: "Peer", trial: "Trial", answer: object
) -> None:
    async def handler(request: StringValue, context: CallContext) -> object:
        return answer

    trial.unary = handler
    await peer.request(1)
    code, message = await peer.failure(1)
    assert code == Code.UNKNOWN
    assert type(answer).__name__ in message
    await peer.works(3)


async def test_a_cancellation_from_within_is_a_status(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task
        return request

    trial.unary = handler
    await peer.request(1)
    assert (await peer.failure(1))[0] == Code.CANCELLED
    await peer.works(3)


# Deadlines


async def test_a_handler_is_cancelled_at_the_deadline(peer: "Peer", trial: "Trial") -> None:
    trial.unary = hanging = Hanging()
    await peer.request(1, timeout_nano=500_000_000)
    assert (await peer.failure(1))[0] == Code.DEADLINE_EXCEEDED
    assert hanging.cleaned_up
    await peer.works(3)


@pytest.mark.parametrize("timeout_nano", [-1, -(2**63), 1])
async def test_a_call_whose_deadline_has_passed_does_not_start(
    peer: "Peer", trial: "Trial", timeout_nano: int
) -> None:
    trial.unary = hanging = Hanging()
    await peer.request(1, timeout_nano=timeout_nano)
    assert (await peer.failure(1))[0] == Code.DEADLINE_EXCEEDED
    assert not hanging.started.is_set()


async def test_a_handler_sees_its_deadline(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        assert context.deadline is not None
        left = context.deadline - asyncio.get_running_loop().time()
        return StringValue(value="ok" if 3599 < left < 3600 else f"{left}")

    trial.unary = handler
    await peer.request(1, timeout_nano=3600 * 10**9)
    assert await peer.value(1) == "ok"


async def test_the_longest_timeout(peer: "Peer") -> None:
    await peer.request(1, "a", timeout_nano=2**63 - 1)
    assert await peer.value(1) == "a"


async def test_a_handlers_own_timeout_is_not_the_deadline(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return request

    trial.unary = handler
    await peer.request(1, timeout_nano=3600 * 10**9)
    assert (await peer.failure(1))[0] == Code.UNKNOWN


@pytest.mark.parametrize("ending", ["returns", "raises", "raises ours"])
async def test_past_the_deadline_the_answer_is_that(peer: "Peer", trial: "Trial", ending: str) -> None:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if ending == "raises":
                raise RuntimeError("while cleaning up") from None
            if ending == "raises ours":
                raise UnavailableError("while cleaning up") from None
        return request

    trial.unary = handler
    await peer.request(1, timeout_nano=10_000_000)
    assert (await peer.failure(1))[0] == Code.DEADLINE_EXCEEDED
    await peer.works(3)


async def test_a_deadline_ends_a_stream(peer: "Peer", trial: "Trial") -> None:
    async def handler(
        request: AsyncIterator[StringValue], context: CallContext
    ) -> AsyncIterator[StringValue]:
        async for message in request:
            yield message

    trial.chat = handler
    await peer.request(1, "a", method="Chat", flags=Flag.REMOTE_OPEN, timeout_nano=500_000_000)
    assert await peer.message(1) == "a"
    assert (await peer.failure(1))[0] == Code.DEADLINE_EXCEEDED
    await peer.works(3)


async def test_our_deadline_error_passes_through(peer: "Peer", trial: "Trial") -> None:
    trial.unary = raising(DeadlineExceededError("the VM did not boot"))
    await peer.request(1)
    assert await peer.failure(1) == (Code.DEADLINE_EXCEEDED, "the VM did not boot")


# The end of a connection


async def test_when_the_client_leaves_handlers_are_cancelled_and_awaited(
    server: Server, connect: "Connect", trial: "Trial"
) -> None:
    trial.unary = hanging = Hanging()
    peer, serving = await connect(server)
    await peer.request(1)
    await within_patience(hanging.started)
    hanging.let_go.clear()
    await peer.close()
    await within_patience(hanging.cancelled)
    assert not serving.done()
    hanging.let_go.set()
    async with asyncio.timeout(PATIENCE):
        await serving
    assert hanging.cleaned_up


async def test_a_client_that_only_stops_sending_has_left(peer: "Peer", trial: "Trial") -> None:
    trial.unary = hanging = Hanging()
    await peer.request(1)
    await within_patience(hanging.started)
    peer.writer.write_eof()
    await peer.end_of_connection()
    assert hanging.cleaned_up


async def test_what_was_written_is_sent_before_the_connection_closes(peer: "Peer", trial: "Trial") -> None:
    asked = asyncio.Event()

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        asked.set()
        return StringValue(value="x" * 4_000_000)

    trial.unary = handler
    await peer.request(1)
    await within_patience(asked)
    peer.writer.write_eof()
    assert len(await peer.value(1)) == 4_000_000
    await peer.end_of_connection()


async def test_a_cut_off_frame_is_no_request(peer: "Peer", trial: "Trial") -> None:
    await peer.send(encode_frame(Frame(1, FrameType.REQUEST, 0, b"abc"))[:-1])
    peer.writer.write_eof()
    await peer.end_of_connection()


async def test_when_serve_is_cancelled_handlers_are_cancelled_and_awaited(
    server: Server, connect: "Connect", trial: "Trial"
) -> None:
    trial.unary = hanging = Hanging()
    peer, serving = await connect(server)
    await peer.request(1)
    await within_patience(hanging.started)
    hanging.let_go.clear()
    serving.cancel()
    await within_patience(hanging.cancelled)
    assert not serving.done()
    hanging.let_go.set()
    await peer.end_of_connection()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert hanging.cleaned_up


async def test_a_handler_that_streams_is_closed_when_the_client_leaves(
    server: Server, connect: "Connect", trial: "Trial"
) -> None:
    closed = asyncio.Event()

    async def handler(request: StringValue, context: CallContext) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield StringValue(value="x" * 1000)
        finally:
            closed.set()

    trial.replies = handler
    peer, serving = await connect(server)
    await peer.request(1, method="Replies", flags=Flag.REMOTE_CLOSED)
    await peer.receive()
    await peer.close()
    async with asyncio.timeout(PATIENCE):
        await serving
    assert closed.is_set()


# Streams


async def test_server_streaming(peer: "Peer") -> None:
    await peer.request(1, "ab", method="Replies", flags=Flag.REMOTE_CLOSED)
    assert await peer.message(1) == "a"
    assert await peer.message(1) == "b"
    await peer.end_of_stream(1)
    await peer.works(3)


async def test_server_streaming_without_a_message(peer: "Peer") -> None:
    await peer.request(1, "", method="Replies", flags=Flag.REMOTE_CLOSED)
    await peer.end_of_stream(1)


async def test_an_error_amid_a_stream_ends_it(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: StringValue, context: CallContext) -> AsyncIterator[StringValue]:
        yield StringValue(value="a")
        raise NotFoundError("no more")

    trial.replies = handler
    await peer.request(1, method="Replies", flags=Flag.REMOTE_CLOSED)
    assert await peer.message(1) == "a"
    assert await peer.failure(1) == (Code.NOT_FOUND, "no more")
    await peer.works(3)


async def test_client_streaming(peer: "Peer") -> None:
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    await peer.data(1, "a")
    await peer.data(1, "")  # zero bytes, but a message
    await peer.data(1, "b")
    await peer.close_stream(1)
    assert await peer.value(1) == "a++b"


async def test_the_first_message_may_come_with_the_request(peer: "Peer") -> None:
    await peer.request(1, "a", method="Join", flags=Flag.REMOTE_OPEN)
    await peer.data(1, "b")
    await peer.close_stream(1)
    assert await peer.value(1) == "a+b"


async def test_the_last_message_may_close_the_stream(peer: "Peer") -> None:
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    await peer.data(1, "a")
    await peer.data(1, "b", Flag.REMOTE_CLOSED)
    assert await peer.value(1) == "a+b"


@pytest.mark.parametrize("flags", [0, Flag.REMOTE_CLOSED])
async def test_a_client_that_may_stream_but_does_not(peer: "Peer", flags: int) -> None:
    await peer.request(1, "a", method="Join", flags=flags)
    assert await peer.value(1) == "a"


async def test_bidirectional_streaming(peer: "Peer") -> None:
    await peer.request(1, method="Chat", flags=Flag.REMOTE_OPEN)
    for value in ("a", "b"):
        await peer.data(1, value)
        assert await peer.message(1) == value
    await peer.close_stream(1)
    await peer.end_of_stream(1)


async def test_no_data_without_a_close_is_nothing(peer: "Peer") -> None:
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    await peer.send(Frame(1, FrameType.DATA, Flag.NO_DATA, b""))
    await peer.data(1, "a", Flag.REMOTE_CLOSED)
    assert await peer.value(1) == "a"


async def test_a_message_amid_a_stream_that_does_not_decode(peer: "Peer") -> None:
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    await peer.send(Frame(1, FrameType.DATA, 0, b"\xff"))
    assert (await peer.failure(1))[0] == Code.INVALID_ARGUMENT
    await peer.works(3)


async def test_data_for_a_stream_that_never_was(peer: "Peer") -> None:
    await peer.data(7, "a")
    code, message = await peer.failure(7)
    assert code == Code.INVALID_ARGUMENT
    assert "7" in message
    await peer.works(9)


async def test_data_for_a_stream_that_has_ended(peer: "Peer") -> None:
    await peer.request(1)
    await peer.value(1)
    await peer.data(1, "a")
    assert (await peer.failure(1))[0] == Code.INVALID_ARGUMENT
    await peer.works(3)


async def test_data_for_a_unary_call_ends_it(peer: "Peer", trial: "Trial") -> None:
    trial.unary = hanging = Hanging()
    await peer.request(1)
    await within_patience(hanging.started)
    await peer.data(1, "a")
    assert (await peer.failure(1))[0] == Code.INVALID_ARGUMENT
    await within_patience(hanging.cancelled)
    await peer.works(3)


async def test_a_call_that_was_ended_says_nothing_more(peer: "Peer", trial: "Trial") -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        ended.set()
        return request

    trial.unary = handler
    await peer.request(1)
    await within_patience(started)
    await peer.data(1, "a")
    assert (await peer.failure(1))[0] == Code.INVALID_ARGUMENT
    await within_patience(ended)
    await peer.works(3)


async def test_data_after_the_client_closed_its_side_ends_the_stream(peer: "Peer", trial: "Trial") -> None:
    trial.join = hanging = Hanging()
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    await within_patience(hanging.started)
    await peer.close_stream(1)
    await peer.data(1, "a")
    assert (await peer.failure(1))[0] == Code.INVALID_ARGUMENT
    await within_patience(hanging.cancelled)


async def test_a_handler_may_answer_before_the_client_is_done(peer: "Peer", trial: "Trial") -> None:
    async def handler(request: AsyncIterator[StringValue], context: CallContext) -> StringValue:
        return await anext(request)

    trial.join = handler
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    await peer.data(1, "enough")
    assert await peer.value(1) == "enough"


# Bounds


async def test_data_that_is_not_taken_ends_its_stream_only(
    peer: "Peer", trial: "Trial", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "STALL_SECONDS", 0.01)
    trial.join = hanging = Hanging()
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    for _ in range(inbox.MAX_ITEMS + 1):
        await peer.data(1, "a")
    assert (await peer.failure(1))[0] == Code.RESOURCE_EXHAUSTED
    await within_patience(hanging.cancelled)
    await peer.request(3, "b")
    assert await peer.value(3) == "b"


async def test_data_that_waits_to_be_taken_is_dropped_when_the_handler_ends(
    peer: "Peer", trial: "Trial", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "STALL_SECONDS", PATIENCE)
    finish = asyncio.Event()

    async def handler(request: AsyncIterator[StringValue], context: CallContext) -> StringValue:
        await finish.wait()
        return StringValue(value="enough")

    trial.join = handler
    await peer.request(1, method="Join", flags=Flag.REMOTE_OPEN)
    for _ in range(inbox.MAX_ITEMS + 1):
        await peer.data(1, "a")
    await peer.request(3, "after that")
    finish.set()
    assert await peer.value(1) == "enough"
    async with asyncio.timeout(PATIENCE / 2):
        assert await peer.value(3) == "after that"


async def test_too_many_requests_at_once(
    service: ServiceDescriptor, connect: "Connect", trial: "Trial"
) -> None:
    server = Server(max_requests=2)
    server.register(service, trial)
    trial.unary = hanging = Hanging()
    peer, _ = await connect(server)
    for stream_id in (1, 3, 5):
        await peer.request(stream_id)
    code, message = await peer.failure(5)
    assert code == Code.RESOURCE_EXHAUSTED
    assert "2" in message
    await peer.data(3, "ends that call")
    assert (await peer.failure(3))[0] == Code.INVALID_ARGUMENT
    await within_patience(hanging.cancelled)
    await peer.works(7)


async def test_a_client_that_does_not_read_is_not_read_from(peer: "Peer") -> None:
    """So the memory that its answers take is bounded; and once it reads, it gets them all."""
    count, value = 1000, "x" * 32768

    async def ask() -> None:
        for i in range(count):
            await peer.request(2 * i + 1, value)

    asking = asyncio.create_task(ask())
    done, _ = await asyncio.wait([asking], timeout=0.5)
    assert not done
    answered = set()
    for _ in range(count):
        stream_id, response = await peer.receive_response()
        assert StringValue.FromString(response.payload).value == value
        answered.add(stream_id)
    await asking
    assert answered == set(range(1, 2 * count, 2))


async def test_answers_are_written_one_at_a_time(
    server: Server, pair: Callable[[], Awaitable[tuple["Peer", "Peer"]]], trial: "Trial"
) -> None:
    """However many are ready, no more than one lies in the connection's buffer."""
    ours, theirs = await pair()
    everyone = asyncio.Barrier(10)
    size = 3_000_000

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        await everyone.wait()
        return StringValue(value="x" * size)

    trial.unary = handler
    serving = asyncio.create_task(server.serve(theirs.reader, theirs.writer))
    buffer: Any = theirs.writer.transport
    for i in range(10):
        await ours.request(2 * i + 1)
    for _ in range(10):
        await ours.receive()
        assert buffer.get_write_buffer_size() < 2 * size
    await ours.close()
    await serving


async def test_refusals_are_bounded_too(peer: "Peer") -> None:
    async def ask() -> None:
        while True:
            await peer.send(*[Frame(2, FrameType.REQUEST, 0, b"")] * 1000)

    asking = asyncio.create_task(ask())
    done, _ = await asyncio.wait([asking], timeout=0.5)
    assert not done
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    assert (await peer.failure(2))[0] == Code.INVALID_ARGUMENT


async def test_a_client_that_never_reads_can_not_hold_the_connection_open(
    server: Server, connect: "Connect", trial: "Trial", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CLOSE_SECONDS", 0.01)
    asked = asyncio.Event()

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        asked.set()
        return StringValue(value="x" * 4_000_000)

    trial.unary = handler
    peer, serving = await connect(server)
    await peer.request(1)
    await within_patience(asked)
    async with asyncio.timeout(PATIENCE):
        await server.close(0)
        await serving


# Shutdown


async def test_shutdown_closes_idle_connections(server: Server, connect: "Connect") -> None:
    peer, serving = await connect(server)
    await peer.works(1)
    await server.close(PATIENCE)
    await peer.end_of_connection()
    assert serving.done()


async def test_shutdown_lets_running_requests_end_and_refuses_new_ones(
    server: Server, connect: "Connect", trial: "Trial"
) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def handler(request: StringValue, context: CallContext) -> StringValue:
        started.set()
        await finish.wait()
        return request

    trial.unary = handler
    peer, _ = await connect(server)
    await peer.request(1, "a")
    await within_patience(started)
    closing = asyncio.create_task(server.close(PATIENCE))
    await asyncio.sleep(0)
    await peer.request(3)
    code, message = await peer.failure(3)
    assert code == Code.UNAVAILABLE
    assert "shutting down" in message
    finish.set()
    assert await peer.value(1) == "a"
    await peer.end_of_connection()
    await closing


async def test_shutdown_lets_a_stream_end(server: Server, connect: "Connect") -> None:
    peer, _ = await connect(server)
    await peer.request(1, "a", method="Chat", flags=Flag.REMOTE_OPEN)
    await peer.message(1)
    closing = asyncio.create_task(server.close(PATIENCE))
    await asyncio.sleep(0)
    await peer.data(1, "b")
    assert await peer.message(1) == "b"
    await peer.close_stream(1)
    await peer.end_of_stream(1)
    await peer.end_of_connection()
    await closing


async def test_after_the_grace_handlers_are_cancelled(
    server: Server, connect: "Connect", trial: "Trial"
) -> None:
    trial.unary = hanging = Hanging()
    peer, serving = await connect(server)
    await peer.request(1)
    await within_patience(hanging.started)
    await server.close(0.01)
    assert hanging.cleaned_up
    assert serving.done()
    await peer.end_of_connection()


async def test_a_closed_server_takes_no_connection(server: Server, connect: "Connect") -> None:
    await server.close(0)
    peer, serving = await connect(server)
    await peer.end_of_connection()
    await serving


async def test_closing_twice(server: Server, connect: "Connect", trial: "Trial") -> None:
    trial.unary = hanging = Hanging()
    peer, serving = await connect(server)
    await peer.request(1)
    await within_patience(hanging.started)
    await asyncio.gather(server.close(0.01), server.close(0.01))
    await server.close(0)
    assert serving.done()


# Registration


def test_a_service_is_registered_once(server: Server, service: ServiceDescriptor, trial: "Trial") -> None:
    with pytest.raises(ValueError, match=r"trial\.Trial"):
        server.register(service, trial)


def test_an_object_without_any_of_the_methods_is_no_implementation(service: ServiceDescriptor) -> None:
    with pytest.raises(TypeError, match=r"object has no method of the service trial\.Trial"):
        Server().register(service, object())


# Anything at all

garbage = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda *fields: encode_frame(Frame(*fields)),
            st.integers(0, 6),
            st.integers(0, 4),
            st.integers(0, 7),
            st.one_of(
                st.binary(max_size=20),
                st.sampled_from(
                    [
                        b"\x0a\x0btrial.Trial\x12" + bytes([len(method)]) + method + b"\x1a\x03\x0a\x01x"
                        for method in (b"Unary", b"Replies", b"Join", b"Chat")
                    ]
                ),
            ),
        ),
    ),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=garbage)
async def test_no_bytes_make_the_server_fail_or_hang(
    server: Server, connect: "Connect", pieces: list[bytes]
) -> None:
    peer, serving = await connect(server)
    for piece in pieces:
        await peer.send(piece)
    peer.writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        await peer.reader.read(-1)
        await serving


frames_only = st.lists(
    st.builds(Frame, st.integers(0, 30), st.integers(0, 4), st.integers(0, 7), st.binary(max_size=20)),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=frames_only)
async def test_after_any_frames_the_connection_still_works(
    server: Server, connect: "Connect", frames: list[Frame]
) -> None:
    peer, _ = await connect(server)
    await peer.send(*frames)
    await peer.request(31, "still here")
    while (answer := await peer.receive()).stream_id != 31:
        assert answer.type in (FrameType.RESPONSE, FrameType.DATA)
    assert answer.type == FrameType.RESPONSE
