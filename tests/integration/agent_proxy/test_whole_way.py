"""From a ttRPC client by proxy, TLS and forwarder to a ttRPC server: what a shim and an agent see."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from google.protobuf.empty_pb2 import Empty

from caa.agent_proxy import AgentProxy, Forwarder
from caa.errors import Code
from caa.podvm import Authority, ForwarderConfig, ForwarderOptions, client_context, run_forwarder
from caa.proto import agent_pb2
from caa.ttrpc import CallContext, Client, RpcError, Server

PATIENCE = 20.0
VM = "podvm-web-12345678"
AGENT = "grpc.AgentService"


@dataclass
class Agent:
    """Serves a few methods, as the handlers' names say."""

    created: list[agent_pb2.CreateContainerRequest] = field(default_factory=list)
    exit: asyncio.Event = field(default_factory=asyncio.Event)

    async def CreateContainer(  # noqa: N802  the RPC's name
        self, request: agent_pb2.CreateContainerRequest, _: CallContext
    ) -> Empty:
        self.created.append(request)
        return Empty()

    async def WaitProcess(  # noqa: N802  the RPC's name
        self, _request: agent_pb2.WaitProcessRequest, _: CallContext
    ) -> agent_pb2.WaitProcessResponse:
        await self.exit.wait()
        return agent_pb2.WaitProcessResponse(status=3)

    async def ReadStdout(  # noqa: N802  the RPC's name
        self, request: agent_pb2.ReadStreamRequest, _: CallContext
    ) -> agent_pb2.ReadStreamResponse:
        return agent_pb2.ReadStreamResponse(data=b"x" * request.len)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
async def shim(agent: Agent, authority: Authority, free_port: int, tmp_path: Path) -> AsyncIterator[Client]:
    certificate, key = authority.issue(VM)
    config = ForwarderConfig(
        pod_namespace="default",
        pod_name="web",
        tls_server_cert=certificate,
        tls_server_key=key,
        tls_client_ca=authority.client_certificate,
    )
    (tmp_path / "apf.json").write_text(config.to_json())
    server = Server()
    server.register(agent_pb2.DESCRIPTOR.services_by_name["AgentService"], agent)
    listening = await asyncio.start_unix_server(server.serve, tmp_path / "agent.sock")
    forwarder = asyncio.create_task(
        run_forwarder(
            ForwarderOptions(
                config=tmp_path / "apf.json",
                listen=f"127.0.0.1:{free_port}",
                kata_agent_socket=tmp_path / "agent.sock",
            )
        )
    )
    proxy = AgentProxy(
        tmp_path / "agent.ttrpc",
        Forwarder("127.0.0.1", free_port, VM, client_context(authority)),
        structlog.get_logger(),
    )
    await proxy.connect(PATIENCE)
    await proxy.listen()
    async with await Client.connect_unix(tmp_path / "agent.ttrpc") as client:
        yield client
    await proxy.close()
    forwarder.cancel()
    await asyncio.wait((forwarder,))
    listening.close()
    await server.close(0)
    await listening.wait_closed()


async def test_calls_make_the_whole_way(shim: Client, agent: Agent) -> None:
    waiting = asyncio.create_task(
        shim.call(AGENT, "WaitProcess", agent_pb2.WaitProcessRequest(), agent_pb2.WaitProcessResponse)
    )
    gpus = {"io.katacontainers.config.hypervisor.default_gpus": "1"}
    request = agent_pb2.CreateContainerRequest(container_id="c1", OCI=agent_pb2.Spec(Annotations=gpus))
    await shim.call(AGENT, "CreateContainer", request, Empty, timeout=PATIENCE)
    (created,) = agent.created
    assert created.OCI.Annotations["cdi.k8s.io/peer-pods"] == "nvidia.com/gpu=all"
    assert [space.Path for space in created.OCI.Linux.Namespaces] == ["/run/netns/podns"]

    length = 4_000_000
    reading = [
        shim.call(
            AGENT,
            "ReadStdout",
            agent_pb2.ReadStreamRequest(len=length),
            agent_pb2.ReadStreamResponse,
            timeout=PATIENCE,
        )
        for _ in range(4)
    ]
    assert [len(answer.data) for answer in await asyncio.gather(*reading)] == [length] * 4

    with pytest.raises(RpcError) as unknown:
        await shim.call(AGENT, "MethodOfTheFuture", Empty(), Empty, timeout=PATIENCE)
    assert unknown.value.code == Code.UNIMPLEMENTED

    agent.exit.set()
    assert (await waiting).status == 3
