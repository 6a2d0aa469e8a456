"""Asks a running daemon's admin API. Plain http.client: a command that lists a few pods should not wait for
an HTTP framework to be imported.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from caa.admin.views import Collection, SandboxView
from caa.errors import (
    CaaError,
    Code,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

T = TypeVar("T")

SOCKET = "admin.sock"
"""In the state folder."""

_READ_SECONDS = 15.0
_REMOVE_SECONDS = 120.0
_COLLECT_SECONDS = 900.0

_LONGEST_ANSWER = 64 * 1024 * 1024

_SANDBOX = TypeAdapter(SandboxView)
_SANDBOXES = TypeAdapter(list[SandboxView])
_COLLECTION = TypeAdapter(Collection)

_ERRORS: dict[str, type[CaaError]] = {
    each.code.name: each
    for each in (
        DeadlineExceededError,
        FailedPreconditionError,
        InternalError,
        InvalidArgumentError,
        NotFoundError,
        PermissionDeniedError,
        UnavailableError,
    )
}


class NoDaemonError(CaaError):
    """Nobody listens on the admin socket."""

    code = Code.UNAVAILABLE


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """The admin API at `folder`/admin.sock. Every method raises NoDaemonError if no daemon is there,
    PermissionDeniedError if this user may not ask it, and what the daemon's own error is.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SOCKET

    def sandboxes(self, *, past: bool) -> list[SandboxView]:
        return _read(_SANDBOXES, self._ask("GET", f"/sandboxes?past={past:d}", _READ_SECONDS))

    def sandbox(self, sandbox_id: str) -> SandboxView:
        return _read(_SANDBOX, self._ask("GET", _place(sandbox_id), _READ_SECONDS))

    def remove(self, sandbox_id: str) -> SandboxView:
        """Take it down. If what is returned has not ended, the daemon goes on trying."""
        return _read(
            _SANDBOX, self._ask("DELETE", f"/sandboxes/{quote(sandbox_id, safe='')}", _REMOVE_SECONDS)
        )

    def collect(self, *, dry_run: bool) -> Collection:
        return _read(_COLLECTION, self._ask("POST", f"/gc?dry_run={dry_run:d}", _COLLECT_SECONDS))

    def set_log_level(self, level: str) -> None:
        self._ask("PUT", "/log-level", _READ_SECONDS, {"level": level})

    def _ask(self, method: str, path: str, timeout: float, body: Any = None) -> bytes:
        connection = _UnixConnection(self._path, timeout)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            told = answer.read(_LONGEST_ANSWER)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise NoDaemonError(f"no daemon listens on {self._path}") from None
        except PermissionError:
            raise PermissionDeniedError(
                f"{self._path} can't be opened: only the daemon's user may, which is root as a rule"
            ) from None
        except TimeoutError:
            raise DeadlineExceededError(
                f"the daemon did not answer {method} {path} within {timeout:g} s"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"the daemon did not answer {method} {path}: {error!r}") from None
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise _error(told)
        return told


def _place(sandbox_id: str) -> str:
    return f"/sandboxes/{quote(sandbox_id, safe='')}"


def _error(told: bytes) -> CaaError:
    try:
        body = json.loads(told)
        return _ERRORS.get(body["code"], CaaError)(body["message"])
    except (ValueError, TypeError, LookupError):
        return InternalError(f"the daemon answered what is no error of it: {told[:200]!r}")


def _read(adapter: TypeAdapter[T], told: bytes) -> T:
    try:
        return adapter.validate_json(told)
    except ValidationError as error:
        raise InternalError(
            f"the daemon's answer can't be read, it may be of another version: {error}"
        ) from None
