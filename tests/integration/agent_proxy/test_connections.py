"""How connections of shims and of the forwarder begin and end."""

import asyncio
import socket
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from caa.agent_proxy import AgentProxy, Forwarder, dial, pipe, proxy
from caa.errors import DeadlineExceededError, FailedPreconditionError
from caa.ttrpc import Frame, FrameType, encode_frame

if TYPE_CHECKING:
    from tests.integration.agent_proxy.conftest import Listen, Peer, Proxied

PATIENCE = 20.0


async def works(shim: "Peer", forwarder: "Peer", stream_id: int = 1) -> None:
    assert await shim.call(stream_id, "grpc.Health", "Check") == await forwarder.receive()
    assert await forwarder.answer(stream_id, b"fine") == await shim.receive()


async def test_the_first_connection_is_the_one_that_was_made_ahead(proxied: "Proxied") -> None:
    ahead = await proxied.forwarder.accept()
    await works(await proxied.shim(), ahead)
    assert proxied.forwarder.peers == [ahead]


async def test_each_shim_connection_has_its_own(proxied: "Proxied") -> None:
    pairs = [await proxied.pair() for _ in range(3)]
    for shim, forwarder in pairs:
        await works(shim, forwarder)
    assert len(proxied.forwarder.peers) == 3


async def test_one_that_broke_while_unused_is_made_anew(proxied: "Proxied", logged: list[Any]) -> None:
    (await proxied.forwarder.accept()).abort()
    first = proxied.proxy._first
    assert first is not None
    await asyncio.wait((first.lost,), timeout=PATIENCE)
    await works(*await proxied.pair())
    assert [entry for entry in logged if "lost while unused" in entry["event"]]


async def test_one_that_breaks_takes_just_its_shim_along(proxied: "Proxied", logged: list[Any]) -> None:
    (shim, forwarder), (other_shim, other_forwarder) = await proxied.pair(), await proxied.pair()
    await works(shim, forwarder)
    await shim.call(3, "grpc.AgentService", "WaitProcess")
    await forwarder.receive()
    forwarder.abort()
    assert await shim.ended() == b""
    await works(other_shim, other_forwarder)
    await works(*await proxied.pair())
    assert [entry for entry in logged if "ended the connection" in entry["event"]]


async def test_what_the_forwarder_said_last_is_delivered(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    await works(shim, forwarder)
    last = Frame(1, FrameType.RESPONSE, 0, b"x" * 1_000_000)
    forwarder.writer.write(encode_frame(last))
    forwarder.writer.close()
    assert await shim.receive() == last
    assert await shim.ended() == b""


async def test_what_the_shim_said_last_is_delivered(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    last = Frame(1, FrameType.REQUEST, 0, b"x" * 1_000_000)
    shim.writer.write(encode_frame(last))
    shim.writer.close()
    assert await forwarder.receive() == last
    assert await forwarder.ended() == b""


async def test_a_shim_that_leaves_while_its_answers_pile_up_is_noticed(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    await works(shim, forwarder)
    forwarder.writer.write(bytes(10) * 3_000_000)
    shim.abort()
    assert await forwarder.ended() == b""


async def test_the_sending_half_alone_is_closed_in_the_clear(proxied_plain: "Proxied") -> None:
    shim, forwarder = await proxied_plain.pair()
    request = await shim.call(1, "grpc.AgentService", "StatsContainer")
    shim.writer.write_eof()
    assert await forwarder.receive() == request
    assert await forwarder.ended() == b""
    assert await forwarder.answer(1, b"still answered") == await shim.receive()
    forwarder.writer.close()
    assert await shim.ended() == b""


async def test_over_tls_its_answers_still_come(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    request = await shim.call(1, "grpc.AgentService", "StatsContainer")
    shim.writer.write_eof()
    assert await forwarder.receive() == request
    assert await forwarder.answer(1, b"still answered") == await shim.receive()


async def test_but_not_for_ever(proxied: "Proxied", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_LINGER_SECONDS", 0.1)
    shim, forwarder = await proxied.pair()
    await works(shim, forwarder)
    shim.writer.write_eof()
    assert await forwarder.ended() == b""
    assert await shim.ended() == b""


async def test_a_shim_whose_forwarder_can_not_be_reached_is_let_go(
    listen: "Listen", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int, logged: list[Any]
) -> None:
    monkeypatch.setattr(proxy, "_REDIAL_SECONDS", 0.2)
    path = tmp_path / "agent.ttrpc"
    subject = AgentProxy(path, Forwarder("127.0.0.1", free_port, "podvm-a", None), structlog.get_logger())
    await subject.listen()
    try:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"waits")
        assert await reader.read() == b""
        writer.close()
        (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
        assert "Connection refused" in warning["error"]
        # It is asked for anew for each connection: once the forwarder is back, all is well.
        monkeypatch.setattr(dial, "_PAUSES", (PATIENCE, 1.0, PATIENCE))  # one connection is enough
        monkeypatch.setattr(proxy, "_REDIAL_SECONDS", PATIENCE)
        forwarder, _ = await listen(free_port)
        reader, writer = await asyncio.open_unix_connection(path)
        frame = Frame(1, FrameType.REQUEST, 0, b"again")
        writer.write(encode_frame(frame))
        assert await (await forwarder.accept()).receive() == frame
        writer.close()
    finally:
        await subject.close()


async def test_dialling_ends_with_the_shim_that_it_is_for(tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "agent.ttrpc"
    subject = AgentProxy(path, Forwarder("127.0.0.1", free_port, "podvm-a", None), structlog.get_logger())
    await subject.listen()
    _, writer = await asyncio.open_unix_connection(path)
    while not subject._relay._tasks:
        await asyncio.sleep(0)
    (serving,) = subject._relay._tasks
    writer.close()
    done, _ = await asyncio.wait((serving,), timeout=PATIENCE)
    assert done
    await subject.close()


async def test_closing_ends_everything(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    await shim.call(1, "grpc.AgentService", "WaitProcess")
    await forwarder.receive()
    await proxied.proxy.close()
    assert await shim.ended() == b""
    assert await forwarder.ended() == b""
    assert not proxied.path.exists()
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(proxied.path)
    await proxied.proxy.close()


async def test_closing_does_not_wait_for_peers_that_do_not_read(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    await shim.call(1, "grpc.AgentService", "ReadStdout")
    await forwarder.receive()
    body = Frame(1, FrameType.RESPONSE, 0, bytes(2**20))
    forwarder.writer.write(bytes(4) + bytes([0, 0, 0, 1, 2, 0]) + body.data)
    async with asyncio.timeout(PATIENCE):
        await proxied.proxy.close()


async def test_closing_during_a_dial_or_before_anything(tmp_path: Path, free_port: int) -> None:
    forwarder = Forwarder("127.0.0.1", free_port, "podvm-a", None)
    await AgentProxy(tmp_path / "a", forwarder, structlog.get_logger()).close()
    subject = AgentProxy(tmp_path / "b", forwarder, structlog.get_logger())
    await subject.listen()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "b")
    while not subject._relay._tasks:
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await subject.close()
        assert await reader.read() == b""
    writer.close()


async def test_the_socket_is_private_and_replaces_a_stale_one(proxied: "Proxied", tmp_path: Path) -> None:
    assert stat.S_IMODE(proxied.path.lstat().st_mode) == 0o600
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    await proxied.forwarder.accept()  # the connection that was made ahead
    proxied.path = path
    subject = AgentProxy(path, proxied.proxy._forwarder, structlog.get_logger())
    await subject.listen()
    await works(*await proxied.pair())
    await subject.close()
    assert not path.exists()


async def test_a_successors_socket_is_left_alone(proxied: "Proxied") -> None:
    proxied.path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(proxied.path))
        await proxied.proxy.close()
        assert proxied.path.exists()
    proxied.path.unlink()


async def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    forwarder = Forwarder("127.0.0.1", 1, "podvm-a", None)
    subject = AgentProxy(tmp_path / ("x" * 108), forwarder, structlog.get_logger())
    with pytest.raises(FailedPreconditionError, match="unix sockets allow 107"):
        await subject.listen()
    await subject.close()


async def test_a_forwarder_that_is_not_there_is_not_connected(
    tmp_path: Path, free_port: int, client_tls: ssl.SSLContext
) -> None:
    forwarder = Forwarder("127.0.0.1", free_port, "podvm-a", client_tls)
    subject = AgentProxy(tmp_path / "s", forwarder, structlog.get_logger())
    with pytest.raises(
        DeadlineExceededError, match=f"podvm-a at 127.0.0.1:{free_port} not reached within 0.1 s"
    ):
        await subject.connect(0.1)
    await subject.close()
