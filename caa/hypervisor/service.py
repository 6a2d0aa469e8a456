"""The remote-hypervisor API and PodVMInfo: one implementation for both faces.

Methods carry the names of their .proto, so that a service is registered by its descriptor alone.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import structlog
from structlog.contextvars import bound_contextvars

from caa import __version__
from caa.errors import CaaError, Code, InvalidArgumentError
from caa.hypervisor import annotations
from caa.hypervisor.lifecycle import Lifecycle
from caa.proto import hypervisor_pb2, podvminfo_pb2
from caa.ttrpc import CallContext

RpcObserver = Callable[[str, Code, float], None]
"""Told the method, the outcome and the seconds of each call when it has ended."""

RpcScope = Callable[[str, str, CallContext], AbstractContextManager[object]]
"""Entered with the method, the sandbox id and the context of each call, and left with what it raised."""

_log = structlog.get_logger(__name__)

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, 3.2. In ttRPC it is metadata, and shims that trace send it."""


class HypervisorService:
    """`hypervisor.Hypervisor`, which Kata shims call."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        on_rpc: RpcObserver = lambda _method, _code, _seconds: None,
        within: RpcScope = lambda _method, _sandbox, _context: contextlib.nullcontext(),
    ) -> None:
        self._lifecycle = lifecycle
        self._on_rpc = on_rpc
        self._within = within

    async def Version(  # noqa: N802
        self, _request: hypervisor_pb2.VersionRequest, _context: CallContext
    ) -> hypervisor_pb2.VersionResponse:
        return hypervisor_pb2.VersionResponse(version=__version__)

    async def CreateVM(  # noqa: N802
        self, request: hypervisor_pb2.CreateVMRequest, context: CallContext
    ) -> hypervisor_pb2.CreateVMResponse:
        with self._observed("CreateVM", request.id, context):
            if not request.id:
                raise InvalidArgumentError("the sandbox id is empty")
            pod = annotations.parse(request.annotations)
            socket = await self._lifecycle.create(request.id, pod, request.networkNamespacePath)
        return hypervisor_pb2.CreateVMResponse(agentSocketPath=str(socket))

    async def StartVM(  # noqa: N802
        self, request: hypervisor_pb2.StartVMRequest, context: CallContext
    ) -> hypervisor_pb2.StartVMResponse:
        with self._observed("StartVM", request.id, context):
            await self._lifecycle.start(request.id)
        return hypervisor_pb2.StartVMResponse()

    async def StopVM(  # noqa: N802
        self, request: hypervisor_pb2.StopVMRequest, context: CallContext
    ) -> hypervisor_pb2.StopVMResponse:
        with self._observed("StopVM", request.id, context):
            await self._lifecycle.stop(request.id)
        return hypervisor_pb2.StopVMResponse()

    @contextlib.contextmanager
    def _observed(self, method: str, sandbox: str, context: CallContext) -> Iterator[None]:
        began = time.monotonic()
        code, failure = Code.UNKNOWN, {}
        names = self._lifecycle.names(sandbox)
        sent = _TRACEPARENT.fullmatch(next(iter(context.metadata.get("traceparent", ())), ""))
        trace = {"trace": sent["trace"]} if sent else {}
        with bound_contextvars(**names, **trace):
            try:
                with self._within(method, sandbox, context):
                    yield
                code = Code.OK
            except CaaError as error:
                code, failure = error.code, {"error": str(error)}
                raise
            except asyncio.CancelledError:
                code = Code.CANCELLED
                raise
            finally:
                seconds = time.monotonic() - began
                self._on_rpc(method, code, seconds)
                names = self._lifecycle.names(sandbox)  # it may have an instance by now
                _log.info(
                    "call", **names, method=method, code=code.name, seconds=round(seconds, 3), **failure
                )


class PodVmInfoService:
    """`podvminfo.PodVMInfo`, for those who attest or debug a pod's VM."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def GetInfo(  # noqa: N802
        self, request: podvminfo_pb2.GetInfoRequest, _context: CallContext
    ) -> podvminfo_pb2.GetInfoResponse:
        instance = await self._lifecycle.instance_of(request.PodNamespace, request.PodName, wait=request.Wait)
        return podvminfo_pb2.GetInfoResponse(VMID=instance)
