"""The spans that are made of what a `Tracing` is told."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from caa import daemon, tracing
from caa.errors import ResourceExhaustedError
from caa.providers import CloudCall
from caa.sandbox import Step
from caa.tracing import Tracing
from caa.ttrpc import CallContext

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FROM_SHIM = {"traceparent": [f"00-{TRACE}-{PARENT}-01"], "tracestate": ["vendor=1"]}

START = (
    Step.LAUNCH_INTENDED,
    Step.LAUNCHED,
    Step.LAUNCH_RECORDED,
    Step.ADDRESS_KNOWN,
    Step.ADDRESS_RECORDED,
    Step.TUNNEL_UP,
    Step.AGENT_REACHED,
    Step.SOCKET_LISTENING,
    Step.RUNNING_RECORDED,
)
STOP = (
    Step.STOP_INTENDED,
    Step.SOCKET_CLOSED,
    Step.TUNNEL_DOWN,
    Step.INSTANCE_DELETED,
    Step.FOLDER_REMOVED,
    Step.FORGOTTEN,
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    yield
    structlog.contextvars.clear_contextvars()


class Traced:
    """A `Tracing`, and the spans that it has delivered once it is closed."""

    def __init__(self, tracing: Tracing, exporter: InMemorySpanExporter) -> None:
        self.tracing = tracing
        self._exporter = exporter

    async def spans(self) -> dict[str, ReadableSpan]:
        """By name; no name may come twice."""
        await self.tracing.close()
        finished = self._exporter.get_finished_spans()
        by_name = {span.name: span for span in finished}
        assert len(by_name) == len(finished)
        return by_name

    def reach(self, *steps: Step) -> None:
        for step in steps:
            self.tracing.on_step("s1", step)

    def call(self, action: str, outcome: str = "ok", *, began_at: float = 0.0, sandbox: str = "s1") -> None:
        self.tracing.on_call(
            CloudCall(
                action=action,
                outcome=outcome,
                request_id="8F3A",
                began_at=began_at or time.time(),
                seconds=0.25,
                sandbox=sandbox,
            )
        )

    def rpc(self, method: str, metadata: Mapping[str, Sequence[str]] = FROM_SHIM) -> Any:
        return self.tracing.rpc(method, "s1", CallContext(metadata, None))


Make = Callable[[], Traced]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def made() -> Traced:
        exporter = InMemorySpanExporter()
        monkeypatch.setattr(tracing, "OTLPSpanExporter", lambda: exporter)
        return Traced(Tracing("node-1"), exporter)

    return made


@pytest.fixture
async def traced(make: Make) -> AsyncIterator[Traced]:
    made = make()
    yield made
    await made.tracing.close()


def parent_of(span: ReadableSpan, spans: Mapping[str, ReadableSpan]) -> str:
    """Its name; the shim's, or none."""
    if span.parent is None:
        return ""
    if span.parent.span_id == int(PARENT, 16):
        return "shim"
    return next(
        name
        for name, each in spans.items()
        if each.context is not None and each.context.span_id == span.parent.span_id
    )


def tree(spans: Mapping[str, ReadableSpan]) -> dict[str, str]:
    return {name: parent_of(span, spans) for name, span in spans.items()}


async def test_a_start_that_succeeds(traced: Traced) -> None:
    with traced.rpc("StartVM"):
        structlog.contextvars.bind_contextvars(sandbox="s1", pod="shop/web")
        traced.reach(*START[:1])
        traced.call("RunInstances")
        structlog.contextvars.bind_contextvars(instance="i-1")
        traced.reach(*START[1:5])
        traced.call("AssociateEipAddress")
        traced.call("DescribeInstances", sandbox="")
        traced.reach(*START[5:])
    spans = await traced.spans()
    assert tree(spans) == {
        "StartVM": "shim",
        "launch": "StartVM",
        "RunInstances": "launch",
        "addresses": "StartVM",
        "tunnel": "StartVM",
        "agent": "StartVM",
        "AssociateEipAddress": "StartVM",
    }
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}
    server, call = spans["StartVM"], spans["RunInstances"]
    assert server.kind is SpanKind.SERVER
    assert dict(server.attributes or {}) == {
        "rpc.service": "hypervisor.Hypervisor",
        "rpc.method": "StartVM",
        "rpc.response.status_code": "OK",
        "caa.sandbox": "s1",
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "web",
        "caa.instance": "i-1",
    }
    assert call.kind is SpanKind.CLIENT
    assert call.attributes is not None
    assert (call.attributes["caa.cloud.outcome"], call.attributes["caa.cloud.request_id"]) == ("ok", "8F3A")
    assert server.context is not None
    assert server.context.trace_state.get("vendor") == "1"


async def test_a_start_that_fails_says_why_where_it_failed(traced: Traced) -> None:
    with contextlib.suppress(ResourceExhaustedError), traced.rpc("StartVM"):
        traced.reach(*START[:1])
        traced.call("RunInstances", "OperationDenied.NoStock")
        traced.reach(*STOP)
        raise ResourceExhaustedError("no stock")
    spans = await traced.spans()
    assert tree(spans) == {
        "StartVM": "shim",
        "launch": "StartVM",
        "RunInstances": "launch",
        "take-down": "StartVM",
        "release": "take-down",
    }
    told = {name: span.status.description for name, span in spans.items() if not span.status.is_ok}
    told = {name: text for name, text in told.items() if spans[name].status.status_code is StatusCode.ERROR}
    assert told == {"StartVM": "no stock", "launch": "no stock", "RunInstances": "OperationDenied.NoStock"}
    assert (spans["StartVM"].attributes or {})["rpc.response.status_code"] == "RESOURCE_EXHAUSTED"
    launch, taking_down = spans["launch"], spans["take-down"]
    assert launch.end_time is not None
    assert taking_down.start_time is not None
    assert launch.end_time <= taking_down.start_time, (
        "the launch ended when it failed, not when it was undone"
    )


async def test_a_stop_by_another_call_belongs_to_what_began_it(traced: Traced) -> None:
    """A take-down outlasts the call whose failure began it."""

    async def take_down(go: asyncio.Event) -> None:
        await go.wait()
        traced.reach(*STOP[:2])
        traced.call("DeleteInstance")
        traced.reach(*STOP[2:])

    go = asyncio.Event()
    with traced.rpc("StopVM"):
        background = asyncio.create_task(take_down(go))
    go.set()
    await background
    assert tree(await traced.spans()) == {
        "StopVM": "shim",
        "take-down": "StopVM",
        "release": "take-down",
        "DeleteInstance": "release",
    }


async def test_a_request_belongs_to_the_part_in_which_it_began(traced: Traced) -> None:
    """Its caller may have left before its answer came."""
    with contextlib.suppress(asyncio.CancelledError), traced.rpc("StartVM"):
        traced.reach(Step.LAUNCH_INTENDED)
        began = time.time()
        traced.reach(*STOP[:2])
        traced.call("RunInstances", began_at=began)
        traced.reach(*STOP[2:])
        raise asyncio.CancelledError
    spans = await traced.spans()
    assert tree(spans)["RunInstances"] == "launch"
    assert (spans["StartVM"].attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def test_a_take_down_that_nobody_called_for_is_a_trace_of_its_own(traced: Traced) -> None:
    async def take_down() -> None:
        traced.reach(*STOP)

    await asyncio.create_task(take_down())
    assert tree(await traced.spans()) == {"take-down": "", "release": "take-down"}


async def test_what_is_left_to_the_next_daemon_is_delivered_as_such(traced: Traced) -> None:
    async def take_down() -> None:
        traced.reach(*STOP[:2])

    await asyncio.create_task(take_down())
    spans = await traced.spans()
    assert {span.status.description for span in spans.values()} == {"left to the next daemon"}
    assert set(spans) == {"take-down", "release"}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"traceparent": []},
        {"traceparent": ["nonsense"]},
        {"traceparent": [f"00-{'0' * 32}-{PARENT}-01"]},
        {"traceparent": ["x" * 100_000], "tracestate": ["\x00=,," * 1000]},
    ],
    ids=["none", "empty", "nonsense", "zeros", "huge"],
)
async def test_without_a_parent_a_call_begins_a_trace(
    metadata: Mapping[str, Sequence[str]], traced: Traced
) -> None:
    with traced.rpc("CreateVM", metadata):
        named = structlog.contextvars.get_contextvars()
    spans = await traced.spans()
    assert tree(spans) == {"CreateVM": ""}
    context = spans["CreateVM"].context
    assert context is not None
    assert named == {"trace": f"{context.trace_id:032x}"}, "log lines name it"
    assert structlog.contextvars.get_contextvars() == {}


async def test_a_trace_that_its_caller_does_not_sample_stays_unseen(traced: Traced) -> None:
    with traced.rpc("StartVM", {"traceparent": [f"00-{TRACE}-{PARENT}-00"]}):
        traced.reach(*START)
    assert await traced.spans() == {}


async def test_the_standard_variables_say_who_sends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pod-vms")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=c1,k8s.node.name=other")
    traced = make()
    with traced.rpc("CreateVM"):
        pass
    resource = (await traced.spans())["CreateVM"].resource.attributes
    assert resource["service.name"] == "pod-vms"
    assert resource["k8s.cluster.name"] == "c1"
    assert resource["k8s.node.name"] == "other"


async def test_who_sends_by_default(traced: Traced) -> None:
    with traced.rpc("CreateVM"):
        pass
    resource = (await traced.spans())["CreateVM"].resource.attributes
    assert (resource["service.name"], resource["k8s.node.name"]) == ("caa", "node-1")


async def test_the_sampler_is_the_sdks_to_choose(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    traced = make()
    with traced.rpc("CreateVM"):
        pass
    assert await traced.spans() == {}


async def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not spoken"):
        Tracing("node-1")


class Moody(SpanExporter):
    """Fails as often as it is told to."""

    def __init__(self, *moods: bool | Exception) -> None:
        self._moods = list(moods)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        mood = self._moods.pop(0)
        if isinstance(mood, Exception):
            raise mood
        return SpanExportResult.SUCCESS if mood else SpanExportResult.FAILURE


def test_a_collector_that_is_away_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@collector:4318")
    spans: Any = [None, None]
    reporting = tracing._Reporting(Moody(True, False, OSError("no such file"), False, True, False))
    with structlog.testing.capture_logs() as told:
        for _ in range(6):
            reporting.export(spans)
    away = {"event": "spans can't be delivered", "log_level": "warning"}
    away["endpoint"] = "http://(hidden)@collector:4318"
    back = {"event": "spans are delivered again", "log_level": "info", "lost": 6}
    assert told == [away, back, away]


async def test_a_fault_in_tracing_ends_no_call(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(traced.tracing, "_tracer", type("Broken", (), {"start_span": broken}))
    with structlog.testing.capture_logs() as told, traced.rpc("StartVM"):
        traced.reach(Step.LAUNCH_INTENDED)
        traced.call("RunInstances")
    assert [each["event"] for each in told] == ["something was not observed"] * 3


def daemons_tracing() -> contextlib.AbstractAsyncContextManager[Tracing | None]:
    settings: Any = SimpleNamespace(node_name="node-1")
    return daemon._tracing(settings)


@pytest.mark.parametrize(
    "environ",
    [{"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {"OTEL_TRACES_EXPORTER": "none"}],
    ids=["no collector", "turned off"],
)
async def test_a_daemon_that_is_not_asked_for_spans_makes_none(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    async with daemons_tracing() as made:
        assert made is None


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
async def test_a_daemon_with_a_collector_makes_spans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with daemons_tracing() as made:
        assert made is not None


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_BSP_MAX_QUEUE_SIZE", "-1")]
)
async def test_settings_that_make_no_sense_cost_only_the_spans(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with structlog.testing.capture_logs() as told:
        async with daemons_tracing() as made:
            assert made is None
    assert [each["event"] for each in told] == ["no spans are made"]


def test_who_wants_no_spans_does_not_pay_for_them() -> None:
    asked = "import sys, caa.daemon; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
