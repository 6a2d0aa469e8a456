"""Shim, forwarder and agent for tests to play, on real sockets. Every test runs on both event loops."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from caa.agent_proxy import AgentProxy, Forwarder, dial
from caa.podvm import Authority, Credentials, client_context, server_context
from caa.proto import agent_pb2, ttrpc_pb2
from caa.ttrpc import Frame, FrameType, Oversized, encode_frame, read_frame

PATIENCE = 20.0  # seconds; only a test that fails waits so long
VM = "podvm-web-12345678"

_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return _LOOPS


class Peer:
    """One end of a connection, in frames. It waits for PATIENCE at most."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *frames: Frame | bytes) -> None:
        for frame in frames:
            self.writer.write(encode_frame(frame) if isinstance(frame, Frame) else frame)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def call(
        self, stream_id: int, service: str, method: str, payload: bytes = b"", **fields: Any
    ) -> Frame:
        """Send a request, and return its frame."""
        request = ttrpc_pb2.Request(service=service, method=method, payload=payload, **fields)
        frame = Frame(stream_id, FrameType.REQUEST, 0, request.SerializeToString())
        await self.send(frame)
        return frame

    async def create(self, stream_id: int, request: agent_pb2.CreateContainerRequest, **fields: Any) -> Frame:
        return await self.call(
            stream_id, "grpc.AgentService", "CreateContainer", request.SerializeToString(), **fields
        )

    async def receive(self) -> Frame:
        async with asyncio.timeout(PATIENCE):
            frame = await read_frame(self.reader)
        assert frame is not None, "the connection was closed"
        assert not isinstance(frame, Oversized)
        return frame

    async def receive_create(self) -> tuple[Frame, ttrpc_pb2.Request, agent_pb2.CreateContainerRequest]:
        frame = await self.receive()
        call = ttrpc_pb2.Request.FromString(frame.data)
        assert (call.service, call.method) == ("grpc.AgentService", "CreateContainer")
        return frame, call, agent_pb2.CreateContainerRequest.FromString(call.payload)

    async def answer(self, stream_id: int, payload: bytes = b"") -> Frame:
        frame = Frame(
            stream_id, FrameType.RESPONSE, 0, ttrpc_pb2.Response(payload=payload).SerializeToString()
        )
        await self.send(frame)
        return frame

    async def receive_status(self, stream_id: int) -> ttrpc_pb2.Status:
        frame = await self.receive()
        assert (frame.stream_id, frame.type) == (stream_id, FrameType.RESPONSE)
        return ttrpc_pb2.Response.FromString(frame.data).status

    async def ended(self) -> bytes:
        """Wait for the end of the connection; what came before it."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        """What the other end does not read soon is dropped."""
        self.writer.close()
        closed = asyncio.ensure_future(self.writer.wait_closed())
        await asyncio.wait((closed,), timeout=0.1)
        if not closed.done():
            self.writer.transport.abort()
        await asyncio.gather(closed, return_exceptions=True)

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass
class Listener:
    """A server of raw peers, for a test to play."""

    peers: list[Peer] = field(default_factory=list)
    _arrivals: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    _open: list[asyncio.Future[None]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._arrivals.put_nowait(peer)

    async def accept(self) -> Peer:
        async with asyncio.timeout(PATIENCE):
            return await self._arrivals.get()

    async def close(self) -> None:
        for peer in self.peers:
            await peer.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.load_or_create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.load_or_create(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(params=["TLSv1.2", "TLSv1.3"])
def server_tls(request: pytest.FixtureRequest, authority: Authority) -> ssl.SSLContext:
    """A forwarder's TLS, in both versions."""
    context = server_context(Credentials(*authority.issue(VM)), client_ca=authority.client_certificate)
    context.maximum_version = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[
        request.param
    ]
    return context


@pytest.fixture
def client_tls(authority: Authority) -> ssl.SSLContext:
    return client_context(authority)


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


Listen = Callable[..., Awaitable[tuple[Listener, int]]]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Listens on a port of 127.0.0.1: gives the listener and the port."""
    async with contextlib.AsyncExitStack() as closing:

        async def listen(port: int = 0, tls: ssl.SSLContext | None = None) -> tuple[Listener, int]:
            listener = Listener()
            server = await asyncio.start_server(listener.serve, "127.0.0.1", port, ssl=tls)
            closing.push_async_callback(server.wait_closed)
            closing.push_async_callback(listener.close)
            closing.callback(server.close)
            return listener, server.sockets[0].getsockname()[1]

        yield listen


@pytest.fixture
async def agent_listener(tmp_path: Path) -> AsyncIterator[tuple[Listener, Path]]:
    """A Kata agent to play, on a unix socket."""
    listener, path = Listener(), tmp_path / "agent.sock"
    server = await asyncio.start_unix_server(listener.serve, path)
    yield listener, path
    server.close()
    await listener.close()
    await server.wait_closed()


@dataclass
class Proxied:
    """A proxy that listens, before a forwarder that the test plays."""

    proxy: AgentProxy
    path: Path
    forwarder: Listener
    shims: list[Peer] = field(default_factory=list)

    async def shim(self) -> Peer:
        peer = Peer(*await asyncio.open_unix_connection(self.path))
        self.shims.append(peer)
        return peer

    async def pair(self) -> tuple[Peer, Peer]:
        """A shim, and the forwarder's end of its connection."""
        return await self.shim(), await self.forwarder.accept()


async def _proxied(
    forwarder: Listener, port: int, tls: ssl.SSLContext | None, path: Path
) -> AsyncIterator[Proxied]:
    proxy = AgentProxy(path, Forwarder("127.0.0.1", port, VM, tls), structlog.get_logger())
    proxied = Proxied(proxy, path, forwarder)
    try:
        await proxy.connect(PATIENCE)
        await proxy.listen()
        yield proxied
    finally:
        for shim in proxied.shims:
            await shim.close()
        await proxy.close()
    assert not path.exists()


@pytest.fixture
def no_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to reach a forwarder that is there do not overlap, so that it sees one connection for each."""
    monkeypatch.setattr(dial, "_PAUSES", (PATIENCE, 1.0, PATIENCE))


@pytest.fixture
async def proxied(
    no_overlap: None, listen: Listen, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, tmp_path: Path
) -> AsyncIterator[Proxied]:
    """Over TLS."""
    forwarder, port = await listen(tls=server_tls)
    async for each in _proxied(forwarder, port, client_tls, tmp_path / "agent.ttrpc"):
        yield each


@pytest.fixture
async def proxied_plain(no_overlap: None, listen: Listen, tmp_path: Path) -> AsyncIterator[Proxied]:
    """In the clear."""
    forwarder, port = await listen()
    async for each in _proxied(forwarder, port, None, tmp_path / "agent.ttrpc"):
        yield each


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What was logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture(autouse=True)
async def _nothing_is_left_open() -> AsyncIterator[None]:
    """No task and no file descriptor outlives a test's fixtures."""
    yield
    # This fixture is the first that is set up, so it is the last that is torn down.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=PATIENCE)
    assert not [task for task in others if not task.done()]
