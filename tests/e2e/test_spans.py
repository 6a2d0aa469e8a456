"""What a collector gets of the real daemon: OTLP over HTTP, on its own node's loopback."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from caa.demo import CAA, Child
from caa.fakecloud import Fault
from caa.polling import growing, poll
from caa.proto import hypervisor_pb2 as hypervisor
from caa.ttrpc import Client, RpcError

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

PORT = 4318
SHIM_SPAN = "b7ad6b7169203331"


def trace_of(number: int) -> str:
    return f"{number:032x}"


class Collector:
    """Takes spans at 127.0.0.1:4318 of a node."""

    def __init__(self) -> None:
        self.received = b""
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self.arrived = 0
        self.answers = asyncio.Event()
        """Clear it, and nobody gets an answer."""
        self.answers.set()

    @contextlib.asynccontextmanager
    async def serving(self, node: "Node") -> AsyncIterator["Collector"]:
        def listen() -> socket.socket:
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", PORT))
            return listening

        app = web.Application()
        app.add_routes([web.post("/v1/traces", self._take)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, await node.worker._in_namespace(listen)).start()
        try:
            yield self
        finally:
            self.answers.set()
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.arrived += 1
        await self.answers.wait()
        self.received += body
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {each.key: each.value.string_value for each in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += scope.spans
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    def trace(self, number: int) -> list[Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_of(number)]


def tree(spans: list[Span]) -> set[tuple[str, str]]:
    """Each span's name, with its parent's."""
    names = {span.span_id.hex(): span.name for span in spans} | {SHIM_SPAN: "the shim"}
    return {(span.name, names[span.parent_span_id.hex()]) for span in spans}


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def daemon_with_spans(node: "Node", **environ: str) -> contextlib.AbstractAsyncContextManager[Child]:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{PORT}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",  # seconds until a collector that is away is given up for a batch
        "OTEL_BSP_SCHEDULE_DELAY": "20",  # milliseconds that a span waits for others
        **environ,
    }
    return node.daemon(("env", *(f"{key}={value}" for key, value in settings.items()), *CAA, "alibabacloud"))


async def call(node: "Node", number: int, request: Any, kind: type[Message]) -> None:
    """One of a shim's calls, as part of the trace of this number."""
    method = type(request).__name__.removesuffix("Request")
    metadata = {"traceparent": f"00-{trace_of(number)}-{SHIM_SPAN}-01", "tracestate": "shim=1"}
    async with await Client.connect_unix(node.socket) as client:
        await client.call("hypervisor.Hypervisor", method, request, kind, timeout=60, metadata=metadata)


async def create(node: "Node", number: int, pod: str) -> None:
    netns, _ = await node.worker.add_pod(pod)
    names = {"io.kubernetes.cri.sandbox-name": pod, "io.kubernetes.cri.sandbox-namespace": "shop"}
    request = hypervisor.CreateVMRequest(id=pod, annotations=names, networkNamespacePath=str(netns))
    await call(node, number, request, hypervisor.CreateVMResponse)


async def start(node: "Node", number: int, pod: str) -> None:
    await call(node, number, hypervisor.StartVMRequest(id=pod), hypervisor.StartVMResponse)


async def stop(node: "Node", number: int, pod: str) -> None:
    await call(node, number, hypervisor.StopVMRequest(id=pod), hypervisor.StopVMResponse)


async def test_a_pods_life_and_a_start_that_fails(node: "Node") -> None:
    async with Collector().serving(node) as collector:
        async with daemon_with_spans(node, OTEL_RESOURCE_ATTRIBUTES="k8s.cluster.name=c1") as daemon:
            await create(node, 1, "web")
            await start(node, 2, "web")
            [instance] = node.instance_ids
            await stop(node, 3, "web")
            fault = Fault(action="RunInstances", code="OperationDenied.NoStock", status=403, share=1.0)
            node.cloud.faults.add(fault)
            await create(node, 4, "none")
            with pytest.raises(RpcError, match="NoStock") as failure:
                await start(node, 5, "none")
        assert daemon.process.returncode == 0

    assert tree(collector.trace(1)) == {("CreateVM", "the shim")}
    started, stopped, failed = collector.trace(2), collector.trace(3), collector.trace(5)
    assert tree(started) >= {
        ("StartVM", "the shim"),
        ("launch", "StartVM"),
        ("RunInstances", "launch"),
        ("addresses", "StartVM"),
        ("tunnel", "StartVM"),
        ("agent", "StartVM"),
    }
    assert tree(stopped) == {
        ("StopVM", "the shim"),
        ("take-down", "StopVM"),
        ("release", "take-down"),
        ("DeleteInstance", "release"),
    }
    assert tree(failed) == {
        ("StartVM", "the shim"),
        ("launch", "StartVM"),
        ("RunInstances", "launch"),
        ("take-down", "StartVM"),
        ("release", "take-down"),
    }
    pod = {"caa.sandbox": "web", "k8s.namespace.name": "shop", "k8s.pod.name": "web"}
    for span in collector.trace(1) + started + stopped:
        assert span.status.code == Status.STATUS_CODE_UNSET, span
        assert span.trace_state == "shim=1"
        assert attributes(span).items() >= pod.items()
    for span in [each for each in started if each.name in ("StartVM", "tunnel", "agent")] + stopped:
        assert attributes(span)["caa.instance"] == instance
    [run] = [span for span in started if span.name == "RunInstances"]
    assert attributes(run)["caa.cloud.request_id"]
    errors = {span.name: span.status.message for span in failed if span.status.code}
    told = str(failure.value)
    assert errors == {"StartVM": told, "launch": told, "RunInstances": "OperationDenied.NoStock"}
    assert collector.resource["service.name"] == "caa"
    assert collector.resource["k8s.cluster.name"] == "c1"

    secrets = [value for key, value in node.environ.items() if "SECRET" in key or "TOKEN" in key]
    assert secrets
    for secret in [*secrets, "PRIVATE KEY", "write_files", "apf.json"]:
        assert secret.encode() not in collector.received

    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    about = [line for line in lines if line.get("sandbox") == "web"]
    assert {(line["namespace"], line["pod"]) for line in about} == {("shop", "web")}
    assert {line.get("trace") for line in about} == {trace_of(number) for number in (1, 2, 3)}
    calls = {line["action"]: line for line in about if line["event"] == "cloud call"}
    assert calls["RunInstances"]["request_id"] == attributes(run)["caa.cloud.request_id"]
    assert calls["DeleteInstance"]["instance"] == instance


async def test_a_collector_that_is_away_or_slow_delays_nothing(node: "Node") -> None:
    collector = Collector()
    async with daemon_with_spans(node) as daemon:
        await create(node, 1, "web")
        await daemon.event("spans can't be delivered", 30)
        collector.answers.clear()
        async with collector.serving(node):
            await start(node, 2, "web")

            async def asked() -> tuple[bool | None, str]:
                return bool(collector.arrived) or None, "nothing arrived"

            await poll(asked, what="spans to arrive", pauses=growing(0.02, longest=0.1), timeout=30)
            await stop(node, 3, "web")
            assert await daemon.end() == 0
            assert not collector.spans, "it was waited for no longer than that"
    away = [event for event in daemon.events if event["event"] == "spans can't be delivered"]
    assert len(away) == 1
    assert not [event for event in daemon.events if "opentelemetry" in event.get("logger", "")]
    await node.nothing_is_left("web")
