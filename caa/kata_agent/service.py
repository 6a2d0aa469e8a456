"""The agent's RPCs (proto/agent.proto), as the shims use them.

Errors: before CreateSandbox and for steps out of order FAILED_PRECONDITION, for what does not exist
NOT_FOUND, for what exists already ALREADY_EXISTS, for what can't be run INVALID_ARGUMENT.
"""
# ruff: noqa: N802  # a handler has its RPC's name

import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

from google.protobuf.empty_pb2 import Empty

from caa import __version__
from caa.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from caa.kata_agent.container import Sandbox
from caa.kata_agent.pipes import OutputPipe
from caa.kata_agent.process import Process
from caa.kata_agent.procfs import network_counters
from caa.proto import agent_pb2 as pb
from caa.ttrpc import CallContext

_MOST_AT_ONCE = 64 * 1024
"""Bytes of one read: what a pipe holds."""
_PATIENCE = 60.0
"""Seconds to wait for killed processes to be gone where the caller sets no limit: as long as a shim waits."""
_MEMORY = Path("/sys/devices/system/memory")
_VERSION = f"caa-{__version__}"
_API_VERSION = "0.0.1"
"""Of the agent's API; the real agent has said this since its beginning."""


class AgentService:
    """`grpc.AgentService` for one sandbox at a time."""

    def __init__(self, podns: str) -> None:
        self._podns = podns
        self._sandbox: Sandbox | None = None

    async def close(self) -> None:
        """Kill all that runs."""
        if self._sandbox is not None:
            await self._sandbox.destroy(_PATIENCE)

    async def CreateSandbox(self, _request: pb.CreateSandboxRequest, _context: CallContext) -> Empty:
        if self._sandbox is not None:
            raise AlreadyExistsError("this VM has its sandbox already: it holds one")
        self._sandbox = Sandbox(self._podns)
        return Empty()

    async def DestroySandbox(self, _request: pb.DestroySandboxRequest, _context: CallContext) -> Empty:
        sandbox = self._there()
        await sandbox.destroy(_PATIENCE)
        if self._sandbox is sandbox:
            self._sandbox = None
        return Empty()

    async def CreateContainer(self, request: pb.CreateContainerRequest, _context: CallContext) -> Empty:
        self._there().create_container(request.container_id, request.OCI)
        return Empty()

    async def StartContainer(self, request: pb.StartContainerRequest, _context: CallContext) -> Empty:
        self._there().container(request.container_id).start()
        return Empty()

    async def RemoveContainer(self, request: pb.RemoveContainerRequest, _context: CallContext) -> Empty:
        await self._there().remove_container(request.container_id, request.timeout or _PATIENCE)
        return Empty()

    async def ExecProcess(self, request: pb.ExecProcessRequest, _context: CallContext) -> Empty:
        self._there().container(request.container_id).execute(request.exec_id, request.process)
        return Empty()

    async def SignalProcess(self, request: pb.SignalProcessRequest, _context: CallContext) -> Empty:
        container = self._there().container(request.container_id)
        try:
            if request.exec_id:
                container.process(request.exec_id).signal(request.signal)
            else:
                container.signal(request.signal)
        except (OSError, OverflowError, ValueError) as error:
            raise InvalidArgumentError(f"signal {request.signal}: {error}") from error
        return Empty()

    async def WaitProcess(
        self, request: pb.WaitProcessRequest, _context: CallContext
    ) -> pb.WaitProcessResponse:
        container = self._there().container(request.container_id)
        status = await container.process(request.exec_id).wait()
        container.forget_settled()
        return pb.WaitProcessResponse(status=status)

    async def ReadStdout(self, request: pb.ReadStreamRequest, _context: CallContext) -> pb.ReadStreamResponse:
        return await self._read(request, attrgetter("stdout"))

    async def ReadStderr(self, request: pb.ReadStreamRequest, _context: CallContext) -> pb.ReadStreamResponse:
        return await self._read(request, attrgetter("stderr"))

    async def _read(
        self, request: pb.ReadStreamRequest, pipe: Callable[[Process], OutputPipe]
    ) -> pb.ReadStreamResponse:
        """Waits for data. None in the answer means that the stream has ended, as from the real agent."""
        if not request.len:
            raise InvalidArgumentError("len is 0: it is the most bytes that may be returned")
        container = self._there().container(request.container_id)
        data = await pipe(container.process(request.exec_id)).read(min(request.len, _MOST_AT_ONCE))
        if not data:
            container.forget_settled()
        return pb.ReadStreamResponse(data=data)

    async def WriteStdin(
        self, request: pb.WriteStreamRequest, _context: CallContext
    ) -> pb.WriteStreamResponse:
        stdin = self._process(request).stdin
        if request.data:
            await stdin.write(request.data)
        else:
            await stdin.end()  # runtime-rs's way to say CloseStdin
        return pb.WriteStreamResponse(len=len(request.data))

    async def CloseStdin(self, request: pb.CloseStdinRequest, _context: CallContext) -> Empty:
        await self._process(request).stdin.end()
        return Empty()

    async def StatsContainer(
        self, request: pb.StatsContainerRequest, _context: CallContext
    ) -> pb.StatsContainerResponse:
        container = self._there().container(request.container_id)
        usage = container.usage()
        counters = network_counters(container.init.pid) if container.init.running else {}
        return pb.StatsContainerResponse(
            cgroup_stats=pb.CgroupStats(
                cpu_stats=pb.CpuStats(
                    cpu_usage=pb.CpuUsage(
                        total_usage=usage.user + usage.kernel,
                        usage_in_usermode=usage.user,
                        usage_in_kernelmode=usage.kernel,
                    )
                ),
                memory_stats=pb.MemoryStats(usage=pb.MemoryData(usage=usage.memory)),
                pids_stats=pb.PidsStats(current=usage.processes),
            ),
            network_stats=[_network_stats(name, values) for name, values in counters.items()],
        )

    async def GetGuestDetails(
        self, request: pb.GuestDetailsRequest, _context: CallContext
    ) -> pb.GuestDetailsResponse:
        block_size = _MEMORY / "block_size_bytes"
        return pb.GuestDetailsResponse(
            mem_block_size_bytes=(
                int(block_size.read_text(), 16) if request.mem_block_size and block_size.exists() else 0
            ),
            support_mem_hotplug_probe=request.mem_hotplug_probe and (_MEMORY / "probe").exists(),
            agent_details=pb.AgentDetails(version=_VERSION, init_daemon=os.getpid() == 1),
        )

    async def GetOOMEvent(self, _request: pb.GetOOMEventRequest, _context: CallContext) -> pb.OOMEvent:
        """There never is one: without cgroups nobody tells whose memory ran out."""
        await self._there().ended.wait()
        raise UnavailableError("the sandbox has been destroyed")

    def _there(self) -> Sandbox:
        if self._sandbox is None:
            raise FailedPreconditionError("there is no sandbox: call CreateSandbox first")
        return self._sandbox

    def _process(self, request: pb.WriteStreamRequest | pb.CloseStdinRequest) -> Process:
        return self._there().container(request.container_id).process(request.exec_id)


class HealthService:
    """`grpc.Health`, which the shim asks every few seconds."""

    async def Check(self, _request: pb.CheckRequest, _context: CallContext) -> pb.HealthCheckResponse:
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)

    async def Version(self, _request: pb.CheckRequest, _context: CallContext) -> pb.VersionCheckResponse:
        return pb.VersionCheckResponse(grpc_version=_API_VERSION, agent_version=_VERSION)


def _network_stats(name: str, counters: Sequence[int]) -> pb.NetworkStats:
    received, sent = counters[:4], counters[8:12]  # bytes, packets, errors, dropped
    return pb.NetworkStats(
        name=name,
        **dict(zip(("rx_bytes", "rx_packets", "rx_errors", "rx_dropped"), received, strict=True)),
        **dict(zip(("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"), sent, strict=True)),
    )
