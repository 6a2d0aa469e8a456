"""The admin API over its socket: what a command asks, and what nobody should."""

import asyncio
import http.client
import io
import json
import os
import socket
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from caa import logs
from caa.admin import SOCKET, Client, NoDaemonError
from caa.admin.server import AdminServer
from caa.errors import InternalError, InvalidArgumentError, NotFoundError, UnavailableError
from caa.sandbox import Event, State

if TYPE_CHECKING:
    from tests.integration.admin.conftest import Place


async def ask(place: "Place", method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    def asked() -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(place.folder / SOCKET))
        connection.request(method, path, body)
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        return answer.status, json.loads(told)

    return await asyncio.to_thread(asked)


async def test_only_its_user_can_ask(served: "Place") -> None:
    assert stat.S_IMODE((served.folder / SOCKET).stat().st_mode) == 0o600


async def test_what_the_client_is_told(served: "Place") -> None:
    marker = (await served.put("a", 0)).holding["RunInstances"]["UserData"]
    await served.put("b", 1)
    served.journal.note("a", Event(1_790_000_000.0, "call", "RunInstances", {"outcome": "ok"}))
    await served.journal.forget("b")

    def asked() -> tuple[Any, ...]:
        client = served.client
        return client.sandboxes(past=False), client.sandboxes(past=True), client.sandbox("a")

    alive, everything, one = await asyncio.to_thread(asked)
    assert [each.id for each in alive] == ["a"]
    assert [each.id for each in everything] == ["a", "b"]
    assert one.folder == str(served.pods_dir / "a")
    assert [event.text for event in one.events] == ["RunInstances"]
    assert alive[0].events == ()
    answers = [
        await ask(served, "GET", path) for path in ("/sandboxes?past=1", "/sandboxes/a", "/sandboxes/b")
    ]
    assert marker not in json.dumps(answers)


async def test_acting(served: "Place") -> None:
    await served.put("a", 0)
    await served.put("b", 1)
    served.will_not_stop.add("b")
    served.cloud.add("i-orphan", sandbox="gone")
    assert (await asyncio.to_thread(served.client.remove, "a")).ended is not None
    left = await asyncio.to_thread(served.client.remove, "b")
    assert (left.ended, left.error) == (None, "DeleteInstance: Forbidden.RAM")
    found = await asyncio.to_thread(lambda: served.client.collect(dry_run=True))
    assert [each.fate for each in found.leftovers] == ["to be removed"]
    assert served.cloud.released == []
    found = await asyncio.to_thread(lambda: served.client.collect(dry_run=False))
    assert [each.fate for each in found.leftovers] == ["removed"]
    assert served.cloud.released == ["i-orphan"]


async def test_refusals_keep_their_class(served: "Place") -> None:
    for sandbox_id in ("nobody", "a/b c?d#e%", "..", "é" * 40):
        with pytest.raises(NotFoundError):
            await asyncio.to_thread(served.client.sandbox, sandbox_id)
        with pytest.raises(NotFoundError):
            await asyncio.to_thread(served.client.remove, sandbox_id)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("GET", "/", None, 404, "Not Found"),
        ("POST", "/sandboxes", None, 405, "Method Not Allowed"),
        ("GET", "/sandboxes?past=yes", None, 400, "past='yes'; allowed: 0, 1"),
        ("GET", f"/sandboxes/{'x' * 200}", None, 400, "at most 128"),
        ("POST", "/gc?dry_run=maybe", None, 400, "dry_run='maybe'"),
        ("PUT", "/log-level", None, 400, '{"level": "debug"}'),
        ("PUT", "/log-level", "[]", 400, '{"level": "debug"}'),
        ("PUT", "/log-level", '{"level": "loud"}', 400, "'loud' is not a log level; allowed: debug, info"),
        ("PUT", "/log-level", '{"level": []}', 400, "[] is not a log level"),
        ("PUT", "/log-level", "x" * 100_000, 413, "Too Large"),
    ],
)
async def test_what_can_not_be_asked(
    served: "Place", method: str, path: str, body: str | None, status: int, told: str
) -> None:
    await served.put("a", 0)
    answered, refusal = await ask(served, method, path, body)
    assert answered == status
    assert refusal["code"] in ("NOT_FOUND", "INVALID_ARGUMENT")
    assert told in refusal["message"]
    assert len(served.journal.read()) == 1


async def test_a_fault_is_told_and_survived(served: "Place", monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("s3cr3t")

    monkeypatch.setattr(served.journal, "lives", broken)
    with pytest.raises(InternalError, match="ZeroDivisionError; the daemon's log has more"):
        await asyncio.to_thread(lambda: served.client.sandboxes(past=False))
    monkeypatch.undo()
    assert await asyncio.to_thread(lambda: served.client.sandboxes(past=False)) == []


@pytest.fixture
def _logging() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    logs.set_level("info")


@pytest.mark.usefixtures("_logging")
async def test_the_log_level_changes(served: "Place") -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    log = structlog.get_logger("caa")
    log.debug("before")
    await asyncio.to_thread(served.client.set_log_level, "debug")
    log.debug("after")
    with pytest.raises(InvalidArgumentError, match="'loud' is not a log level"):
        await asyncio.to_thread(served.client.set_log_level, "loud")
    told = stream.getvalue()
    assert '"before"' not in told
    assert '"after"' in told


async def test_nobody_there(place: "Place") -> None:
    path = place.folder / SOCKET
    for folder in (place.folder, Path("/nowhere"), Path(__file__)):
        with pytest.raises(NoDaemonError):
            await asyncio.to_thread(partial(Client(folder).sandboxes, past=False))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # as a daemon that was killed leaves it
    with pytest.raises(NoDaemonError, match=str(path)):
        await asyncio.to_thread(lambda: place.client.sandboxes(past=False))


async def test_something_else_there(place: "Place") -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(hang_up, place.folder / SOCKET)
    async with server:
        with pytest.raises(UnavailableError, match="did not answer GET"):
            await asyncio.to_thread(lambda: place.client.sandboxes(past=False))


async def test_an_ended_server_leaves_no_socket(place: "Place") -> None:
    server = AdminServer(place.operator(alone=False))
    await server.start(place.folder / SOCKET)
    await place.put("a", 0, State.STOPPING)
    await server.close()
    assert not os.path.lexists(place.folder / SOCKET)
