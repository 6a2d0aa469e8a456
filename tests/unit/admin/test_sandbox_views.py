from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caa.admin import SandboxView, find
from caa.errors import InvalidArgumentError, NotFoundError
from caa.sandbox import Event, State

if TYPE_CHECKING:
    from tests.unit.admin.conftest import Making

PODS = Path("/run/peerpod/pods")


def test_a_view_tells_all_but_the_holding(make: "Making") -> None:
    view = SandboxView.of(make.life(events=(Event(1_790_000_000.25, "note", "hello", {"a": "b"}),)), PODS)
    told = view.model_dump(mode="json")
    assert told == {
        "id": "41083419a7b2",
        "namespace": "default",
        "pod": "web",
        "state": "running",
        "began": "2026-09-21T14:13:20Z",
        "since": "2026-09-21T14:13:21.500000Z",
        "ended": None,
        "name": "podvm-web-41083419",
        "instance": "i-2zetp8uu8xkcat5p8t2o",
        "addresses": ["10.0.0.12"],
        "vni": 555000,
        "netns": "/run/netns/web",
        "folder": "/run/peerpod/pods/41083419a7b2",
        "error": "",
        "events": [
            {"at": "2026-09-21T14:13:20.250000Z", "kind": "note", "text": "hello", "details": {"a": "b"}}
        ],
        "left_out": 0,
    }
    assert SandboxView.model_validate_json(view.model_dump_json()) == view


def test_what_a_newer_daemon_tells_more_is_no_error(make: "Making") -> None:
    told = SandboxView.of(make.life(), PODS).model_dump() | {"mood": "good"}
    assert SandboxView.model_validate(told).pod == "web"


def test_one_that_has_ended(make: "Making") -> None:
    view = SandboxView.of(make.life(state=State.STOPPING, ended=1_790_000_100.0), PODS)
    assert view.state == "ended"
    assert view.since == view.ended is not None


def test_finding_what_an_operator_means(make: "Making") -> None:
    known = [
        SandboxView.of(make.life("abc1"), PODS),
        SandboxView.of(make.life("abc2", pod_name="db"), PODS),
        SandboxView.of(make.life("abc", pod_name="cache"), PODS),
        SandboxView.of(make.life("abc2", pod_name="db", ended=1.0), PODS),
        SandboxView.of(make.life("fff1", pod_name="db", ended=1.0), PODS),
    ]
    assert find("abc1", known) is known[0]
    assert find("abc", known) is known[2], "an id goes before a beginning"
    assert find("abc2", known) is known[1]
    assert find("f", known) is known[4]
    assert find("default/db", known) is known[1], "the one that lives comes first"
    with pytest.raises(InvalidArgumentError, match=r"'ab' may be one of .*abc1 \(default/web\), abc2 "):
        find("ab", known)
    for nothing in ("", "x", "db", "other/db", "abc12"):
        with pytest.raises(NotFoundError, match="caa ps --all"):
            find(nothing, known)
