"""Rules and dashboard ask for metrics that there are, in valid PromQL, where Prometheus can reach them."""

import json
import re
from collections.abc import Callable
from itertools import combinations

import promql_parser
import pytest
from manifests import ADDRESS, Manifest, Manifests

from caa.config import load_reaper
from caa.errors import Code
from caa.metrics import PHASES, Metrics
from caa.providers import CloudCall
from caa.reaper.metrics import ReaperMetrics
from caa.sandbox import State

Build = Callable[[str], Manifests]

ELSEWHERE: dict[str, set[str]] = {
    "up": set(),
    "kube_daemonset_status_number_unavailable": {"namespace", "daemonset"},
}
"""Prometheus's own, and kube-state-metrics'."""
ADDED = {"job", "instance", "node"}
"""Labels that scraping adds."""
VALUES: dict[str, set[str]] = {
    "state": set(State),
    "code": {code.name for code in Code},
    "method": {"CreateVM", "StartVM", "StopVM"},
    "phase": {phase.name for phase in PHASES},
    "reason": {"throttled", "lost"},
    "outcome": {"ok"},
    "job": {"cloud-api-adaptor"},
}


def exposed() -> dict[str, set[str]]:
    """Each metric's labels, of one of which everything has happened once."""
    metrics = Metrics()
    ReaperMetrics(metrics.registry)
    metrics.watch_credentials(lambda: 1.0)
    metrics.on_rpc("StartVM", Code.OK, 1.0)
    metrics.on_call(
        CloudCall(
            action="RunInstances",
            outcome="Throttling",
            request_id="",
            began_at=0.0,
            seconds=1.0,
            sandbox="",
        )
    )
    return {
        sample.name: set(sample.labels) for family in metrics.registry.collect() for sample in family.samples
    } | ELSEWHERE


@pytest.fixture
def monitored(build: Build) -> Manifests:
    return build("everything")


def dashboard(monitored: Manifests) -> Manifest:
    data = monitored.one("ConfigMap", "cloud-api-adaptor-dashboard")["data"]
    parsed: Manifest = json.loads(data["cloud-api-adaptor.json"])
    return parsed


def rules(monitored: Manifests) -> list[Manifest]:
    groups = monitored.one("PrometheusRule", "cloud-api-adaptor")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def check(expression: str) -> None:
    known = exposed()
    asked = selectors(expression)
    assert asked
    for selector in asked:
        assert selector.name in known, expression
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name] | ADDED, expression
            if matcher.name in VALUES:
                assert set(matcher.value.split("|")) <= VALUES[matcher.name], expression


def test_the_checks_find_what_is_wrong() -> None:
    for wrong in ('caa_rpcs{code="OK"}', 'caa_rpcs_total{action="x"}', 'caa_rpcs_total{code="FINE"}'):
        with pytest.raises(AssertionError):
            check(wrong)
    with pytest.raises(ValueError, match="unclosed"):
        check("sum(")


def test_alerts_ask_for_what_there_is(monitored: Manifests) -> None:
    for rule in rules(monitored):
        check(rule["expr"])


def test_alerts_tell_what_they_know(monitored: Manifests) -> None:
    names = [rule["alert"] for rule in rules(monitored)]
    assert len(names) == len(set(names))
    for rule in rules(monitored):
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        kept = re.findall(r"\b(?:by|on) \(([\w, ]+)\)", rule["expr"].split("unless")[0])
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in ADDED or any(label in labels for labels in kept)
            assert not kept or any(label in labels for labels in kept), f"{label} is summed away"


def test_every_alert_has_a_reason_to_be(monitored: Manifests) -> None:
    asked = {selector.name for rule in rules(monitored) for selector in selectors(rule["expr"])}
    assert {
        "up",
        "caa_sandboxes",
        "caa_rpcs_total",
        "caa_credentials_remaining_seconds",
        "caa_cloud_retries_total",
    } <= asked


def test_the_dashboard_asks_for_what_there_is(monitored: Manifests) -> None:
    shown = dashboard(monitored)
    variables = {variable["name"] for variable in shown["templating"]["list"]}
    for panel in shown["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            assert set(re.findall(r"\$(\w+)", expression)) <= variables
            check(expression.replace("$node", ".*"))
    assert variables == {"datasource", "node"}


def test_the_panels_fit_beside_each_other(monitored: Manifests) -> None:
    panels = dashboard(monitored)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for at in (panel["gridPos"] for panel in panels)
    ]
    assert all(x < 24 for each in cells for x, _ in each)
    assert not any(one & other for one, other in combinations(cells, 2))


def test_prometheus_finds_and_reaches_each_program(monitored: Manifests) -> None:
    monitor = monitored.one("PodMonitor", "cloud-api-adaptor")["spec"]
    (selected,) = monitor["selector"]["matchExpressions"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == {"node"}
    found = []
    for each in monitored:
        if each["kind"] in ("DaemonSet", "Deployment"):
            labels = each["spec"]["template"]["metadata"]["labels"]
            assert labels[selected["key"]] in selected["values"]
            found.append(labels[monitor["jobLabel"]])
    assert sorted(found) == sorted(selected["values"])
    assert VALUES["job"] == {"cloud-api-adaptor"} <= set(found)
    for _, container in monitored.workloads():
        (port,) = (port for port in container["ports"] if port["name"] == endpoint["port"])
        parsed = load_reaper({}, monitored.environment(container))
        assert (parsed.probe_port, ADDRESS in parsed.probe_addresses) == (port["containerPort"], True)
