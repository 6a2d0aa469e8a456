"""What is left over, and what is not: nothing that a pod may use is ever given up."""

from typing import TYPE_CHECKING

import pytest

from caa.admin.gc import Verdict, judge_sandbox, judge_stray
from caa.providers import Stray
from caa.sandbox import State

if TYPE_CHECKING:
    from tests.unit.admin.conftest import Making

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z
LONG_AGO = "2026-09-21T13:00Z"


@pytest.mark.parametrize(
    ("state", "alone", "netns", "removed"),
    [
        (State.CREATING, False, True, None),
        (State.CREATING, True, True, True),
        (State.CREATED, False, True, None),
        (State.CREATED, True, True, None),
        (State.CREATED, False, False, True),
        (State.CREATED, True, False, True),
        (State.STARTING, False, False, None),
        (State.STARTING, True, True, True),
        (State.RUNNING, False, True, None),
        (State.RUNNING, True, True, None),
        (State.RUNNING, False, False, False),
        (State.RUNNING, True, False, False),
        (State.STOPPING, False, True, False),
        (State.STOPPING, True, True, True),
    ],
)
def test_sandboxes(make: "Making", state: State, alone: bool, netns: bool, removed: bool | None) -> None:
    verdict = judge_sandbox(make.life(state=state), alone=alone, netns_exists=lambda _: netns)
    assert (verdict and verdict.remove) == removed


def judged(created_at: str = LONG_AGO, sandbox: str = "gone", stray_id: str = "i-1") -> Verdict | None:
    stray = Stray(kind="instance", id=stray_id, name="podvm-web", sandbox=sandbox, created_at=created_at)
    return judge_stray(stray, {"alive", "i-alive"}, NOW)


def test_a_stray_is_removed() -> None:
    verdict = judged()
    assert verdict is not None
    assert verdict.remove


def test_what_belongs_to_a_sandbox_is_no_stray() -> None:
    assert judged(sandbox="alive") is None
    assert judged(stray_id="i-alive") is None


@pytest.mark.parametrize("created_at", ["2026-09-21T14:12Z", "2026-09-21T14:09:00Z", "2026-09-22T00:00Z"])
def test_what_is_young_is_left(created_at: str) -> None:
    verdict = judged(created_at)
    assert verdict is not None
    assert not verdict.remove
    assert "5 minutes" in verdict.why


@pytest.mark.parametrize("created_at", ["", "yesterday", "1790000000"])
def test_what_has_no_age_is_left(created_at: str) -> None:
    verdict = judged(created_at)
    assert verdict is not None
    assert not verdict.remove
    assert "when it was made" in verdict.why


def test_a_time_without_a_zone_is_utc() -> None:
    verdict = judged("2026-09-21T14:00:00")
    assert verdict is not None
    assert verdict.remove
