"""Our TLS material and contexts against Go's crypto/tls, which existing pod VM images and nodes use."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from caa.agent_proxy import Connection, Forwarder, connect
from caa.errors import FailedPreconditionError
from caa.podvm import Authority, Credentials, client_context, server_context

PATIENCE = 20.0
VM = "podvm-web-12345678"
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


@pytest.fixture(scope="session")
def tlspeer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("there is no Go to build tlspeer with")
    binary = tmp_path_factory.mktemp("tlspeer") / "tlspeer"
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    subprocess.run(
        ["go", "build", "-o", binary, "."], cwd=Path(__file__).parent / "tlspeer", env=environment, check=True
    )
    return binary


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.load_or_create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.load_or_create(tmp_path_factory.mktemp("stranger"))


def write(folder: Path, **texts: str) -> list[str]:
    """Each text in a file of its own; their paths, in order."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in texts]


async def dial_with_go(tlspeer: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        tlspeer, "dial", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            return (await process.communicate())[0].decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


Serve = Callable[..., Awaitable[int]]


@pytest.fixture
async def serve_with_go(tlspeer: Path) -> AsyncIterator[Serve]:
    """Starts `tlspeer serve`, and gives its port."""
    running: list[asyncio.subprocess.Process] = []

    async def serve(*arguments: str) -> int:
        process = await asyncio.create_subprocess_exec(
            tlspeer, "serve", *arguments, stdout=asyncio.subprocess.PIPE
        )
        running.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            address = (await process.stdout.readline()).decode().strip()
        return int(address.rpartition(":")[2])

    yield serve
    for process in running:
        process.kill()
        # Reads to the end, so that nothing is left open.
        await process.communicate()


async def echoes(connection: Connection) -> bytes:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    connection.attach(got.set_result, lambda: False, connection)
    connection.flow()
    connection.write(b"from Python\n")
    async with asyncio.timeout(PATIENCE):
        line = await got
        await connection.lost
    return line


# A Go forwarder, our daemon


@VERSIONS
async def test_a_go_forwarder_accepts_us(
    serve_with_go: Serve, authority: Authority, tmp_path: Path, version: str
) -> None:
    certificate, key = authority.issue(VM)
    port = await serve_with_go(
        *write(tmp_path, cert=certificate, key=key, ca=authority.client_certificate), version
    )
    forwarder = Forwarder("127.0.0.1", port, VM, client_context(authority))
    assert await echoes(await connect(forwarder, timeout=PATIENCE)) == b"from Python\n"


@VERSIONS
async def test_its_refusal_is_noticed_at_once(
    serve_with_go: Serve, authority: Authority, stranger: Authority, tmp_path: Path, version: str
) -> None:
    certificate, key = authority.issue(VM)
    port = await serve_with_go(
        *write(tmp_path, cert=certificate, key=key, ca=authority.client_certificate), version
    )
    impostor = client_context(replace(authority, client=stranger.client))
    with pytest.raises(FailedPreconditionError, match="it refuses our certificate"):
        await connect(Forwarder("127.0.0.1", port, VM, impostor), timeout=PATIENCE)
    both = client_context(authority)
    connection = await connect(Forwarder("127.0.0.1", port, VM, impostor, (both,)), timeout=PATIENCE)
    assert await echoes(connection) == b"from Python\n"


@VERSIONS
async def test_a_go_forwarder_with_another_certificate_is_refused(
    serve_with_go: Serve, authority: Authority, stranger: Authority, tmp_path: Path, version: str
) -> None:
    certificate, key = stranger.issue(VM)
    port = await serve_with_go(
        *write(tmp_path, cert=certificate, key=key, ca=authority.client_certificate), version
    )
    with pytest.raises(FailedPreconditionError, match="not the one we expect"):
        await connect(Forwarder("127.0.0.1", port, VM, client_context(authority)), timeout=PATIENCE)


# A Go daemon, our forwarder


@pytest.fixture
async def our_forwarder(authority: Authority) -> AsyncIterator[str]:
    """Echoes a line; gives its address."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    context = server_context(Credentials(*authority.issue(VM)), client_ca=authority.client_certificate)
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


@VERSIONS
async def test_a_go_daemon_is_accepted(
    tlspeer: Path, our_forwarder: str, authority: Authority, tmp_path: Path, version: str
) -> None:
    files = write(
        tmp_path, cert=authority.client.certificate, key=authority.client.key, ca=authority.ca.certificate
    )
    assert await dial_with_go(tlspeer, our_forwarder, VM, *files, version) == "from Go"


@VERSIONS
async def test_another_go_daemon_is_refused_and_told_why(
    tlspeer: Path, our_forwarder: str, authority: Authority, stranger: Authority, tmp_path: Path, version: str
) -> None:
    files = write(
        tmp_path, cert=stranger.client.certificate, key=stranger.client.key, ca=authority.ca.certificate
    )
    assert "unknown certificate authority" in await dial_with_go(tlspeer, our_forwarder, VM, *files, version)


@VERSIONS
async def test_a_go_daemon_checks_our_name_and_ca(
    tlspeer: Path, our_forwarder: str, authority: Authority, stranger: Authority, tmp_path: Path, version: str
) -> None:
    files = write(
        tmp_path, cert=authority.client.certificate, key=authority.client.key, ca=authority.ca.certificate
    )
    answer = await dial_with_go(tlspeer, our_forwarder, "podvm-web-87654321", *files, version)
    assert "certificate is valid for podvm-web-12345678, not podvm-web-87654321" in answer
    files[2:] = write(tmp_path, ca=stranger.ca.certificate)
    answer = await dial_with_go(tlspeer, our_forwarder, VM, *files, version)
    assert "certificate signed by unknown authority" in answer
