"""The daemon's admin API: HTTP with JSON on a unix socket that only the daemon's user can open.

    GET    /sandboxes[?past=1]     all sandboxes, with past=1 those that have ended too
    GET    /sandboxes/ID           one, with its timeline
    DELETE /sandboxes/ID           take it down as StopVM would; the answer tells whether that is done
    POST   /gc[?dry_run=1]         remove what is left over
    PUT    /log-level              {"level": "debug"}: until the daemon ends

An error is {"code": "NOT_FOUND", "message": "…"}, with the codes of `caa.errors`.
"""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from caa import logs
from caa.admin.operator import Operator
from caa.admin.views import SandboxView
from caa.errors import CaaError, Code, InvalidArgumentError
from caa.unix_socket import SocketFile, listen

_log = structlog.get_logger(__name__)

_LONGEST_BODY = 4096
_LONGEST_ID = 128

_STATUS = {
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}


class AdminServer:
    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        app = web.Application(client_max_size=_LONGEST_BODY, middlewares=[_errors_as_json])
        app.add_routes(
            [
                web.get("/sandboxes", self._sandboxes),
                web.get("/sandboxes/{id}", self._sandbox),
                web.delete("/sandboxes/{id}", self._remove),
                web.post("/gc", self._collect),
                web.put("/log-level", self._set_log_level),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        self._file: SocketFile | None = None

    async def start(self, path: Path) -> None:
        """Serve at `path`. Raises FailedPreconditionError if it can't listen there."""
        listening, self._file = listen(path)
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def close(self) -> None:
        if self._file is not None:
            self._file.remove()
        await self._runner.cleanup()

    async def _sandboxes(self, request: web.Request) -> web.Response:
        found = await self._operator.sandboxes(past=_flag(request, "past"))
        return web.json_response([each.brief() for each in found])

    async def _sandbox(self, request: web.Request) -> web.Response:
        return _told(await self._operator.sandbox(_id(request)))

    async def _remove(self, request: web.Request) -> web.Response:
        return _told(await self._operator.remove(_id(request)))

    async def _collect(self, request: web.Request) -> web.Response:
        done = await self._operator.collect(dry_run=_flag(request, "dry_run"))
        return web.json_response(done.model_dump(mode="json"))

    async def _set_log_level(self, request: web.Request) -> web.Response:
        try:
            level = json.loads(await request.text())["level"]
        except (ValueError, TypeError, LookupError):
            raise InvalidArgumentError('the body is not like {"level": "debug"}') from None
        if level not in logs.LEVELS:
            raise InvalidArgumentError(f"{level!r} is not a log level; allowed: {', '.join(logs.LEVELS)}")
        logs.change_level(level, by="an operator")
        return web.json_response({"level": level})


def _told(sandbox: SandboxView) -> web.Response:
    return web.json_response(sandbox.model_dump(mode="json"))


def _id(request: web.Request) -> str:
    sandbox_id = request.match_info["id"]
    if len(sandbox_id) > _LONGEST_ID:
        raise InvalidArgumentError(f"a sandbox id has at most {_LONGEST_ID} characters")
    return sandbox_id


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "0")
    if value not in ("0", "1"):
        raise InvalidArgumentError(f"{name}={value!r}; allowed: 0, 1")
    return value == "1"


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except CaaError as error:
        return _refusal(_STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR), error.code, str(error))
    except web.HTTPException as error:
        code = Code.NOT_FOUND if error.status == HTTPStatus.NOT_FOUND else Code.INVALID_ARGUMENT
        return _refusal(error.status, code, f"{request.method} {request.path}: {error.reason}")
    except Exception as error:  # noqa: BLE001  told, and the daemon goes on
        _log.exception("a request of an operator failed", path=request.path)
        told = f"{type(error).__name__}; the daemon's log has more"
        return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, Code.INTERNAL, told)


def _refusal(status: int, code: Code, message: str) -> web.Response:
    body: dict[str, Any] = {"code": code.name, "message": message}
    return web.json_response(body, status=status)
