"""Client and server together, over each kind of stream and event loop that they are used with."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.wrappers_pb2 import StringValue

from caa.errors import Code
from caa.ttrpc import CallContext, Client, ConnectionClosedError, RpcError, Server

if TYPE_CHECKING:
    from tests.unit.ttrpc.conftest import Trial

PATIENCE = 30

Run = Callable[[Coroutine[Any, Any, None]], None]
Transport = Callable[[Server], Any]
"""Starts a listener of a server; an async context manager that gives what connects a client to it."""
Connector = Callable[[], Coroutine[Any, Any, Client]]


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context, of a certificate for 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trial")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(pem + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())


@asynccontextmanager
async def over_unix(path: Path, server: Server) -> AsyncIterator[Connector]:
    listener = await asyncio.start_unix_server(server.serve, path)
    yield partial(Client.connect_unix, path)
    listener.close()
    await server.close(PATIENCE)


@asynccontextmanager
async def over_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext], server: Server) -> AsyncIterator[Connector]:
    ours, theirs = tls
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=ours)
    host, port = listener.sockets[0].getsockname()

    async def connect() -> Client:
        return Client(*await asyncio.open_connection(host, port, ssl=theirs))

    yield connect
    listener.close()
    await server.close(PATIENCE)


@pytest.fixture(params=["unix", "tls"])
def transport(
    request: pytest.FixtureRequest, tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> Transport:
    return partial(over_unix, tmp_path / "trial.sock") if request.param == "unix" else partial(over_tls, tls)


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    async def in_time(story: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(PATIENCE):
            await story

    return lambda story: request.param(in_time(story))


async def call(client: Client, value: str, **options: Any) -> str:
    response = await client.call("trial.Trial", "Unary", StringValue(value=value), StringValue, **options)
    return response.value


def test_calls(run: Run, transport: Transport, server: Server) -> None:
    async def story() -> None:
        async with transport(server) as connect, await connect() as client:
            values = [str(i) for i in range(200)]
            assert await asyncio.gather(*(call(client, value) for value in values)) == values

    run(story())


def test_large_messages_side_by_side(run: Run, transport: Transport, server: Server) -> None:
    async def story() -> None:
        async with transport(server) as connect, await connect() as client:
            values = [str(i) * 3_900_000 for i in range(4)]
            assert await asyncio.gather(*(call(client, value) for value in values)) == values

    run(story())


def test_streams(run: Run, transport: Transport, server: Server) -> None:
    async def story() -> None:
        async with transport(server) as connect, await connect() as client:
            values = [str(i) * 1000 for i in range(500)]
            async with client.stream("trial.Trial", "Chat", None, StringValue) as chat:

                async def talk() -> None:
                    for value in values:
                        await chat.send(StringValue(value=value))
                    await chat.close_send()

                talking = asyncio.ensure_future(talk())
                assert [reply.value async for reply in chat] == values
                await talking
            async with client.stream("trial.Trial", "Join", None, StringValue) as joining:
                await joining.send(StringValue(value="a"))
                await joining.send(StringValue(value="b"))
                await joining.close_send()
                assert (await joining.response()).value == "a+b"
            async with client.stream(
                "trial.Trial", "Replies", StringValue(value="ab"), StringValue
            ) as replies:
                assert [reply.value async for reply in replies] == ["a", "b"]

    run(story())


def test_errors_metadata_and_deadlines(
    run: Run, transport: Transport, server: Server, trial: "Trial"
) -> None:
    async def handler(request: StringValue, context: CallContext) -> StringValue:
        if context.deadline is not None:
            await asyncio.Event().wait()
        raise RpcError(Code.ABORTED, context.metadata["why"][0])

    async def story() -> None:
        trial.unary = handler
        async with transport(server) as connect, await connect() as client:
            with pytest.raises(RpcError, match="because") as caught:
                await call(client, "", metadata={"Why": "because"})
            assert caught.value.code == Code.ABORTED
            with pytest.raises(RpcError) as caught:
                await call(client, "", timeout=0.05)
            assert caught.value.code == Code.DEADLINE_EXCEEDED

    run(story())


def test_a_client_that_leaves_ends_its_calls(
    run: Run, transport: Transport, server: Server, trial: "Trial"
) -> None:
    async def story() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def handler(request: StringValue, context: CallContext) -> StringValue:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return request

        trial.unary = handler
        async with transport(server) as connect:
            async with await connect() as client:
                calling = asyncio.ensure_future(call(client, ""))
                await started.wait()
            await ended.wait()
            with pytest.raises(ConnectionClosedError):
                await calling

    run(story())


def test_a_server_that_closes_ends_its_calls(
    run: Run, transport: Transport, server: Server, trial: "Trial"
) -> None:
    async def story() -> None:
        started = asyncio.Event()

        async def handler(request: StringValue, context: CallContext) -> StringValue:
            started.set()
            await asyncio.Event().wait()
            return request

        trial.unary = handler
        async with transport(server) as connect, await connect() as client:
            calling = asyncio.ensure_future(call(client, ""))
            await started.wait()
            await server.close(0.01)
            with pytest.raises(ConnectionClosedError):
                await calling

    run(story())


def test_a_client_that_vanishes(run: Run, transport: Transport, server: Server, trial: "Trial") -> None:
    """Its connection is reset while answers for it are being written."""

    async def story() -> None:
        started = asyncio.Event()

        async def handler(request: StringValue, context: CallContext) -> StringValue:
            started.set()
            return StringValue(value="x" * 4_000_000)

        trial.unary = handler
        async with transport(server) as connect:
            client = await connect()
            calls = [asyncio.ensure_future(call(client, "")) for _ in range(10)]
            await started.wait()
            client._connection._writer.transport.abort()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert ConnectionClosedError in {type(result) for result in results}
            await client.close()
            async with await connect() as another:
                assert len(await call(another, "")) == 4_000_000

    run(story())
