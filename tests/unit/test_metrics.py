import itertools
from collections.abc import Sequence

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from caa import metrics as metrics_module
from caa.errors import Code
from caa.metrics import MAX_OUTCOMES, OTHER, PHASES, Metrics
from caa.providers import CloudCall
from caa.providers.alibabacloud.errors import RULES, Kind
from caa.sandbox import State, Step

START = [step for step in Step if Step.LAUNCH_INTENDED <= step <= Step.RUNNING_RECORDED]
STOP = [step for step in Step if step >= Step.STOP_INTENDED]


def call(action: str = "RunInstances", outcome: str = "ok", seconds: float = 0.2) -> CloudCall:
    return CloudCall(
        action=action, outcome=outcome, request_id="", began_at=0.0, seconds=seconds, sandbox="s"
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def a_second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("caa.metrics.time.monotonic", lambda: float(next(seconds)))


def reach(metrics: Metrics, steps: Sequence[Step], sandbox: str = "s") -> None:
    for step in steps:
        metrics.on_step(sandbox, step)


@pytest.mark.usefixtures("a_second_a_step")
def test_each_phase_is_timed_from_its_begin_to_its_end(metrics: Metrics) -> None:
    reach(metrics, [*START, *STOP])
    for phase in PHASES:
        path = START if phase.begin in START else STOP
        assert value(metrics, "caa_phase_seconds_count", phase=phase.name) == 1
        took = value(metrics, "caa_phase_seconds_sum", phase=phase.name)
        assert took == path.index(phase.end) - path.index(phase.begin) > 0


@pytest.mark.usefixtures("a_second_a_step")
def test_side_by_side_sandboxes_are_timed_apart(metrics: Metrics) -> None:
    for step in START:
        metrics.on_step("one", step)
        metrics.on_step("two", step)
    assert value(metrics, "caa_phase_seconds_count", phase="start") == 2
    assert value(metrics, "caa_phase_seconds_sum", phase="start") == 2 * 2 * (len(START) - 1)


def test_a_phase_that_is_cut_off_is_not_counted_nor_joined_to_a_later_life(metrics: Metrics) -> None:
    cut = START.index(Step.ADDRESS_KNOWN)
    reach(metrics, [*START[:cut], *STOP])
    reach(metrics, [Step.RUNNING_RECORDED])  # no begin of this life is known
    assert value(metrics, "caa_phase_seconds_count", phase="launch") == 1
    assert value(metrics, "caa_phase_seconds_count", phase="address") == 0
    assert value(metrics, "caa_phase_seconds_count", phase="start") == 0
    assert value(metrics, "caa_phase_seconds_count", phase="stop") == 1


def test_nothing_is_kept_of_sandboxes_that_are_gone(metrics: Metrics) -> None:
    reach(metrics, START, "runs")
    reach(metrics, [*START, *STOP], "gone")
    assert metrics._reached == {}
    assert set(metrics._states) == {"runs"}


def test_calls_are_counted_and_timed(metrics: Metrics) -> None:
    metrics.on_call(call(seconds=0.3))
    metrics.on_call(call(seconds=0.2))
    metrics.on_call(call(outcome="OperationDenied.NoStock"))
    assert value(metrics, "caa_cloud_calls_total", action="RunInstances", outcome="ok") == 2
    assert (
        value(metrics, "caa_cloud_calls_total", action="RunInstances", outcome="OperationDenied.NoStock") == 1
    )
    assert value(metrics, "caa_cloud_call_seconds_sum", action="RunInstances") == pytest.approx(0.7)
    assert value(metrics, "caa_cloud_retries_total", action="RunInstances", reason="throttled") is None


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("Throttling.User", "throttled"),
        ("HTTP 429", "throttled"),
        ("InternalError", "lost"),
        ("no answer in time", "lost"),
        ("no answer (Connection refused)", "lost"),
        ("HTTP 502", "lost"),
        ("ok", None),
        ("InvalidInstanceId.NotFound", None),
        ("HTTP 404", None),
        ("untrusted certificate (self-signed certificate)", None),
    ],
)
def test_what_is_repeated_is_counted_by_its_reason(
    metrics: Metrics, outcome: str, reason: str | None
) -> None:
    metrics.on_call(call(outcome=outcome))
    for each in ("throttled", "lost"):
        counted = value(metrics, "caa_cloud_retries_total", action="RunInstances", reason=each)
        assert counted == (1 if each == reason else None)


def test_the_reasons_are_those_of_the_provider() -> None:
    expected = {Kind.THROTTLED: "throttled", Kind.LOST: "lost"}
    for rule in RULES:
        for pattern in rule.codes:
            code = pattern.replace("*", "Some")
            assert metrics_module._why_repeated(code) == expected.get(rule.kind, ""), code


def test_codes_that_nobody_foresaw_do_not_make_series_without_end(metrics: Metrics) -> None:
    for number in range(3 * MAX_OUTCOMES):
        metrics.on_call(call(outcome=f"Strange.{number}"))
        metrics.on_call(call(outcome="Strange.0"))
    family = next(each for each in metrics.registry.collect() if each.name == "caa_cloud_calls")
    outcomes = {sample.labels["outcome"] for sample in family.samples}
    assert len(outcomes) == MAX_OUTCOMES + 1
    assert value(metrics, "caa_cloud_calls_total", action="RunInstances", outcome=OTHER) == 2 * MAX_OUTCOMES
    assert (
        value(metrics, "caa_cloud_calls_total", action="RunInstances", outcome="Strange.0")
        == 3 * MAX_OUTCOMES + 1
    )


def test_rpcs_are_counted_by_method_and_code(metrics: Metrics) -> None:
    metrics.on_rpc("StartVM", Code.OK, 12.0)
    metrics.on_rpc("StartVM", Code.RESOURCE_EXHAUSTED, 3.0)
    assert value(metrics, "caa_rpcs_total", method="StartVM", code="OK") == 1
    assert value(metrics, "caa_rpcs_total", method="StartVM", code="RESOURCE_EXHAUSTED") == 1
    assert value(metrics, "caa_rpc_seconds_sum", method="StartVM") == 15


def sandboxes(metrics: Metrics) -> dict[str, float | None]:
    counts = {state.value: value(metrics, "caa_sandboxes", state=state) for state in State}
    return {state: count for state, count in counts.items() if count != 0}


def test_a_sandbox_is_in_the_state_that_its_steps_lead_to(metrics: Metrics) -> None:
    seen = []
    for step in Step:
        metrics.on_step("s", step)
        seen.append(next(iter(sandboxes(metrics)), ""))
    assert list(dict.fromkeys(seen)) == [*State, ""]


def test_sandboxes_are_counted_by_state(metrics: Metrics) -> None:
    metrics.found("earlier", State.RUNNING)
    metrics.found("half made", State.STARTING)
    reach(metrics, [Step.CREATE_INTENDED, Step.CREATE_RECORDED, *START], "new")
    reach(metrics, [Step.CREATE_INTENDED, Step.CREATE_RECORDED], "waits")
    assert sandboxes(metrics) == {"running": 2, "starting": 1, "created": 1}
    reach(metrics, STOP, "half made")
    reach(metrics, [Step.STOP_INTENDED], "earlier")
    assert sandboxes(metrics) == {"running": 1, "created": 1, "stopping": 1}


def test_credentials_are_asked_at_each_scrape(metrics: Metrics) -> None:
    left: list[float | None] = [90.0]
    metrics.watch_credentials(lambda: left[0])
    assert value(metrics, "caa_credentials_remaining_seconds") == 90
    left[0] = 0.0
    assert value(metrics, "caa_credentials_remaining_seconds") == 0
    left[0] = None
    assert value(metrics, "caa_credentials_remaining_seconds") is None


def test_an_observer_never_raises(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("_phase_seconds", "_calls", "_rpcs", "_reached"):
        monkeypatch.setattr(metrics, broken, None)
    with structlog.testing.capture_logs() as logs:
        metrics.on_step("s", Step.LAUNCHED)
        metrics.on_call(call())
        metrics.on_rpc("StartVM", Code.OK, 1.0)
    assert [log["observer"] for log in logs] == ["Metrics.on_step", "Metrics.on_call", "Metrics.on_rpc"]


def test_two_in_one_process_do_not_add_up(metrics: Metrics) -> None:
    metrics.on_rpc("StartVM", Code.OK, 1.0)
    assert value(Metrics(), "caa_rpcs_total", method="StartVM", code="OK") is None


def test_the_text_can_be_read_and_has_the_process_in_it(metrics: Metrics) -> None:
    metrics.on_rpc("StartVM", Code.OK, 1.0)
    text = metrics.exposition().decode()
    assert "_created" not in text
    families = {each.name for each in text_string_to_metric_families(text)}
    assert {"caa_build_info", "process_resident_memory_bytes", "process_open_fds"} <= families
