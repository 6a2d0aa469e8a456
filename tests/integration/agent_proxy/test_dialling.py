"""Reaching a forwarder on real sockets: one that comes up late, and ones that are not what they should be."""

import asyncio
import itertools
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from caa.agent_proxy import Connection, Forwarder, connect, dial
from caa.errors import DeadlineExceededError, FailedPreconditionError
from caa.podvm import Authority, Credentials, client_context, server_context

if TYPE_CHECKING:
    from tests.integration.agent_proxy.conftest import Listen

PATIENCE = 20.0
VM = "podvm-web-12345678"


class Attempts:
    """Counts attempts, and remembers which came through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.through: list[int] = []
        self._numbers = itertools.count(1)
        self._real = dial._open
        monkeypatch.setattr(dial, "_open", self._open)

    async def _open(self, forwarder: Forwarder, tls: ssl.SSLContext | None) -> Connection:
        number = self.begun = next(self._numbers)
        connection = await self._real(forwarder, tls)
        self.through.append(number)
        return connection

    async def reach(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.begun < number:
                await asyncio.sleep(0.001)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Attempts:
    return Attempts(monkeypatch)


async def end(connection: Connection) -> None:
    connection.abort()
    await connection.lost


async def test_it_connects_and_tunes_the_socket(
    no_overlap: None,
    listen: "Listen",
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    attempts: Attempts,
) -> None:
    _, port = await listen(tls=server_tls)
    connection = await connect(Forwarder("127.0.0.1", port, VM, client_tls), timeout=PATIENCE)
    assert attempts.begun == 1
    raw = connection._transport.get_extra_info("socket")
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
    # It would end the connection to a peer that lives and does not read.
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
    await end(connection)


async def test_over_ipv6_too(listen: "Listen") -> None:
    listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    server = await asyncio.start_server(lambda _, writer: writer.close(), sock=listening)
    port = listening.getsockname()[1]
    await end(await connect(Forwarder("::1", port, VM, None), timeout=PATIENCE))
    server.close()
    await server.wait_closed()
    with pytest.raises(DeadlineExceededError, match=rf"{VM} at \[::1\]:{port} not reached"):
        await connect(Forwarder("::1", port, VM, None), timeout=0.1)


async def test_a_forwarder_that_starts_late_is_reached(
    listen: "Listen",
    free_port: int,
    client_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
    attempts: Attempts,
) -> None:
    dialling = asyncio.create_task(
        connect(Forwarder("127.0.0.1", free_port, VM, client_tls), timeout=PATIENCE)
    )
    await attempts.reach(3)
    await listen(free_port, server_tls)
    await end(await dialling)


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """A listening socket that takes no more connections, so that further SYNs to it are lost."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        callers = []
        try:
            while True:
                callers.append(socket.socket())
                callers[-1].settimeout(0.3)
                callers[-1].connect(listening.getsockname())
        except TimeoutError:
            yield listening
        finally:
            for caller in callers:
                caller.close()


async def test_lost_syns_are_not_waited_for(deaf: socket.socket, attempts: Attempts) -> None:
    """Once the peer takes connections, a fresh attempt gets through, not one whose SYN the kernel repeats."""
    port = deaf.getsockname()[1]
    dialling = asyncio.create_task(connect(Forwarder("127.0.0.1", port, VM, None), timeout=PATIENCE))
    await attempts.reach(4)
    begun = attempts.begun
    assert attempts.through == []
    deaf.setblocking(False)
    taken = [deaf.accept()[0]]  # makes room for one
    await end(await dialling)
    assert attempts.through[0] > begun
    for each in taken:
        each.close()


async def test_silence_is_told(deaf: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "_CONNECT_SECONDS", 0.1)
    port = deaf.getsockname()[1]
    with pytest.raises(DeadlineExceededError, match=r"last seen: no answer within 0\.1 s"):
        await connect(Forwarder("127.0.0.1", port, VM, None), timeout=1)


async def test_a_handshake_that_stalls_does_not_hold_it_up(
    listen: "Listen",
    free_port: int,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    attempts: Attempts,
) -> None:
    """The first connection is accepted by a program that says nothing; the forwarder takes its place."""
    silent = socket.create_server(("127.0.0.1", free_port))
    dialling = asyncio.create_task(
        connect(Forwarder("127.0.0.1", free_port, VM, client_tls), timeout=PATIENCE)
    )
    await attempts.reach(2)
    silent.close()
    await listen(free_port, server_tls)
    await end(await dialling)


async def test_a_program_without_tls_is_not_taken_for_the_forwarder(
    listen: "Listen", client_tls: ssl.SSLContext
) -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    forwarder = Forwarder("127.0.0.1", server.sockets[0].getsockname()[1], VM, client_tls)
    with pytest.raises(DeadlineExceededError, match=r"WRONG_VERSION_NUMBER|Connection reset"):
        await connect(forwarder, timeout=0.5)
    server.close()
    await server.wait_closed()


# What no further attempt would change


async def fails_at_once(forwarder: Forwarder, attempts: Attempts, reason: str) -> None:
    with pytest.raises(FailedPreconditionError, match=reason):
        await connect(forwarder, timeout=PATIENCE)
    assert attempts.through == []


async def test_another_certificate_fails_at_once(
    listen: "Listen", stranger: Authority, client_tls: ssl.SSLContext, attempts: Attempts
) -> None:
    _, port = await listen(
        tls=server_context(Credentials(*stranger.issue(VM)), client_ca=stranger.client_certificate)
    )
    forwarder = Forwarder("127.0.0.1", port, VM, client_tls)
    await fails_at_once(
        forwarder, attempts, rf"{VM} at 127.0.0.1:{port}: its certificate is not the one we expect"
    )


async def test_another_vms_certificate_fails_at_once(
    listen: "Listen", server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, attempts: Attempts
) -> None:
    _, port = await listen(tls=server_tls)
    forwarder = Forwarder("127.0.0.1", port, "podvm-web-87654321", client_tls)
    await fails_at_once(forwarder, attempts, "Hostname mismatch")


async def test_a_refused_client_certificate_fails_at_once(
    listen: "Listen",
    server_tls: ssl.SSLContext,
    authority: Authority,
    stranger: Authority,
    attempts: Attempts,
) -> None:
    _, port = await listen(tls=server_tls)
    forwarder = Forwarder("127.0.0.1", port, VM, client_context(replace(authority, client=stranger.client)))
    await fails_at_once(forwarder, attempts, "it refuses our certificate or TLS settings: .*UNKNOWN_CA")


async def test_no_client_certificate_fails_at_once(
    listen: "Listen", server_tls: ssl.SSLContext, authority: Authority, attempts: Attempts
) -> None:
    _, port = await listen(tls=server_tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.ca.certificate)
    await fails_at_once(Forwarder("127.0.0.1", port, VM, context), attempts, "it refuses our certificate")


async def test_a_version_that_does_not_fit_fails_at_once(
    listen: "Listen", server_tls: ssl.SSLContext, authority: Authority, attempts: Attempts
) -> None:
    server_tls.maximum_version = ssl.TLSVersion.TLSv1_2
    _, port = await listen(tls=server_tls)
    context = client_context(authority, min_version="VersionTLS13")
    await fails_at_once(
        Forwarder("127.0.0.1", port, VM, context), attempts, "PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"
    )


async def test_a_vm_from_before_a_renewal_is_reached(
    listen: "Listen", server_tls: ssl.SSLContext, authority: Authority, stranger: Authority
) -> None:
    _, port = await listen(tls=server_tls)
    newest, earlier = client_context(stranger), client_context(authority)
    await end(await connect(Forwarder("127.0.0.1", port, VM, newest, (earlier,)), timeout=PATIENCE))


async def test_a_forwarder_without_session_tickets_is_reached(
    listen: "Listen", server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "_VERDICT_SECONDS", 0.05)
    server_tls.num_tickets = 0
    _, port = await listen(tls=server_tls)
    await end(await connect(Forwarder("127.0.0.1", port, VM, client_tls), timeout=PATIENCE))
