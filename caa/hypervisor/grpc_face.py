"""The services over gRPC, with health and reflection, for tools and tests."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from caa.errors import CaaError, Code
from caa.ttrpc import CallContext, Handler, bind
from caa.unix_socket import SocketFile

_log = structlog.get_logger(__name__)
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


class GrpcFace:
    """A gRPC server on a unix socket."""

    def __init__(self, services: Sequence[tuple[ServiceDescriptor, object]]) -> None:
        self._server = grpc.aio.server()
        self._file: SocketFile | None = None
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [service.full_name for service, _ in services]
        for service, implementation in services:
            handlers = {
                method.name: grpc.unary_unary_rpc_method_handler(
                    _answer(handler),
                    request_deserializer=method.request_class.FromString,
                    response_serializer=method.response_class.SerializeToString,
                )
                for method, handler in bind(service, implementation).values()
            }
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.full_name, handlers),)
            )
        shown = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(shown, self._server)

    async def start(self, path: Path) -> None:
        """Serve on the unix socket `path`. Raises as SocketFile does."""
        self._file = SocketFile(path, self._bind)
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _bind(self, path: Path) -> None:
        if not self._server.add_insecure_port(f"unix:{path}"):
            raise OSError(f"gRPC can't bind {path}")

    async def close(self, grace: float) -> None:
        """Tell health watchers, then let calls in flight end, for at most `grace` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)
        if self._file is not None:
            self._file.remove()


def _answer(handler: Handler) -> Callable[[Any, Any], Any]:
    async def answer(request: Message, context: Any) -> Message:
        metadata: dict[str, list[str]] = {}
        for key, value in context.invocation_metadata():
            metadata.setdefault(key, []).append(value if isinstance(value, str) else value.decode("latin-1"))
        left = context.time_remaining()
        deadline = None if left is None else asyncio.get_running_loop().time() + left
        try:
            response: Message = await handler(request, CallContext(metadata, deadline))
        except CaaError as error:
            await context.abort(_STATUS[error.code], str(error))
        except Exception as error:  # noqa: BLE001  the caller is told, whatever it was
            _log.exception("a call failed unexpectedly")
            await context.abort(_STATUS[Code.UNKNOWN], f"{type(error).__name__}: {error}")
        return response

    return answer
