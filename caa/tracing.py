"""A pod's life as OpenTelemetry spans, sent to a collector by OTLP. Imported only where one is configured.

    CreateVM, StartVM, StopVM    a shim's call, the child of the span that its metadata tell of
    ├─ launch                    the parts of a start: see `_PARTS`
    │  └─ RunInstances …         each request to the cloud that was made for the sandbox meanwhile
    ├─ addresses, tunnel, agent
    └─ take-down                 of a StopVM, or of what did not succeed; it may outlast the call
       └─ release

A take-down that no shim asked for, after a restart or by an operator, begins a trace of its own. Requests on
behalf of several sandboxes at once belong to none.

Like `caa.metrics` it is told what happens, and never raises. Who is told, in whose task, decides what belongs
to what: the call that a task works for is in its context.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from logging import CRITICAL, getLogger
from typing import NamedTuple

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Span,
    SpanKind,
    StatusCode,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars, get_contextvars

from caa import __version__
from caa.errors import CaaError, Code
from caa.observers import never_raises
from caa.providers import CloudCall
from caa.redaction import hide_secrets
from caa.sandbox import Step
from caa.ttrpc import CallContext

_log = structlog.get_logger(__name__)

_TALKATIVE = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal", "opentelemetry.util.re")
"""Loggers that speak of each batch, and quote headers. `_Reporting` speaks instead."""

FLUSH_SECONDS = 2.0
"""How long the end of the daemon waits for spans to be delivered."""


class _Part(NamedTuple):
    name: str
    begin: Step
    end: Step
    within: str = ""


_SERVICE = "hypervisor.Hypervisor"

_TAKE_DOWN = "take-down"

_PARTS = (
    _Part("launch", Step.LAUNCH_INTENDED, Step.LAUNCHED),
    _Part("addresses", Step.LAUNCH_RECORDED, Step.ADDRESS_KNOWN),
    _Part("tunnel", Step.ADDRESS_RECORDED, Step.TUNNEL_UP),
    _Part("agent", Step.ADDRESS_RECORDED, Step.AGENT_REACHED),
    _Part(_TAKE_DOWN, Step.STOP_INTENDED, Step.FORGOTTEN),
    _Part("release", Step.SOCKET_CLOSED, Step.INSTANCE_DELETED, within=_TAKE_DOWN),
)

_CALLING = ("release", _TAKE_DOWN, "addresses", "launch")
"""The parts that consist of requests to the cloud, inner ones first. Other requests are the call's own."""


@dataclass(eq=False)
class _Open:
    """A part that has begun."""

    part: _Part
    span: Span
    began: int
    """Unix time in nanoseconds, as below."""
    ended: int | None = None

    def covers(self, at: int) -> bool:
        return self.began <= at and (self.ended is None or at <= self.ended)


@dataclass(eq=False)
class _Work:
    """What is done for one call or, without a call, for one take-down."""

    parent: Context
    span: Span | None = None
    parts: list[_Open] = field(default_factory=list)

    @property
    def log_fields(self) -> dict[str, str]:
        known = self.span.get_span_context() if self.span else INVALID_SPAN_CONTEXT
        return {"trace": format_trace_id(known.trace_id)} if known.is_valid else {}

    def within(self, name: str) -> Context:
        """The part of that name as a parent or, if there is none, the call."""
        found = next((each.span for each in self.parts if each.part.name == name), None)
        return set_span_in_context(found, Context()) if found else self.parent

    def calling(self, at: int) -> Context:
        """Where a request belongs that was made at this time."""
        open_then = {each.part.name for each in self.parts if each.covers(at)}
        return self.within(next((name for name in _CALLING if name in open_then), ""))


_WORK: ContextVar[_Work | None] = ContextVar("_WORK", default=None)


class Tracing:
    """Makes spans of what it is told, and delivers them. Must be closed."""

    def __init__(self, node: str) -> None:
        """`node` is its name. All else is the OpenTelemetry SDK's to read, from its standard variables.

        Raises ValueError, or whatever the SDK does, if they make no sense.
        """
        protocol = _first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol not in ("", "http/protobuf"):
            raise ValueError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not spoken; allowed: http/protobuf, which"
                " collectors take on port 4318 as a rule"
            )
        for name in _TALKATIVE:
            getLogger(name).setLevel(CRITICAL)
        exporter = _Reporting(OTLPSpanExporter())
        self._provider = TracerProvider(resource=_resource(node), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("caa", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._unfinished: set[Span] = set()

    @contextlib.contextmanager
    def rpc(self, method: str, sandbox: str, context: CallContext) -> Iterator[None]:
        """Around a shim's call."""
        work = _Work(Context())
        self._begin_rpc(work, method, sandbox, context)
        token = _WORK.set(work)
        code, message = Code.OK, ""
        try:
            with bound_contextvars(**work.log_fields):
                yield
        except CaaError as error:
            code, message = error.code, str(error)
            raise
        except asyncio.CancelledError:
            code, message = Code.CANCELLED, "the caller went away, or its deadline passed"
            raise
        except BaseException as error:
            code, message = Code.UNKNOWN, hide_secrets(f"{type(error).__name__}: {error}")
            raise
        finally:
            _WORK.reset(token)
            self._end_rpc(work, code, message)

    @never_raises
    def _begin_rpc(self, work: _Work, method: str, sandbox: str, context: CallContext) -> None:
        carrier = {key: list(values) for key, values in context.metadata.items()}
        work.span = self._tracer.start_span(
            method,
            context=self._propagator.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            attributes={"rpc.service": _SERVICE, "rpc.method": method, **_named({"sandbox": sandbox})},
        )
        work.parent = set_span_in_context(work.span, Context())

    @never_raises
    def _end_rpc(self, work: _Work, code: Code, message: str) -> None:
        if work.span is None:
            return
        if code is not Code.OK:
            work.span.set_status(StatusCode.ERROR, message)
            for each in work.parts:
                if each.part.end < Step.STOP_INTENDED:
                    self._end(each, message)
        work.span.set_attribute("rpc.response.status_code", code.name)
        work.span.end()

    @never_raises
    def on_step(self, _sandbox: str, step: Step) -> None:
        now = time.time_ns()
        work = _WORK.get()
        if work is None:  # a take-down, in its own task
            work = _Work(Context())
            _WORK.set(work)
        names = _named(get_contextvars())
        if work.span is not None and work.span.is_recording():
            work.span.set_attributes(names)
        for each in work.parts:
            if each.part.end is step:
                each.ended = now
                self._end(each)
            elif step is Step.STOP_INTENDED and each.ended is None:
                each.ended = now  # it failed, and why is known when the call ends
        for part in _PARTS:
            if part.begin is step:
                span = self._tracer.start_span(
                    part.name, context=work.within(part.within), attributes=names, start_time=now
                )
                work.parts.append(_Open(part, span, now))
                self._unfinished.add(span)

    @never_raises
    def on_call(self, call: CloudCall) -> None:
        work = _WORK.get()
        if work is None or not call.sandbox:
            return
        began = int(call.began_at * 1e9)
        span = self._tracer.start_span(
            call.action,
            context=work.calling(began),
            kind=SpanKind.CLIENT,
            start_time=began,
            attributes={
                **_named(get_contextvars()),
                "caa.cloud.outcome": call.outcome,
                "caa.cloud.request_id": call.request_id,
            },
        )
        if call.outcome != "ok":
            span.set_status(StatusCode.ERROR, call.outcome)
        span.end(began + int(call.seconds * 1e9))

    async def close(self) -> None:
        """Deliver what is left, for FLUSH_SECONDS at most."""
        for span in self._unfinished:
            span.set_status(StatusCode.ERROR, "left to the next daemon")
            span.end()
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(done.set)

        # Not in the loop's executor, which would wait for it at the end: the exporter has no deadline that
        # could be given to it.
        threading.Thread(target=flush, name="last-spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()

    def _end(self, each: _Open, error: str = "") -> None:
        if each.span in self._unfinished:
            self._unfinished.discard(each.span)
            if error:
                each.span.set_status(StatusCode.ERROR, error)
            each.span.end(each.ended)


class _Reporting(SpanExporter):
    """Says once that spans are not delivered, and once that they are again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001  such as a certificate file that is missing
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                _log.info("spans are delivered again", lost=self._lost)
            self._lost = 0
        else:
            if not self._lost:
                endpoint = _first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
                _log.warning("spans can't be delivered", endpoint=hide_secrets(endpoint))
            self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _first(*names: str) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _resource(node: str) -> Resource:
    """Who sends the spans. What the standard variables say of that beats what is known here."""
    known = {"service.name": "caa", "service.version": __version__, "k8s.node.name": node}
    known = {key: value for key, value in known.items() if value}
    return Resource.create({**known, **OTELResourceDetector().detect().attributes})


def _named(fields: Mapping[str, str]) -> dict[str, str]:
    """What a log line names, as attributes."""
    namespace, _, pod = fields.get("pod", "").partition("/")
    named = {
        "caa.sandbox": fields.get("sandbox", "")[:200],
        "k8s.namespace.name": namespace,
        "k8s.pod.name": pod,
        "caa.instance": fields.get("instance", ""),
    }
    return {key: value for key, value in named.items() if value}
