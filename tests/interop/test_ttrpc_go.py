"""Our ttRPC against containerd's, in Go: our client with its server, and its client with our server."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.wrappers_pb2 import DESCRIPTOR as WRAPPERS
from google.protobuf.wrappers_pb2 import StringValue

from caa.errors import Code, NotFoundError
from caa.proto import ttrpc_pb2
from caa.ttrpc import (
    MAX_DATA,
    CallContext,
    Client,
    ClientStream,
    ConnectionClosedError,
    Flag,
    Frame,
    FrameType,
    Oversized,
    RpcError,
    Server,
    encode_frame,
    read_frame,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="needs Go, to build containerd's ttRPC"),
    pytest.mark.timeout(600),  # the first build downloads and compiles all that it needs
]

SERVICE = "interop.Trial"
PATIENCE = 30


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("interop") / "ttrpcpeer"
    subprocess.run(
        ["go", "build", "-buildvcs=false", "-o", program, "."],
        cwd=Path(__file__).parent / "ttrpcpeer",
        check=True,
        timeout=500,
    )
    return program


@pytest.fixture(scope="session")
def go_socket(go_program: Path) -> Iterator[Path]:
    socket = go_program.parent / "go.sock"
    with subprocess.Popen([go_program, "serve", socket], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield socket
        server.kill()


# Our client, its server


@pytest.fixture
async def client(go_socket: Path) -> AsyncIterator[Client]:
    async with asyncio.timeout(PATIENCE), await Client.connect_unix(go_socket) as client:
        yield client


async def call(
    client: Client,
    method: str,
    value: str = "",
    *,
    service: str = SERVICE,
    timeout: float | None = None,
    metadata: dict[str, str] | None = None,
) -> str:
    request = StringValue(value=value)
    response = await client.call(service, method, request, StringValue, timeout=timeout, metadata=metadata)
    return response.value


def stream(client: Client, method: str, request: str | None = None) -> ClientStream[StringValue]:
    message = None if request is None else StringValue(value=request)
    return client.stream(SERVICE, method, message, StringValue)


@pytest.mark.parametrize("value", ["", "hello", "x" * 3_900_000], ids=["empty", "small", "large"])
async def test_go_server_answers(client: Client, value: str) -> None:
    assert await call(client, "Echo", value) == value


async def test_go_server_answers_many(client: Client) -> None:
    values = [str(i) for i in range(500)]
    assert await asyncio.gather(*(call(client, "Echo", value) for value in values)) == values


async def test_go_server_gets_metadata(client: Client) -> None:
    assert await call(client, "Metadata", "trace", metadata={"trace": "a", "other": "b"}) == "a"


async def test_go_server_fails(client: Client) -> None:
    with pytest.raises(RpcError) as caught:
        await call(client, "Fail", "no sandbox 7")
    assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "no sandbox 7")
    detail = AnyMessage()
    detail.Pack(StringValue(value="detail"))
    assert caught.value.details == (detail,)


@pytest.mark.parametrize(("service", "method"), [("interop.Other", "Echo"), (SERVICE, "Other")])
async def test_go_server_lacks(client: Client, service: str, method: str) -> None:
    with pytest.raises(RpcError) as caught:
        await call(client, method, service=service)
    assert caught.value.code == Code.UNIMPLEMENTED


async def test_go_server_sees_the_deadline(go_socket: Path) -> None:
    """Sent by hand, since our client does not wait for the server's word on it."""
    request = ttrpc_pb2.Request(service=SERVICE, method="Wait", timeout_nano=10_000_000)
    assert await answers(go_socket, [Frame(1, FrameType.REQUEST, 0, request.SerializeToString())], 1) == [
        (1, Code.DEADLINE_EXCEEDED)
    ]


async def test_our_deadline(client: Client) -> None:
    with pytest.raises(RpcError) as caught:
        await call(client, "Wait", timeout=0.05)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert await call(client, "Echo", "still here") == "still here"


@pytest.mark.parametrize("letters", ["", "a", "abc"])
async def test_go_server_streams(client: Client, letters: str) -> None:
    async with stream(client, "Letters", letters) as replies:
        assert "".join([reply.value async for reply in replies]) == letters


async def test_go_server_fails_amid_a_stream(client: Client) -> None:
    async with stream(client, "Letters", "a!") as replies:
        assert (await anext(replies)).value == "a"
        with pytest.raises(RpcError, match="no more letters") as caught:
            await anext(replies)
        assert caught.value.code == Code.ABORTED


@pytest.mark.parametrize("values", [[], ["a"], ["a", "", "b"]])
async def test_go_server_reads_a_stream(client: Client, values: list[str]) -> None:
    async with stream(client, "Join") as joining:
        for value in values:
            await joining.send(StringValue(value=value))
        await joining.close_send()
        assert (await joining.response()).value == "+".join(values)


async def test_go_server_chats(client: Client) -> None:
    async with stream(client, "Chat") as chat:
        for value in map(str, range(100)):
            await chat.send(StringValue(value=value))
            assert (await anext(chat)).value == value
        await chat.close_send()
        assert [reply async for reply in chat] == []


async def test_go_server_dies(go_program: Path) -> None:
    socket = go_program.parent / "short-lived.sock"
    server = await asyncio.create_subprocess_exec(go_program, "serve", socket, stdout=subprocess.PIPE)
    assert server.stdout is not None
    await server.stdout.readline()
    async with asyncio.timeout(PATIENCE), await Client.connect_unix(socket) as client:
        waiting = asyncio.ensure_future(call(client, "Wait"))
        assert await call(client, "Echo", "a") == "a"
        server.kill()
        with pytest.raises(ConnectionClosedError):
            await waiting
    await server.wait()


# Its client, our server


class Trial:
    def __init__(self) -> None:
        self.waits_cancelled = 0
        self.hung_up = asyncio.Event()

    async def Echo(self, request: StringValue, context: CallContext) -> StringValue:  # noqa: N802  # the RPC's name
        return request

    async def Metadata(self, request: StringValue, context: CallContext) -> StringValue:  # noqa: N802  # as above
        return StringValue(value=",".join(context.metadata.get(request.value, ())))

    async def Fail(self, request: StringValue, context: CallContext) -> StringValue:  # noqa: N802  # as above
        raise NotFoundError(request.value)

    async def Crash(self, request: StringValue, context: CallContext) -> StringValue:  # noqa: N802  # as above
        raise KeyError("eth0")

    async def Wait(self, request: StringValue, context: CallContext) -> StringValue:  # noqa: N802  # as above
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.waits_cancelled += 1
            raise
        return request

    async def Repeat(self, request: StringValue, context: CallContext) -> StringValue:  # noqa: N802  # as above
        return StringValue(value="x" * int(request.value))

    async def HangUp(self, request: StringValue, context: CallContext) -> StringValue:  # noqa: N802  # as above
        self.hung_up.set()
        await asyncio.Event().wait()
        return request

    async def Letters(self, request: StringValue, context: CallContext) -> AsyncIterator[StringValue]:  # noqa: N802  # as above
        for letter in request.value:
            if letter == "!":
                raise RpcError(Code.ABORTED, "no more letters")
            yield StringValue(value=letter)

    async def Join(self, request: AsyncIterator[StringValue], context: CallContext) -> StringValue:  # noqa: N802  # as above
        return StringValue(value="+".join([message.value async for message in request]))

    async def Chat(  # noqa: N802  # as above
        self, request: AsyncIterator[StringValue], context: CallContext
    ) -> AsyncIterator[StringValue]:
        async for message in request:
            yield message


@pytest.fixture(scope="session")
def service() -> ServiceDescriptor:
    kind = ".google.protobuf.StringValue"
    file = FileDescriptorProto(name="interop.proto", package="interop", syntax="proto3")
    file.dependency.append(WRAPPERS.name)
    methods = file.service.add(name="Trial").method
    for name in ("Echo", "Metadata", "Fail", "Crash", "Wait", "Repeat", "HangUp", "Letters", "Join", "Chat"):
        methods.add(
            name=name,
            input_type=kind,
            output_type=kind,
            client_streaming=name in ("Join", "Chat"),
            server_streaming=name in ("Letters", "Chat"),
        )
    Default().AddSerializedFile(file.SerializeToString())
    return Default().FindServiceByName(SERVICE)


@pytest.fixture
async def our_server(tmp_path: Path, service: ServiceDescriptor) -> AsyncIterator[tuple[Path, Server, Trial]]:
    server, trial = Server(), Trial()
    server.register(service, trial)
    socket = tmp_path / "our.sock"
    listener = await asyncio.start_unix_server(server.serve, socket)
    yield socket, server, trial
    listener.close()
    await server.close(PATIENCE)


async def test_go_client_calls_us(go_program: Path, our_server: tuple[Path, Server, Trial]) -> None:
    socket, server, trial = our_server
    calling = await asyncio.create_subprocess_exec(go_program, "call", socket, stdout=subprocess.PIPE)
    async with asyncio.timeout(PATIENCE):
        reading = asyncio.ensure_future(calling.communicate())
        await trial.hung_up.wait()
        await server.close(0)
        output, _ = await reading
    results = json.loads(output)
    oversized = results.pop("oversized response")
    assert oversized.startswith("ResourceExhausted: a ttRPC message of 5000010 bytes ")
    assert results == {
        "echo": "hello",
        "echo of nothing": "",
        "metadata": "a,b",
        "failure": "NotFound: no sandbox 7",
        "crash": "Unknown: KeyError: 'eth0'",
        "no service": "Unimplemented: service 'interop.Other' is not served here",
        "no method": "Unimplemented: service interop.Trial has no method 'Other' here",
        "large": "3900000",
        "large response": "3900000",
        "timeout": "at the deadline",
        "letters": "a,b,c",
        "no letters": "",
        "letters then failure": "Aborted: a,b rpc error: code = Aborted desc = no more letters",
        "join": "a+b+c",
        "join nothing": "",
        "chat": ",".join(map(str, range(100))),
        "concurrent": "200",
        "hang up": "closed",
    }
    assert trial.waits_cancelled == 1


# Both servers


def request(stream_id: int, method: str = "Echo", *, flags: int = 0, service: str = SERVICE) -> Frame:
    message = ttrpc_pb2.Request(service=service, method=method)
    return Frame(stream_id, FrameType.REQUEST, flags, message.SerializeToString())


async def answers(socket: Path, sent: Sequence[Frame | bytes], count: int) -> list[tuple[int, int]]:
    """The next `count` frames after `sent`, each a response: its stream id and its status.

    The connection still works then.
    """
    reader, writer = await asyncio.open_unix_connection(socket)

    async def answer() -> tuple[int, int]:
        frame = await read_frame(reader)
        assert isinstance(frame, Frame)
        assert frame.type == FrameType.RESPONSE
        return frame.stream_id, ttrpc_pb2.Response.FromString(frame.data).status.code

    async with asyncio.timeout(PATIENCE):
        writer.writelines(encode_frame(piece) if isinstance(piece, Frame) else piece for piece in sent)
        seen = [await answer() for _ in range(count)]
        writer.write(encode_frame(request(99)))
        assert await answer() == (99, Code.OK)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return seen


def oversized(stream_id: int) -> bytes:
    header = Oversized(stream_id, FrameType.REQUEST, 0, MAX_DATA + 1)
    return header.encode_header() + bytes(header.length)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param([request(2)], [(2, Code.INVALID_ARGUMENT)], id="even id"),
        pytest.param(
            [Frame(2, FrameType.DATA, 0, b"")], [(2, Code.INVALID_ARGUMENT)], id="data for an even id"
        ),
        pytest.param(
            [request(5, "Join", flags=Flag.REMOTE_OPEN), request(3)],
            [(3, Code.INVALID_ARGUMENT)],
            id="id below the last",
        ),
        pytest.param([request(1, service="x")], [(1, Code.UNIMPLEMENTED)], id="no service"),
        pytest.param([request(1, "x")], [(1, Code.UNIMPLEMENTED)], id="no method"),
        pytest.param(
            [request(1, "x"), request(1)],
            [(1, Code.UNIMPLEMENTED), (1, Code.INVALID_ARGUMENT)],
            id="the id of a refused request is used up",
        ),
        pytest.param(
            [Frame(1, FrameType.REQUEST, 0, b"\xff")], [(1, Code.INVALID_ARGUMENT)], id="no request"
        ),
        pytest.param(
            [Frame(7, FrameType.DATA, 0, b"")], [(7, Code.INVALID_ARGUMENT)], id="data for no stream"
        ),
        pytest.param([oversized(1)], [(1, Code.RESOURCE_EXHAUSTED)], id="oversized"),
        pytest.param([oversized(2)], [(2, Code.RESOURCE_EXHAUSTED)], id="oversized, even id"),
        pytest.param([Frame(1, 4, 0, b"abc"), Frame(1, FrameType.RESPONSE, 0, b"")], [], id="other types"),
        pytest.param(
            [request(1, "Join", flags=Flag.REMOTE_OPEN), Frame(1, FrameType.DATA, 5, b"")],
            [(1, Code.OK)],
            id="a stream",
        ),
    ],
)
@pytest.mark.parametrize("implementation", ["go", "ours"])
async def test_both_servers_answer_alike(
    go_socket: Path,
    our_server: tuple[Path, Server, Trial],
    implementation: str,
    sent: list[Frame | bytes],
    expected: list[tuple[int, Code]],
) -> None:
    socket = go_socket if implementation == "go" else our_server[0]
    assert await answers(socket, sent, len(expected)) == expected
