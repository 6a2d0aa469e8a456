"""The remote-hypervisor API and PodVMInfo: one implementation for both faces.

Methods carry the names of their .proto, so that a service is registered by its descriptor alone.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from caa import __version__
from caa.errors import CaaError, Code, InvalidArgumentError
from caa.hypervisor import annotations
from caa.hypervisor.lifecycle import Lifecycle
from caa.proto import hypervisor_pb2, podvminfo_pb2
from caa.ttrpc import CallContext

RpcObserver = Callable[[str, Code, float], None]
"""Told the method, the outcome and the seconds of each call when it has ended."""


class HypervisorService:
    """`hypervisor.Hypervisor`, which Kata shims call."""

    def __init__(
        self, lifecycle: Lifecycle, *, on_rpc: RpcObserver = lambda _method, _code, _seconds: None
    ) -> None:
        self._lifecycle = lifecycle
        self._on_rpc = on_rpc

    async def Version(  # noqa: N802
        self, _request: hypervisor_pb2.VersionRequest, _context: CallContext
    ) -> hypervisor_pb2.VersionResponse:
        return hypervisor_pb2.VersionResponse(version=__version__)

    async def CreateVM(  # noqa: N802
        self, request: hypervisor_pb2.CreateVMRequest, _context: CallContext
    ) -> hypervisor_pb2.CreateVMResponse:
        with self._observed("CreateVM"):
            if not request.id:
                raise InvalidArgumentError("the sandbox id is empty")
            pod = annotations.parse(request.annotations)
            socket = await self._lifecycle.create(request.id, pod, request.networkNamespacePath)
        return hypervisor_pb2.CreateVMResponse(agentSocketPath=str(socket))

    async def StartVM(  # noqa: N802
        self, request: hypervisor_pb2.StartVMRequest, _context: CallContext
    ) -> hypervisor_pb2.StartVMResponse:
        with self._observed("StartVM"):
            await self._lifecycle.start(request.id)
        return hypervisor_pb2.StartVMResponse()

    async def StopVM(  # noqa: N802
        self, request: hypervisor_pb2.StopVMRequest, _context: CallContext
    ) -> hypervisor_pb2.StopVMResponse:
        with self._observed("StopVM"):
            await self._lifecycle.stop(request.id)
        return hypervisor_pb2.StopVMResponse()

    @contextlib.contextmanager
    def _observed(self, method: str) -> Iterator[None]:
        began = time.monotonic()
        code = Code.UNKNOWN
        try:
            yield
            code = Code.OK
        except CaaError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        finally:
            self._on_rpc(method, code, time.monotonic() - began)


class PodVmInfoService:
    """`podvminfo.PodVMInfo`, for those who attest or debug a pod's VM."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def GetInfo(  # noqa: N802
        self, request: podvminfo_pb2.GetInfoRequest, _context: CallContext
    ) -> podvminfo_pb2.GetInfoResponse:
        instance = await self._lifecycle.instance_of(request.PodNamespace, request.PodName, wait=request.Wait)
        return podvminfo_pb2.GetInfoResponse(VMID=instance)
