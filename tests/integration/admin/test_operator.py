"""What an operator's requests do, with a real journal and a cloud that only has strays."""

from typing import TYPE_CHECKING

import pytest

from caa.errors import NotFoundError, PermissionDeniedError, UnavailableError
from caa.sandbox import State

if TYPE_CHECKING:
    from tests.integration.admin.conftest import Place


async def test_listing(place: "Place") -> None:
    operator = place.operator(alone=False)
    await place.put("b", 1)
    await place.put("a", 0)
    await place.put("gone", 2)
    await place.journal.forget("gone")
    assert [each.id for each in await operator.sandboxes(past=False)] == ["a", "b"]
    assert [each.id for each in await operator.sandboxes(past=True)] == ["a", "b", "gone"]
    assert (await operator.sandbox("gone")).state == "ended"


async def test_removing(place: "Place") -> None:
    operator = place.operator(alone=False)
    await place.put("a", 0)
    await place.put("b", 1)
    place.will_not_stop.add("b")
    assert (await operator.remove("a")).ended is not None
    assert (await operator.remove("a")).ended is not None, "gone already"
    left = await operator.remove("b")
    assert left.ended is None
    assert left.error == "DeleteInstance: Forbidden.RAM"
    with pytest.raises(NotFoundError, match="no sandbox c"):
        await operator.remove("c")


async def test_what_is_left_over_is_removed(place: "Place") -> None:
    await place.put("running", 0)
    await place.put("half-made", 1, State.STARTING, instance_id="")
    await place.put("half-gone", 2, State.STOPPING)
    place.cloud.add("i-of-running", sandbox="running")
    place.cloud.add("i-running", sandbox="")
    place.cloud.add("i-orphan", sandbox="long-gone")
    place.cloud.add("i-stuck", sandbox="long-gone")
    place.cloud.add("i-young", sandbox="new", created_at="2999-01-01T00:00Z")
    place.cloud.refused["i-stuck"] = UnavailableError("DeleteInstance: not now")
    operator = place.operator(alone=True)

    dry = await operator.collect(dry_run=True)
    assert {each.id: each.fate for each in dry.leftovers} == {
        "half-made": "to be removed",
        "half-gone": "to be removed",
        "i-orphan": "to be removed",
        "i-stuck": "to be removed",
        "i-young": "left",
    }
    assert place.cloud.released == []
    assert len(place.journal.read()) == 3

    done = await operator.collect(dry_run=False)
    assert {each.id: each.fate for each in done.leftovers} == {
        "half-made": "removed",
        "half-gone": "removed",
        "i-orphan": "removed",
        "i-stuck": "failed",
        "i-young": "left",
    }
    assert place.cloud.released == ["i-orphan"]
    assert [sandbox.id for sandbox in place.journal.read()] == ["running"]


async def test_a_sandbox_that_does_not_go(place: "Place") -> None:
    await place.put("a", 0, State.STOPPING)
    place.will_not_stop.add("a")
    [leftover] = (await place.operator(alone=True).collect(dry_run=False)).leftovers
    assert (leftover.fate, leftover.why) == ("failed", "DeleteInstance: Forbidden.RAM")


async def test_beside_a_daemon_its_work_is_left_to_it(place: "Place") -> None:
    await place.put("half-made", 0, State.STARTING)
    await place.put("half-gone", 1, State.STOPPING)
    [leftover] = (await place.operator(alone=False).collect(dry_run=False)).leftovers
    assert (leftover.id, leftover.fate) == ("half-gone", "left")
    assert len(place.journal.read()) == 2


@pytest.mark.parametrize(
    ("refusal", "denied"),
    [(PermissionDeniedError("grant ecs:DescribeInstances"), True), (UnavailableError("no route"), False)],
)
async def test_without_a_look_at_the_cloud_the_journal_counts(
    place: "Place", refusal: PermissionDeniedError | UnavailableError, denied: bool
) -> None:
    await place.put("a", 0, State.STOPPING)
    place.cloud.refusal = refusal
    done = await place.operator(alone=True).collect(dry_run=False)
    assert [each.fate for each in done.leftovers] == ["removed"]
    assert (done.unseen, done.denied) == (str(refusal), denied)
