"""What people see: within 80 columns, without colours where nobody watches, and whatever a name contains."""

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from caa.admin import Collection, Leftover, SandboxView, tables
from caa.sandbox import Event, State

if TYPE_CHECKING:
    from tests.unit.admin.conftest import Making

PODS = Path("/run/peerpod/pods")
BEGAN = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)
NOW = BEGAN + timedelta(minutes=3, seconds=5)


def shown(show: Any, what: Any) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=80, highlight=False, markup=False, emoji=False), what, NOW)
    told = stream.getvalue()
    assert "\x1b" not in told
    assert max(map(len, told.splitlines()), default=0) <= 80
    return told


def test_a_list(make: "Making") -> None:
    no_stock = "RunInstances: OperationDenied.NoStock for ecs.g8i.xlarge in cn-beijing-i (request 8F3A): " * 2
    lives = [
        make.life("41083419" + "a" * 56),
        make.life(
            "9a12bb07" + "b" * 56, pod_name="metrics-agent-7d9f8b6c5-x2x9q", pod_namespace="kube-system"
        ),
        make.life(
            "c" * 64,
            state=State.STOPPING,
            instance_id="",
            addresses=(),
            ended=1_790_000_180.0,
            wrong=no_stock,
        ),
    ]
    told = shown(tables.show_list, [SandboxView.of(life, PODS) for life in lives])
    lines = told.splitlines()
    assert lines[0].split() == ["POD", "SANDBOX", "STATE", "AGE", "INSTANCE"]
    assert lines[2].split() == ["default/web", "41083419", "running", "3m", "i-2zetp8uu8xkcat5p8t2o"]
    assert lines[3].split() == ["10.0.0.12", "555000"]
    assert "metrics-agent" in told
    assert "ended" in told
    assert lines[-1].startswith("cccccccc: RunInstances: OperationDenied.NoStock")
    assert lines[-1].endswith("…")


def test_ids_are_shown_as_long_as_it_takes(make: "Making") -> None:
    lives = [make.life("1234567890aa"), make.life("1234567890ab"), make.life("short")]
    told = shown(tables.show_list, [SandboxView.of(life, PODS) for life in lives])
    assert "1234567890aa" in told
    assert "1234567890ab" in told


def test_one_with_its_timeline(make: "Making") -> None:
    start = BEGAN.timestamp()
    request_id = "473469C7-AA6F-4DC5-B3DB-A3DC0DE3C83E"
    call = {"outcome": "ok", "seconds": "0.405", "request id": request_id}
    events = (
        Event(start, "step", "create intended"),
        Event(start + 0.405, "call", "RunInstances", call),
        Event(start + 0.412, "step", "launched"),
        Event(start + 0.5, "call", "DescribeInstanceAttribute", call | {"outcome": "Forbidden.RAM"}),
        Event(start + 0.6, "error", "no [bold]markup[/bold] in here", {"what": "tunnel"}),
        Event(start + 75, "note", "later"),
    )
    life = make.life("4" * 64, events=events, error="it was " + "long " * 60)
    told = shown(tables.show_sandbox, SandboxView.of(life, PODS))
    assert "running for 3m, since 2026-09-21 14:13:21 UTC" in told
    assert "4" * 64 in told
    assert told.count("long") == 60, "the last error is shown whole"
    assert re.search(rf"\+0\.405 s +RunInstances: ok, 0\.405 s, {request_id}", told)
    assert "launched (instance i-2zetp8uu8xkcat5p8t2o)" in " ".join(told.split())
    assert "no [bold]markup[/bold] in here (what tunnel)" in " ".join(told.split())
    assert "+1m15s" not in told
    assert "+75.000 s" in told


def test_what_was_left_out_is_said(make: "Making") -> None:
    events = tuple(Event(BEGAN.timestamp() + number, "note", f"n{number}") for number in range(60))
    told = shown(tables.show_sandbox, SandboxView.of(make.life(events=events, left_out=131), PODS))
    lines = told.splitlines()
    place = next(number for number, line in enumerate(lines) if "(131 more)" in line)
    assert "n49" in lines[place - 1]
    assert "n50" in lines[place + 1]


def test_one_of_an_earlier_version(make: "Making") -> None:
    life = make.life(began=None, since=None, network={})
    assert "under an earlier version" in shown(tables.show_sandbox, SandboxView.of(life, PODS))
    assert "default/web" in shown(tables.show_list, [SandboxView.of(life, PODS)])


def test_leftovers() -> None:
    leftovers = (
        Leftover(kind="sandbox", id="4" * 64, of="default/web", since=BEGAN, fate="removed", why="cut short"),
        Leftover(
            kind="instance", id="i-1", of="", since=None, fate="failed", why="DeleteInstance: " + "y " * 90
        ),
    )
    told = shown(tables.show_collection, Collection(leftovers=leftovers))
    assert told.splitlines()[1].split() == [
        "sandbox",
        "444444444444",
        "3m",
        "removed",
        "default/web:",
        "cut",
        "short",
    ]
    assert told.count("y") == 90


nasty = st.text(max_size=300)


@given(pod=nasty, error=nasty, instance=nasty, text=nasty, details=st.dictionaries(nasty, nasty, max_size=3))
def test_whatever_a_name_contains(
    pod: str, error: str, instance: str, text: str, details: dict[str, str]
) -> None:
    view = SandboxView(
        id="s1",
        namespace="n",
        pod=pod,
        state="running",
        began=BEGAN,
        since=BEGAN,
        ended=None,
        name=pod,
        instance=instance,
        addresses=(),
        vni=None,
        netns=pod,
        folder="/",
        error=error,
    )
    event = {"at": BEGAN, "kind": "call", "text": text, "details": details}
    told = SandboxView.model_validate(view.model_dump() | {"events": [event]})
    stream = io.StringIO()
    out = Console(file=stream, width=80, highlight=False, markup=False, emoji=False)
    tables.show_list(out, [told], NOW)
    tables.show_sandbox(out, told, NOW)
    assert all(letter.isprintable() or letter == "\n" for letter in stream.getvalue())


@pytest.mark.parametrize(
    ("seconds", "age", "offset"),
    [
        (-1.0, "0s", "-1.000 s"),
        (0.0, "0s", "+0.000 s"),
        (0.4126, "0s", "+0.413 s"),
        (59.9, "59s", "+59.900 s"),
        (185.0, "3m", "+3m05s"),
        (7500.0, "2h", "+2h05m"),
        (3 * 86400 + 4 * 3600.0, "3d", "+3d04h"),
    ],
)
def test_spans(seconds: float, age: str, offset: str) -> None:
    assert tables.age(timedelta(seconds=seconds)) == age
    assert tables.offset(timedelta(seconds=seconds)) == offset
