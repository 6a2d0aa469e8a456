"""The remote-hypervisor API as shims and tools see it, against the real daemon on the local cloud."""

import asyncio
import json
import stat
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from caa import __version__
from caa.errors import Code
from caa.fakecloud import Fault
from caa.polling import growing, poll
from caa.proto import hypervisor_pb2 as hypervisor
from caa.proto import podvminfo_pb2 as podvminfo
from caa.ttrpc import Client, RpcError

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

Answer = TypeVar("Answer", bound=Message)

NAMES = {"io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "default"}


async def call(node: "Node", method: str, request: Message, answer: type[Answer]) -> Answer:
    async with await Client.connect_unix(node.socket) as client:
        return await client.call("hypervisor.Hypervisor", method, request, answer, timeout=60)


async def refused(node: "Node", method: str, request: Message, answer: type[Message]) -> tuple[Code, str]:
    with pytest.raises(RpcError) as caught:
        await call(node, method, request, answer)
    return caught.value.code, str(caught.value)


async def test_requests_that_can_not_be_met(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")

    async def create(**fields: Any) -> tuple[Code, str]:
        request = {"id": "s1", "annotations": NAMES, "networkNamespacePath": str(netns)} | fields
        return await refused(
            node, "CreateVM", hypervisor.CreateVMRequest(**request), hypervisor.CreateVMResponse
        )

    async with node.daemon():
        for bad_id in ("", "a/b", "..", "../x", "x" * 200):
            assert (await create(id=bad_id))[0] is Code.INVALID_ARGUMENT, bad_id
        code, told = await create(id="x" * 100)
        assert code is Code.INVALID_ARGUMENT
        assert "PODS_DIR" in told
        code, told = await create(annotations={})
        assert code is Code.INVALID_ARGUMENT
        assert "sandbox-name" in told
        code, told = await create(networkNamespacePath="/run/netns/nowhere")
        assert code is Code.NOT_FOUND
        assert "/run/netns/nowhere" in told
        code, told = await create(
            annotations={**NAMES, "io.katacontainers.config.hypervisor.default_vcpus": "two"}
        )
        assert code is Code.INVALID_ARGUMENT
        assert "default_vcpus" in told
        assert "'two'" in told
        code, told = await create(
            annotations={**NAMES, "io.katacontainers.config.hypervisor.cc_init_data": "x ="}
        )
        assert code is Code.INVALID_ARGUMENT
        assert "cc_init_data" in told

        code, told = await refused(
            node, "StartVM", hypervisor.StartVMRequest(id="s1"), hypervisor.StartVMResponse
        )
        assert code is Code.NOT_FOUND
        assert "CreateVM" in told
        await call(node, "StopVM", hypervisor.StopVMRequest(id="s1"), hypervisor.StopVMResponse)
        await node.nothing_is_left("web")


async def test_create_makes_private_files_and_no_cloud_call(node: "Node") -> None:
    netns, address = await node.worker.add_pod("web")
    async with node.daemon(), node.shim() as shim:
        calls = len(list(node.cloud.calls))
        socket = await shim.create_vm(pod="web", namespace="default", netns=netns)
        assert len(list(node.cloud.calls)) == calls
        folder = node.pods_dir / shim.sandbox_id
        assert socket == folder / "agent.ttrpc"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "apf.json").stat().st_mode) == 0o600
        config = json.loads((folder / "apf.json").read_text())
        assert config["pod-name"] == "web"
        assert config["pod-network"]["podip"] == f"{address}/24"
        assert stat.S_IMODE(node.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(node.grpc_socket.stat().st_mode) == 0o600

        with pytest.raises(RpcError) as caught:
            await shim.create_vm(pod="web", namespace="default", netns=netns)
        assert caught.value.code is Code.ALREADY_EXISTS
        await shim.stop_vm()
        await shim.stop_vm()
        await node.nothing_is_left("web")


async def test_starting_twice_and_stopping_meanwhile(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon(), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        first = asyncio.create_task(shim.start_vm())
        await instances(node, 1)
        again = hypervisor.StartVMRequest(id=shim.sandbox_id)
        code, told = await refused(node, "StartVM", again, hypervisor.StartVMResponse)
        assert code is Code.FAILED_PRECONDITION
        assert "starting" in told
        await call(node, "StopVM", hypervisor.StopVMRequest(id=shim.sandbox_id), hypervisor.StopVMResponse)
        with pytest.raises(RpcError) as caught:
            await first
        assert caught.value.code is Code.ABORTED
        await node.nothing_is_left("web")


async def test_starting_a_running_one_is_ok_at_once(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon(), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        await shim.start_vm()
        await call(node, "StartVM", hypervisor.StartVMRequest(id=shim.sandbox_id), hypervisor.StartVMResponse)
        assert node.ever_created == 1
        await shim.stop_vm()
        await node.nothing_is_left("web")


async def test_a_caller_that_goes_away_leaves_nothing(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon(), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        start = asyncio.create_task(shim.start_vm())
        await instances(node, 1)
        start.cancel()  # closes the connection, as a shim does whose deadline passed
        with pytest.raises(asyncio.CancelledError):
            await start
        await node.nothing_is_left("web")
        assert node.ever_created == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(action="RunInstances", code="OperationDenied.NoStock", status=403), "OperationDenied.NoStock"),
        (
            Fault(action="RunInstances", code="QuotaExceed.ElasticQuota", status=400),
            "QuotaExceed.ElasticQuota",
        ),
        (Fault(action="DescribeInstanceAttribute", code="Forbidden.RAM", status=403), "Forbidden.RAM"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.code,
)
async def test_what_the_cloud_refuses_is_told_and_undone(node: "Node", fault: Fault, told: str) -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon(), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        node.cloud.faults.add(fault)
        with pytest.raises(RpcError) as caught:
            await shim.start_vm()
        assert told in str(caught.value)
        assert fault.action in str(caught.value)
        await node.nothing_is_left("web")


async def test_a_vm_that_does_not_answer_is_told_and_undone(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon_with("--proxy-timeout", "100ms", "--forwarder-port", "9"), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        with pytest.raises(RpcError) as caught:
            await shim.start_vm()
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert ":9 not reached within 0.1 s" in str(caught.value)
        await node.nothing_is_left("web")


async def test_a_cloud_that_will_not_delete_does_not_hold_the_pod_up(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.shim() as shim:
        async with node.daemon():
            await shim.create_vm(pod="web", namespace="default", netns=netns)
            await shim.start_vm()
            node.cloud.faults.add(
                Fault(action="DeleteInstance", code="Forbidden.RAM", status=403, times=10_000)
            )
            await shim.stop_vm()
            assert len(node.instance_ids) == 1
            assert node.journal_rows() == [shim.sandbox_id]
        node.cloud.faults.clear()
        async with node.daemon():
            await node.nothing_is_left("web")


async def test_pods_at_once(node: "Node") -> None:
    """Eight pods start side by side; one that can't start does not hold the others up."""
    async with node.daemon():
        pods = [await node.worker.add_pod(f"p{number}") for number in range(8)]
        shims = [node.shim() for _ in pods]
        for number, (shim, (netns, _)) in enumerate(zip(shims, pods, strict=True)):
            await shim.create_vm(pod=f"p{number}", namespace="default", netns=netns)
        await asyncio.gather(*(shim.start_vm() for shim in shims))
        for _, address in pods:
            await node.worker.ping(address, timeout=10)
        vnis = {
            json.loads((node.pods_dir / s.sandbox_id / "apf.json").read_text())["pod-network"]["vxlan-id"]
            for s in shims
        }
        assert len(vnis) == len(pods)
        await asyncio.gather(*(shim.stop_vm() for shim in shims))
        for number in range(len(pods)):
            await node.nothing_is_left(f"p{number}")


async def test_grpc_is_the_same_service(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon(), grpc.aio.insecure_channel(f"unix:{node.grpc_socket}") as channel:

        async def ask(service: str, method: str, request: Message, answer: type[Message]) -> Any:
            rpc = channel.unary_unary(
                f"/{service}/{method}", type(request).SerializeToString, answer.FromString
            )
            return await rpc(request, timeout=60)

        hyper = "hypervisor.Hypervisor"
        version = await ask(hyper, "Version", hypervisor.VersionRequest(), hypervisor.VersionResponse)
        assert version.version == __version__

        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", hyper, "podvminfo.PodVMInfo"):
            checked = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert checked.status == health_pb2.HealthCheckResponse.SERVING

        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        async for response in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([listing])
        ):
            names = {service.name for service in response.list_services_response.service}
            assert {hyper, "podvminfo.PodVMInfo", "grpc.health.v1.Health"} <= names

        sandbox = uuid.uuid4().hex
        create = hypervisor.CreateVMRequest(id=sandbox, annotations=NAMES, networkNamespacePath=str(netns))
        await ask(hyper, "CreateVM", create, hypervisor.CreateVMResponse)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(hyper, "CreateVM", create, hypervisor.CreateVMResponse)
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert sandbox in (caught.value.details() or "")

        info = podvminfo.GetInfoRequest(PodName="web", PodNamespace="default")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask("podvminfo.PodVMInfo", "GetInfo", info, podvminfo.GetInfoResponse)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        info.Wait = True
        waiting = asyncio.create_task(ask("podvminfo.PodVMInfo", "GetInfo", info, podvminfo.GetInfoResponse))
        await ask(hyper, "StartVM", hypervisor.StartVMRequest(id=sandbox), hypervisor.StartVMResponse)
        assert node.instance_ids[0] == (await waiting).VMID
        await ask(hyper, "StopVM", hypervisor.StopVMRequest(id=sandbox), hypervisor.StopVMResponse)
        await node.nothing_is_left("web")


async def test_waiting_for_a_pod_that_never_comes_ends_at_the_deadline(node: "Node") -> None:
    async with node.daemon(), await Client.connect_unix(node.socket) as client:
        request = podvminfo.GetInfoRequest(PodName="web", PodNamespace="default", Wait=True)
        with pytest.raises(RpcError) as caught:
            await client.call(
                "podvminfo.PodVMInfo", "GetInfo", request, podvminfo.GetInfoResponse, timeout=0.2
            )
        assert caught.value.code is Code.DEADLINE_EXCEEDED


async def instances(node: "Node", number: int) -> None:
    async def counted() -> tuple[bool | None, str]:
        return len(node.instance_ids) == number or None, f"{len(node.instance_ids)} instances"

    await poll(counted, what=f"{number} instances", pauses=growing(0.01, 1.2, 0.1), timeout=30)


async def test_a_pod_with_all_addresses_there_are(node: "Node") -> None:
    """Its VM is reached by a public address, and has a second interface with one of its own."""
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon_with("--use-public-ip", "--ext-network-via-podvm"), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        await shim.start_vm()
        (eip,) = node.cloud.eips
        (instance,) = node.cloud.instances
        assert eip.status == "InUse"
        assert eip.eni
        assert (eip.eni.instance, eip.eni.primary) == (instance.id, False)
        await shim.create_sandbox()
        await shim.stop_vm()
        await node.nothing_is_left("web")
