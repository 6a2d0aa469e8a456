"""Plays the Kata shim of one pod: the calls that it makes to the daemon and, through it, to the agent."""

from pathlib import Path
from typing import Self

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from caa.proto import agent_pb2 as agent
from caa.proto import hypervisor_pb2 as hypervisor
from caa.ttrpc import Client, RpcError

_HYPERVISOR = "hypervisor.Hypervisor"
_AGENT = "grpc.AgentService"
_CHUNK = 64 * 1024


class Shim:
    """One pod's shim. As the Go shim does, it opens a connection for each call to the hypervisor socket, and
    keeps one to the agent socket.
    """

    def __init__(self, hypervisor_socket: Path, sandbox_id: str) -> None:
        self._hypervisor_socket = hypervisor_socket
        self.sandbox_id = sandbox_id
        self._agent: Client | None = None
        self._agent_socket = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection to the agent, as a shim that dies does."""
        if self._agent is not None:
            await self._agent.close()

    async def create_vm(self, *, pod: str, namespace: str, netns: Path) -> Path:
        """Returns the path of the agent's socket-to-be."""
        request = hypervisor.CreateVMRequest(
            id=self.sandbox_id,
            annotations={
                "io.kubernetes.cri.sandbox-name": pod,
                "io.kubernetes.cri.sandbox-namespace": namespace,
                "io.katacontainers.config.hypervisor.default_vcpus": "1",
                "io.katacontainers.config.hypervisor.default_memory": "2048",
            },
            networkNamespacePath=str(netns),
        )
        async with await Client.connect_unix(self._hypervisor_socket) as client:
            response = await client.call(
                _HYPERVISOR, "CreateVM", request, hypervisor.CreateVMResponse, timeout=60
            )
        self._agent_socket = response.agentSocketPath
        return Path(self._agent_socket)

    async def start_vm(self) -> None:
        request = hypervisor.StartVMRequest(id=self.sandbox_id)
        async with await Client.connect_unix(self._hypervisor_socket) as client:
            await client.call(_HYPERVISOR, "StartVM", request, hypervisor.StartVMResponse, timeout=120)
        self._agent = await Client.connect_unix(self._agent_socket)

    async def stop_vm(self) -> None:
        if self._agent is not None:
            await self._agent.close()
            self._agent = None
        request = hypervisor.StopVMRequest(id=self.sandbox_id)
        async with await Client.connect_unix(self._hypervisor_socket) as client:
            await client.call(_HYPERVISOR, "StopVM", request, hypervisor.StopVMResponse, timeout=60)

    def use_agent_socket(self, path: Path) -> None:
        """For the shim of a sandbox that was created before."""
        self._agent_socket = str(path)

    @property
    def agent(self) -> Client:
        """The connection to the agent, after start_vm."""
        assert self._agent is not None
        return self._agent

    async def create_sandbox(self) -> None:
        await self._call("CreateSandbox", agent.CreateSandboxRequest(sandbox_id=self.sandbox_id))

    async def run_container(self, container_id: str, args: list[str], cwd: str = "/") -> None:
        """Create a container and start it."""
        process = agent.Process(Args=args, Cwd=cwd, Env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
        await self._call(
            "CreateContainer",
            agent.CreateContainerRequest(
                container_id=container_id, exec_id=container_id, OCI=agent.Spec(Process=process)
            ),
        )
        await self._call("StartContainer", agent.StartContainerRequest(container_id=container_id))

    async def execute(self, container_id: str, exec_id: str, args: list[str]) -> tuple[int, str]:
        """Run a command in the container; its exit status and what it printed."""
        process = agent.Process(Args=args, Cwd="/", Env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
        names = {"container_id": container_id, "exec_id": exec_id}
        await self._call("ExecProcess", agent.ExecProcessRequest(process=process, **names))
        printed = b""
        try:
            while True:
                request = agent.ReadStreamRequest(len=_CHUNK, **names)
                response = await self.agent.call(
                    _AGENT, "ReadStdout", request, agent.ReadStreamResponse, timeout=60
                )
                if not response.data:
                    break
                printed += response.data
        except RpcError:
            pass  # the agent reports the end of the stream as an error, as Kata's does
        waited = await self.agent.call(
            _AGENT, "WaitProcess", agent.WaitProcessRequest(**names), agent.WaitProcessResponse, timeout=60
        )
        return waited.status, printed.decode(errors="replace")

    async def remove_container(self, container_id: str) -> None:
        await self._call(
            "RemoveContainer", agent.RemoveContainerRequest(container_id=container_id, timeout=10)
        )

    async def destroy_sandbox(self) -> None:
        await self._call("DestroySandbox", agent.DestroySandboxRequest())

    async def _call(self, method: str, request: Message) -> None:
        await self.agent.call(_AGENT, method, request, Empty, timeout=60)
