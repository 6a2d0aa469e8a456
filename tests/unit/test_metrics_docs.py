"""docs/metrics.md names every metric, label value and no other."""

import re
from pathlib import Path

from caa.errors import Code
from caa.metrics import MAX_OUTCOMES, PHASES, Metrics
from caa.providers import CloudCall
from caa.sandbox import State

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
MADE_FROM_IT = r"_(bucket|count|sum)$"


def metrics() -> Metrics:
    metrics = Metrics()
    metrics.watch_credentials(lambda: 1.0)
    metrics.on_rpc("StartVM", Code.OK, 1.0)
    call = CloudCall(
        action="RunInstances", outcome="Throttling", request_id="", began_at=0.0, seconds=1.0, sandbox=""
    )
    metrics.on_call(call)
    return metrics


def test_every_metric_is_on_the_page_and_nothing_else() -> None:
    families = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in metrics().registry.collect()
    }
    rows = re.findall(r"^\| `(caa_\w+)` \|", PAGE, re.MULTILINE)
    assert set(rows) == {name for name in families if name.startswith("caa_")}
    assert len(rows) == len(set(rows))
    mentioned = {re.sub(MADE_FROM_IT, "", name) for name in re.findall(r"caa_\w+", PAGE)} - {"caa_"}
    assert mentioned <= families


def test_labels_are_those_of_the_table() -> None:
    for family in metrics().registry.collect():
        row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{family.name}")), "")
        for sample in family.samples if family.name.startswith("caa_") else ():
            assert all(f"`{label}`" in row for label in sample.labels if label != "le"), family.name


def test_values_of_labels_are_explained() -> None:
    for value in (*(phase.name for phase in PHASES), *State):
        assert f"`{value}`" in PAGE
    assert MAX_OUTCOMES == 100, "the page says hundred"


def test_the_queries_ask_for_values_that_there_are() -> None:
    known = {phase.name for phase in PHASES} | set(State) | {code.name for code in Code}
    known |= {"StartVM", "ok", "throttled"}
    for values in re.findall(r'\w+(?:=|!=|=~|!~)"([^"]+)"', PAGE):
        assert set(values.split("|")) <= known
