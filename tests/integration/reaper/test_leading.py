"""Of several reapers one acts; and what they do while the API server is away."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from apiserver import Fault

World = Any
Until = Callable[[Callable[[], object], str], Awaitable[None]]
Rounds = Callable[[int], Awaitable[None]]

NAMESPACE = "confidential-containers-system"


async def test_only_one_acts_and_the_second_takes_over(world: World, until: Until) -> None:
    world.reap()
    await until(lambda: world.leader, "a leader")
    first = world.leader
    world.reap()
    await until(lambda: world.api.count("get", "leases") >= 4, "the second to look on")
    assert world.api.count("list", "peerpods") == 1
    assert world.leader == first

    # The first is cut off: it can neither renew nor say goodbye, as if it had been killed.
    world.api.tokens.expire(world.accounts[0].token)
    await until(lambda: world.leader not in ("", first), "the second to lead")
    pod, _ = await world.pod("lost")
    world.api.remove_pod(pod)
    await until(lambda: not world.claims, "the second to act")
    assert world.asked_to_delete == ["ok"]
    lease = world.api.object("Lease", "caa-reaper", NAMESPACE)["spec"]
    assert lease["leaseTransitions"] >= 1
    assert datetime.fromisoformat(lease["renewTime"]) >= datetime.fromisoformat(lease["acquireTime"])


async def test_at_the_end_the_lease_is_given_back(world: World, until: Until) -> None:
    first = world.reap()
    await until(lambda: world.leader, "a leader")
    name = world.leader
    await world.end(first)
    assert world.leader == ""
    world.reap()
    await until(lambda: world.leader, "the next leader, at once")
    assert world.leader != name


async def test_while_the_api_server_is_away_nothing_is_done_and_then_all(world: World, until: Until) -> None:
    _, kept = await world.pod("kept")
    pod, _ = await world.pod("lost")
    world.reap(grace="500ms")
    await until(lambda: world.api.watching, "the watch")
    world.api.faults.add(Fault(status=503, times=None))
    world.api.close_watches()
    world.api.remove_pod(pod)

    asked = len(world.cloud.calls.of("DescribeInstanceAttribute"))
    tries = world.api.count("get", "leases")
    await until(lambda: world.api.count("get", "leases") > tries + 15, "leadership to end")
    assert len(world.cloud.calls.of("DescribeInstanceAttribute")) == asked
    assert world.claims == {"kept": True, "lost": True}
    assert not world.reapers[0].done()

    world.api.faults.clear()
    await until(lambda: world.instances == {kept}, "the lost one's VM to go")
    assert world.claims["kept"]


async def test_a_watch_that_ends_goes_on_and_one_that_fell_behind_begins_anew(
    world: World, until: Until
) -> None:
    world.reap()
    await until(lambda: world.api.watching, "the watch")
    world.api.close_watches()
    await until(lambda: world.api.count("watch", "peerpods") >= 2, "the watch again")
    assert world.api.count("list", "peerpods") == 1

    world.api.expire_versions(of_open_watches=True)
    await until(lambda: world.api.count("list", "peerpods") >= 2, "a new list")
    await until(lambda: world.api.watching, "the watch")
    pod, _ = await world.pod("lost")
    world.api.remove_pod(pod)
    await until(lambda: not world.claims and not world.instances, "what came since to be seen")


async def test_without_a_right_it_waits_for_it(world: World, until: Until, rounds: Rounds) -> None:
    pod, instance = await world.pod("lost")
    world.api.remove_pod(pod)
    world.api.faults.add(Fault(verb="get", resource="pods", status=403, times=None))
    world.reap(grace="10ms")
    await rounds(3)
    assert world.instances == {instance}
    world.api.faults.clear()
    await until(lambda: not world.claims, "the object to go")


async def test_a_lease_that_may_not_be_written_makes_no_leader(world: World, until: Until) -> None:
    world.api.faults.add(Fault(verb="create", resource="leases", status=403, times=None))
    world.reap()
    await until(lambda: world.api.count("create", "leases") >= 2, "two tries")
    assert world.api.count("list", "peerpods") == 0
    world.api.faults.clear()
    await until(lambda: world.api.count("list", "peerpods"), "it to lead")


async def test_of_two_that_come_at_once_one_is_refused(world: World, until: Until) -> None:
    world.reap()
    world.reap()
    await until(lambda: world.api.watching, "one to lead")
    await until(lambda: world.api.count("get", "leases") >= 6, "both to look")
    assert world.api.count("list", "peerpods") == 1
