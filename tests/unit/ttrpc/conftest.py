"""A trial service whose handlers each test sets, and the raw end of a connection, to play either side."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.wrappers_pb2 import DESCRIPTOR as WRAPPERS
from google.protobuf.wrappers_pb2 import StringValue

from caa.errors import Code
from caa.proto import ttrpc_pb2
from caa.ttrpc import CallContext, Client, Flag, Frame, FrameType, Oversized, Server, encode_frame, read_frame

PATIENCE = 20  # seconds; only a test that fails waits so long

STRING = ".google.protobuf.StringValue"


def _declare_service() -> ServiceDescriptor:
    file = FileDescriptorProto(
        name="trial.proto", package="trial", syntax="proto3", dependency=[WRAPPERS.name]
    )
    methods = file.service.add(name="Trial").method
    methods.add(name="Unary", input_type=STRING, output_type=STRING)
    methods.add(name="Absent", input_type=STRING, output_type=STRING)
    methods.add(name="Replies", input_type=STRING, output_type=STRING, server_streaming=True)
    methods.add(name="Join", input_type=STRING, output_type=STRING, client_streaming=True)
    methods.add(
        name="Chat", input_type=STRING, output_type=STRING, client_streaming=True, server_streaming=True
    )
    Default().AddSerializedFile(file.SerializeToString())
    return Default().FindServiceByName("trial.Trial")


class Trial:
    """Implements the service with what a test sets; echoes otherwise."""

    def __init__(self) -> None:
        self.unary: Callable[[StringValue, CallContext], Awaitable[Any]] = self._echo
        self.replies: Callable[[StringValue, CallContext], AsyncIterator[Any]] = self._letters
        self.join: Callable[[AsyncIterator[StringValue], CallContext], Awaitable[Any]] = self._joined
        self.chat: Callable[[AsyncIterator[StringValue], CallContext], AsyncIterator[Any]] = self._echoes

    async def Unary(self, request: StringValue, context: CallContext) -> Any:  # noqa: N802  # the RPC's name
        return await self.unary(request, context)

    def Replies(self, request: StringValue, context: CallContext) -> AsyncIterator[Any]:  # noqa: N802  # as above
        return self.replies(request, context)

    async def Join(self, request: AsyncIterator[StringValue], context: CallContext) -> Any:  # noqa: N802  # as above
        return await self.join(request, context)

    def Chat(self, request: AsyncIterator[StringValue], context: CallContext) -> AsyncIterator[Any]:  # noqa: N802  # as above
        return self.chat(request, context)

    async def _echo(self, request: StringValue, context: CallContext) -> StringValue:
        return request

    async def _letters(self, request: StringValue, context: CallContext) -> AsyncIterator[StringValue]:
        for letter in request.value:
            yield StringValue(value=letter)

    async def _joined(self, request: AsyncIterator[StringValue], context: CallContext) -> StringValue:
        return StringValue(value="+".join([message.value async for message in request]))

    async def _echoes(
        self, request: AsyncIterator[StringValue], context: CallContext
    ) -> AsyncIterator[StringValue]:
        async for message in request:
            yield message


class Peer:
    """One end of a connection, in frames. Whatever it waits for, it waits for PATIENCE at most."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *frames: Frame | bytes) -> None:
        for frame in frames:
            self.writer.write(encode_frame(frame) if isinstance(frame, Frame) else frame)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def request(
        self, stream_id: int, value: str = "", *, method: str = "Unary", flags: int = 0, **fields: Any
    ) -> None:
        """A call of trial.Trial, whose message is `value`; `fields` are further ones of ttrpc.Request."""
        payload = StringValue(value=value).SerializeToString()
        request = ttrpc_pb2.Request(
            **{"service": "trial.Trial", "method": method, "payload": payload} | fields
        )
        await self.send(Frame(stream_id, FrameType.REQUEST, flags, request.SerializeToString()))

    async def data(self, stream_id: int, value: str, flags: int = 0) -> None:
        await self.send(Frame(stream_id, FrameType.DATA, flags, StringValue(value=value).SerializeToString()))

    async def close_stream(self, stream_id: int) -> None:
        await self.send(Frame(stream_id, FrameType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b""))

    async def respond(self, stream_id: int, value: str = "", **status: Any) -> None:
        payload = StringValue(value=value).SerializeToString()
        response = ttrpc_pb2.Response(payload=payload)
        if status:
            response.status.CopyFrom(ttrpc_pb2.Status(**status))
        await self.send(Frame(stream_id, FrameType.RESPONSE, 0, response.SerializeToString()))

    async def receive(self) -> Frame:
        async with asyncio.timeout(PATIENCE):
            frame = await read_frame(self.reader)
        assert frame is not None, "the connection was closed"
        assert not isinstance(frame, Oversized)
        return frame

    async def receive_request(self) -> tuple[Frame, ttrpc_pb2.Request]:
        frame = await self.receive()
        assert frame.type == FrameType.REQUEST
        return frame, ttrpc_pb2.Request.FromString(frame.data)

    async def receive_response(self) -> tuple[int, ttrpc_pb2.Response]:
        frame = await self.receive()
        assert (frame.type, frame.flags) == (FrameType.RESPONSE, 0)
        return frame.stream_id, ttrpc_pb2.Response.FromString(frame.data)

    async def value(self, stream_id: int) -> str:
        """What the next frame, a response that is OK, says on this stream."""
        answered, response = await self.receive_response()
        assert (answered, response.status.code, response.status.message) == (stream_id, Code.OK, "")
        return StringValue.FromString(response.payload).value

    async def failure(self, stream_id: int) -> tuple[Code, str]:
        """What the next frame, a response that is not OK, says on this stream."""
        answered, response = await self.receive_response()
        assert answered == stream_id
        assert response.status.code != Code.OK
        assert response.payload == b""
        return Code(response.status.code), response.status.message

    async def message(self, stream_id: int) -> str:
        """What the next frame, a data frame, says on this stream."""
        frame = await self.receive()
        assert (frame.stream_id, frame.type, frame.flags) == (stream_id, FrameType.DATA, 0)
        return StringValue.FromString(frame.data).value

    async def end_of_stream(self, stream_id: int) -> None:
        frame = await self.receive()
        assert frame == Frame(stream_id, FrameType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b"")

    async def end_of_connection(self) -> None:
        async with asyncio.timeout(PATIENCE):
            assert await self.reader.read(1) == b""

    async def works(self, stream_id: int) -> None:
        """The connection is still good for a call."""
        await self.request(stream_id, "still here", method="Join", flags=Flag.REMOTE_CLOSED)
        assert await self.value(stream_id) == "still here"

    async def close(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def _pair() -> tuple[Peer, Peer]:
    ends = [await asyncio.open_unix_connection(sock=end) for end in socket.socketpair()]
    return Peer(*ends[0]), Peer(*ends[1])


@pytest.fixture(name="pair")
def pair_fixture() -> Callable[[], Awaitable[tuple[Peer, Peer]]]:
    """Makes both ends of a connection."""
    return _pair


@pytest.fixture
def service() -> ServiceDescriptor:
    return _declare_service()


@pytest.fixture
def trial() -> Trial:
    return Trial()


@pytest.fixture
def server(service: ServiceDescriptor, trial: Trial) -> Server:
    server = Server()
    server.register(service, trial)
    return server


Connect = Callable[[Server], Awaitable[tuple[Peer, asyncio.Task[None]]]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects to a server: gives our end, and the task that serves the other."""
    peers: list[Peer] = []
    tasks: list[asyncio.Task[None]] = []

    async def connect(server: Server) -> tuple[Peer, asyncio.Task[None]]:
        ours, theirs = await _pair()
        task = asyncio.create_task(server.serve(theirs.reader, theirs.writer))
        peers.append(ours)
        tasks.append(task)
        return ours, task

    yield connect
    for peer in peers:
        await peer.close()
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if not (r is None or isinstance(r, asyncio.CancelledError))] == []


@pytest.fixture
async def peer(server: Server, connect: Connect) -> Peer:
    """A raw client of `server`."""
    peer, _ = await connect(server)
    return peer


@pytest.fixture
async def raw_server() -> AsyncIterator[tuple[Client, Peer]]:
    """A client, and the raw other end of its connection."""
    ours, theirs = await _pair()
    async with Client(ours.reader, ours.writer) as client:
        yield client, theirs
        await theirs.close()


async def call(client: Client, value: str = "", **options: Any) -> str:
    response = await client.call("trial.Trial", "Unary", StringValue(value=value), StringValue, **options)
    return response.value


@pytest.fixture(name="call")
def call_fixture() -> Callable[..., Awaitable[str]]:
    return call
