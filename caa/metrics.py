"""What the daemon counts and times, for Prometheus. docs/metrics.md names each metric.

A `Metrics` is told what happens: its methods `on_…` are observers. It has a registry of its own, so that two
daemons in one process, as in tests, don't add up.
"""

import re
import time
from collections import Counter as Counting
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from caa import __version__
from caa.errors import Code
from caa.observers import never_raises
from caa.providers import CloudCall
from caa.sandbox import State, Step

# Else each counter has another series, that tells when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own annotation is missing

PHASE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300)
"""Seconds. A VM is up after 5 to 120; the journal and the tunnel take milliseconds; PROXY_TIMEOUT is 300."""
CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
"""Seconds. A request that has had no answer for 15 is given up."""

MAX_OUTCOMES = 100
"""How many outcomes of cloud calls get a series of their own; the cloud has more codes than anybody knows."""
OTHER = "other"


class Phase(NamedTuple):
    """A part of a sandbox's life that is timed. One that does not reach its end is not."""

    name: str
    begin: Step
    end: Step


PHASES = (
    Phase("launch", Step.LAUNCH_INTENDED, Step.LAUNCHED),
    Phase("journal", Step.LAUNCHED, Step.LAUNCH_RECORDED),
    Phase("address", Step.LAUNCH_RECORDED, Step.ADDRESS_KNOWN),
    Phase("tunnel", Step.ADDRESS_RECORDED, Step.TUNNEL_UP),
    Phase("agent", Step.ADDRESS_RECORDED, Step.AGENT_REACHED),
    Phase("start", Step.LAUNCH_INTENDED, Step.RUNNING_RECORDED),
    Phase("instance_removal", Step.STOP_INTENDED, Step.INSTANCE_DELETED),
    Phase("stop", Step.STOP_INTENDED, Step.FORGOTTEN),
)

_LAST = (Step.RUNNING_RECORDED, Step.FORGOTTEN)
"""Nothing that began before these ends after them."""

_STATES = {
    Step.CREATE_INTENDED: State.CREATING,
    Step.CREATE_RECORDED: State.CREATED,
    Step.LAUNCH_INTENDED: State.STARTING,
    Step.RUNNING_RECORDED: State.RUNNING,
    Step.STOP_INTENDED: State.STOPPING,
}
"""The state that a sandbox is in from a step on."""

_PASSING = {
    "throttled": re.compile(r"Throttling|ServiceUnavailable|HTTP (429|503)"),
    "lost": re.compile(
        r"InternalError|no answer|unreadable answer|HTTP 50[024]|.*(Processing|OperationConflict)$"
    ),
}
"""Outcomes after which a request is repeated, by the reason: what the provider takes for passing."""


class Metrics:
    """The registry and what feeds it."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("caa_build", "The version that runs.", registry=registry).info({"version": __version__})
        self._rpcs = Counter(
            "caa_rpcs", "Calls of the shims that have ended.", ("method", "code"), registry=registry
        )
        self._rpc_seconds = Histogram(
            "caa_rpc_seconds",
            "How long the shims' calls took, failed ones too.",
            ("method",),
            buckets=PHASE_BUCKETS,
            registry=registry,
        )
        self._phase_seconds = Histogram(
            "caa_phase_seconds",
            "How long the parts of a sandbox's life took, where they succeeded.",
            ("phase",),
            buckets=PHASE_BUCKETS,
            registry=registry,
        )
        self._calls = Counter(
            "caa_cloud_calls", "Requests to the cloud.", ("action", "outcome"), registry=registry
        )
        self._call_seconds = Histogram(
            "caa_cloud_call_seconds",
            "How long requests to the cloud took.",
            ("action",),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._retries = Counter(
            "caa_cloud_retries",
            "Requests to the cloud that were throttled or lost, and are repeated.",
            ("action", "reason"),
            registry=registry,
        )
        self._outcomes: set[str] = set()
        self._reached: dict[str, dict[Step, float]] = {}
        self._states: dict[str, State] = {}
        registry.register(_Sandboxes(self._states))
        for phase in PHASES:
            self._phase_seconds.labels(phase.name)

    @never_raises
    def on_step(self, sandbox: str, step: Step) -> None:
        now = time.monotonic()
        reached = self._reached.setdefault(sandbox, {})
        reached[step] = now
        for phase in PHASES:
            if phase.end is step and phase.begin in reached:
                self._phase_seconds.labels(phase.name).observe(now - reached[phase.begin])
        if step in _LAST:
            del self._reached[sandbox]
        if step in _STATES:
            self._states[sandbox] = _STATES[step]
        elif step is Step.FORGOTTEN:
            self._states.pop(sandbox, None)

    @never_raises
    def found(self, sandbox: str, state: State) -> None:
        """A sandbox that an earlier daemon left: its steps so far were told to that one."""
        self._states[sandbox] = state

    @never_raises
    def on_call(self, call: CloudCall) -> None:
        self._calls.labels(call.action, self._bounded(call.outcome)).inc()
        self._call_seconds.labels(call.action).observe(call.seconds)
        reason = _why_repeated(call.outcome)
        if reason:
            self._retries.labels(call.action, reason).inc()

    @never_raises
    def on_rpc(self, method: str, code: Code, seconds: float) -> None:
        self._rpcs.labels(method, code.name).inc()
        self._rpc_seconds.labels(method).observe(seconds)

    def watch_credentials(self, left: Callable[[], float | None]) -> None:
        """`left` is asked at each scrape: the seconds that the credentials stay valid; None: for ever."""
        self.registry.register(_Credentials(left))

    def exposition(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self.registry)

    def _bounded(self, outcome: str) -> str:
        if outcome not in self._outcomes and len(self._outcomes) >= MAX_OUTCOMES:
            return OTHER
        self._outcomes.add(outcome)
        return outcome


def _why_repeated(outcome: str) -> str:
    return next((reason for reason, pattern in _PASSING.items() if pattern.match(outcome)), "")


class _Sandboxes:
    """Counts the states when it is scraped. A collector, in the terms of prometheus-client."""

    def __init__(self, states: Mapping[str, State]) -> None:
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts = Counting(self._states.values())
        family = GaugeMetricFamily("caa_sandboxes", "Sandboxes of this node, by state.", labels=("state",))
        for state in State:
            family.add_metric((state,), counts[state])
        yield family


class _Credentials:
    """As above."""

    def __init__(self, left: Callable[[], float | None]) -> None:
        self._left = left

    def collect(self) -> Iterator[GaugeMetricFamily]:
        left = self._left()
        if left is not None:
            yield GaugeMetricFamily(
                "caa_credentials_remaining_seconds", "How long the present credentials stay valid.", left
            )
