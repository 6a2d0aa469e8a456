"""Reaching the forwarder of a VM that is still booting.

A SYN that is sent before the VM's network is up is lost, and the kernel sends it again after 1, 2, 4, 8 …
seconds: waiting for one attempt can cost more than the boot itself. So a new attempt starts every fraction of
a second while older ones still wait; the first to get through TLS wins, and the others are closed.
"""

import asyncio
import contextlib
import os
import re
import socket
import ssl
from dataclasses import dataclass

from caa.agent_proxy.connection import Connection
from caa.errors import DeadlineExceededError, FailedPreconditionError
from caa.polling import growing, poll

_PAUSES = (0.05, 1.3, 0.25)
"""Seconds between the starts of attempts: first, factor, longest."""

_CONNECT_SECONDS = 1.5
"""How long one SYN may stay unanswered. In a VPC an answer takes a millisecond."""

_HANDSHAKE_SECONDS = 5.0
"""How long a TLS handshake may take: a VM that is still booting can be slow."""

_VERDICT_SECONDS = 0.5
"""How long to wait for the forwarder's verdict on our certificate."""

_MOST_ATTEMPTS = 10
"""Attempts at the same time."""

_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 3}
"""A peer that is gone is noticed within a minute while nothing is under way to it, and after the kernel's
quarter of an hour otherwise. TCP_USER_TIMEOUT would shorten that, but it also ends the connection to a peer
that lives and just does not read for so long. A shim's health check notices within 30 s anyway.
"""

_HOPELESS = re.compile(
    r"ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR"
    r"|HANDSHAKE_FAILURE|PROTOCOL_VERSION|INSUFFICIENT_SECURITY|UNRECOGNIZED_NAME)|UNSUPPORTED_PROTOCOL"
)
"""OpenSSL's names of what a forwarder says that will say it again."""


@dataclass(frozen=True)
class Forwarder:
    """Where a pod VM's agent protocol forwarder is, and how the two know each other.

    `host` is an IP address, `server_name` the name in the forwarder's certificate, `tls` None only if TLS is
    off. A VM may be older than our present certificates: if `tls` does not fit, `earlier_tls` are tried.
    """

    host: str
    port: int
    server_name: str
    tls: ssl.SSLContext | None
    earlier_tls: tuple[ssl.SSLContext, ...] = ()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.server_name} at {host}:{self.port}"


async def connect(forwarder: Forwarder, *, timeout: float) -> Connection:
    """A connection on which both sides have accepted each other's certificate, within `timeout` seconds.

    Raises DeadlineExceededError with what was seen last, and at once FailedPreconditionError for what no
    further attempt would change: a wrong certificate, theirs or ours, or TLS settings that do not fit.
    """
    seen = "nothing yet"
    hopeless = []
    try:
        async with asyncio.timeout(timeout) as limit:
            for tls in (forwarder.tls, *forwarder.earlier_tls):
                race = _Race(forwarder, tls)
                try:
                    return await race.run()
                except FailedPreconditionError as error:
                    hopeless.append(error)
                finally:
                    seen = race.seen
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceededError(
            f"{forwarder} not reached within {timeout:g} s; last seen: {seen}"
        ) from None
    raise hopeless[0]


class _Race:
    """Attempts that overlap, until one succeeds or fails in a way that no further one would change."""

    def __init__(self, forwarder: Forwarder, tls: ssl.SSLContext | None) -> None:
        self.seen = "nothing yet"
        self._forwarder = forwarder
        self._tls = tls
        self._slots = asyncio.Semaphore(_MOST_ATTEMPTS)
        self._end: asyncio.Future[Connection | FailedPreconditionError]
        self._end = asyncio.get_running_loop().create_future()

    async def run(self) -> Connection:
        """Every attempt but the one that is returned is closed by then."""
        attempts = asyncio.create_task(self._start_attempts())
        try:
            await asyncio.wait((attempts, self._end), return_when=asyncio.FIRST_COMPLETED)
            if attempts.done():
                attempts.result()  # raises, since it never ends by itself
            attempts.cancel()
            await asyncio.wait((attempts,))
        except BaseException:
            attempts.cancel()
            if not self._end.cancel() and isinstance(won := self._end.result(), Connection):
                won.abort()
            await asyncio.wait((attempts,))
            raise
        end = self._end.result()
        if isinstance(end, FailedPreconditionError):
            raise end
        return end

    async def _start_attempts(self) -> None:
        async with asyncio.TaskGroup() as attempts:
            for pause in growing(*_PAUSES):
                await self._slots.acquire()
                attempts.create_task(self._attempt())
                await asyncio.sleep(pause)

    async def _attempt(self) -> None:
        end: Connection | FailedPreconditionError
        try:
            end = await _open(self._forwarder, self._tls)
        except ssl.SSLError as error:
            self.seen = _explain(error)
            if not _is_hopeless(error):
                return
            end = FailedPreconditionError(f"{self._forwarder}: {self.seen}")
        except OSError as error:
            self.seen = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
            return
        finally:
            self._slots.release()
        if not self._end.done():
            self._end.set_result(end)
        elif isinstance(end, Connection):
            end.abort()


async def _open(forwarder: Forwarder, tls: ssl.SSLContext | None) -> Connection:
    """One attempt. Raises OSError, of which ssl.SSLError is one."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            transport, connection = await loop.create_connection(Connection, forwarder.host, forwarder.port)
    except TimeoutError as error:
        if error.errno:  # the kernel's
            raise
        raise TimeoutError(f"no answer within {_CONNECT_SECONDS:g} s") from None
    try:
        if connection.lost.done():
            raise connection.lost.result() or ConnectionResetError("closed as soon as it was made")
        tune(transport.get_extra_info("socket"))
    except OSError:
        connection.abort()
        raise
    if tls is None:
        return connection
    connection = Connection()
    secured = await loop.start_tls(
        transport,
        connection,
        tls,
        server_hostname=forwarder.server_name,
        ssl_handshake_timeout=_HANDSHAKE_SECONDS,
    )
    assert secured is not None
    connection.connection_made(secured)  # start_tls leaves that to its caller
    try:
        await _wait_for_verdict(connection)
    except BaseException:
        connection.abort()
        raise
    return connection


async def _wait_for_verdict(connection: Connection) -> None:
    """Learn whether the forwarder accepts our certificate.

    In TLS 1.3 our side of the handshake is done before it has looked at it. What it sends next tells: an
    alert, or session tickets. One that sends neither in a while has most likely accepted us.

    Raises OSError if the connection is lost.
    """
    tls = connection.tls
    assert tls is not None
    if tls.version() == "TLSv1.3":

        async def verdict() -> tuple[bool | None, str]:
            return connection.lost.done() or (tls.session is not None and tls.session.has_ticket) or None, ""

        pauses = growing(0.001, 1.5, 0.02)
        with contextlib.suppress(DeadlineExceededError):
            await poll(verdict, what="session tickets", pauses=pauses, timeout=_VERDICT_SECONDS)
    if connection.lost.done():
        raise connection.lost.result() or ConnectionResetError("closed right after the TLS handshake")


def _is_hopeless(error: ssl.SSLError) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) or _HOPELESS.search(error.reason or "") is not None


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not the one we expect: {error.verify_message}"
    if "ALERT" in (error.reason or ""):
        return f"it refuses our certificate or TLS settings: {error.reason}"
    return f"TLS: {error.reason or error}"


def tune(stream: socket.socket) -> None:
    """Send small frames at once, and notice a peer that is gone. A listener's sockets inherit this."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        stream.setsockopt(socket.IPPROTO_TCP, option, value)
