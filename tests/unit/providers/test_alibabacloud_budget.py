"""How many calls go out, and whose, against clouds that limit them."""

import asyncio
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from caa.providers.alibabacloud.budget import FIRST_PAUSE, MEMORY, SLOWEST, Answer, Budget, Call, Lane, Turn

Run = Callable[[Coroutine[Any, Any, Any]], Any]
AllowsAt = Callable[[float], bool]


def so_many_in(period: float, most: int) -> AllowsAt:
    """The limit of a cloud that counts calls in periods of that many seconds."""
    counts: Counter[int] = Counter()

    def allows(now: float) -> bool:
        counts[math.floor(now / period)] += 1
        return counts[math.floor(now / period)] <= most

    return allows


def bucket(rate: float, size: float) -> AllowsAt:
    """The limit of a cloud whose budget fills up at that rate."""
    level, filled_at = size, 0.0

    def allows(now: float) -> bool:
        nonlocal level, filled_at
        level, filled_at = min(size, level + (now - filled_at) * rate), now
        if level < 1:
            return False
        level -= 1
        return True

    return allows


@dataclass
class Outcome:
    seconds: float = 0.0
    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By sandbox."""
    done: list[str] = field(default_factory=list)
    """Sandboxes in the order in which their calls got through."""


def drive(
    allows: AllowsAt, sandboxes: list[str], *, latency: float = 0.3, at_once: int = 12, seed: int = 0
) -> Outcome:
    """One call for each sandbox, all from the beginning; who is refused comes back at once."""
    dice = random.Random(seed)
    lane = Lane(at_once, dice.random)
    outcome = Outcome()
    under_way: list[tuple[float, int, Call, bool]] = []
    waiting = [lane.join(sandbox, 0.0) for sandbox in sandboxes]
    now = 0.0
    while len(outcome.done) < len(sandboxes):
        assert now < 36_000, "it never ends"
        while call := lane.next(now):
            assert call.place == min(each.place for each in waiting)
            waiting.remove(call)
            outcome.sent += 1
            arrives = now + latency * (0.7 + 0.6 * dice.random())
            heapq.heappush(under_way, (arrives, outcome.sent, call, allows(now)))
            assert len(under_way) <= at_once
            assert not call.tries or lane.next(now + 1e6) is None, "a closed lane is tried by one"
        at = lane.wakes_at()
        now = min(math.inf if at is None else at, under_way[0][0] if under_way else math.inf)
        while under_way and under_way[0][0] <= now:
            _, _, call, allowed = heapq.heappop(under_way)
            lane.ended(call, Answer.PASSED if allowed else Answer.THROTTLED, now)
            if allowed:
                outcome.done.append(call.sandbox)
            else:
                outcome.refused[call.sandbox] += 1
                waiting.append(lane.join(call.sandbox, now))
    outcome.seconds = now
    return outcome


SANDBOXES = [f"sandbox-{number}" for number in range(200)]


@pytest.mark.parametrize("latency", [0.05, 0.3])
@pytest.mark.parametrize(
    ("limit", "least", "share"),
    [
        (lambda: so_many_in(1, 20), 200 / 20, 0.12),
        (lambda: so_many_in(1, 5), 200 / 5, 0.12),
        (lambda: so_many_in(60, 100), 60, 0.12),
        (lambda: so_many_in(60, 30), 360, 0.3),
        (lambda: bucket(5, 10), 190 / 5, 0.12),
        (lambda: bucket(1, 20), 180, 0.2),
    ],
    ids=["20 a second", "5 a second", "100 a minute", "30 a minute", "bucket of 10", "bucket of 20"],
)
def test_two_hundred_at_once_take_about_as_long_as_the_limit_dictates_with_few_refusals(
    limit: Callable[[], AllowsAt], least: float, share: float, latency: float
) -> None:
    outcome = drive(limit(), SANDBOXES, latency=latency)
    assert sorted(outcome.done) == sorted(SANDBOXES)
    assert outcome.seconds < 1.4 * least + 5
    assert outcome.refused.total() < share * outcome.sent


@settings(max_examples=60)
@given(
    st.one_of(
        st.builds(so_many_in, st.sampled_from([1.0, 10.0, 60.0]), st.integers(1, 100)),
        st.builds(bucket, st.floats(0.1, 50), st.floats(1, 50)),
    ),
    st.integers(1, 100),
    st.floats(0.001, 10),
    st.integers(1, 16),
    st.integers(),
)
def test_whatever_the_limit_all_get_through_in_their_order(
    limit: AllowsAt, count: int, latency: float, at_once: int, seed: int
) -> None:
    outcome = drive(limit, SANDBOXES[:count], latency=latency, at_once=at_once, seed=seed)
    assert sorted(outcome.done) == sorted(SANDBOXES[:count])
    for rank, sandbox in enumerate(outcome.done):
        # Overtaken only by those that were under way beside it.
        assert abs(rank - SANDBOXES.index(sandbox)) < 2 * at_once


def test_all_goes_until_something_is_refused() -> None:
    lane = Lane(1000)
    for _ in range(500):
        lane.join("a", 0.0)
    assert all(lane.next(0.0) for _ in range(500))


def throttled(lane: Lane, *, at: float = 0.0, retry_after: float = 0.0) -> None:
    lane.join("first", at)
    call = lane.next(at)
    assert call
    lane.ended(call, Answer.THROTTLED, at, retry_after)


def paced(*, calls: int = 10) -> Lane:
    """A lane that was refused after some calls, and opened again one second later."""
    lane = Lane(100, draw=lambda: 1.0)
    began = [lane.join("a", 0.0) and lane.next(0.0) for _ in range(calls)]
    for call in began:
        assert call
        lane.ended(call, Answer.PASSED, 0.1)
    throttled(lane, at=0.1)
    lane.join("first", 0.1)
    opening = lane.next(1.1)
    assert opening
    lane.ended(opening, Answer.PASSED, 1.2)
    return lane


def test_the_first_pace_is_what_got_through() -> None:
    assert paced(calls=22).pace.rate == pytest.approx(20)
    assert paced(calls=1).pace.rate == 1


def test_a_new_minute_has_room_for_most_of_what_got_through_in_the_last_one() -> None:
    lane = Lane(100, draw=lambda: 1.0)
    began = [lane.join("a", 0.0) and lane.next(0.0) for _ in range(20)]
    for number, call in enumerate(began):
        assert call
        lane.ended(call, Answer.PASSED if number < 10 else Answer.THROTTLED, 0.1)
    for _ in range(20):
        lane.join("a", 0.1)
    now = 0.1
    while True:
        now = lane.wakes_at() or now
        attempt = lane.next(now)
        assert attempt
        if now > 30:
            break
        lane.ended(attempt, Answer.THROTTLED, now)
        lane.join("a", now)
    lane.ended(attempt, Answer.PASSED, now)
    assert [bool(lane.next(now)) for _ in range(10)] == [True] * 9 + [False]


def test_refusals_of_calls_under_way_count_once() -> None:
    lane = paced()
    calls = []
    now = 1.2
    for _ in range(5):
        lane.join("a", now)
        now = lane.wakes_at() or now
        call = lane.next(now)
        assert call
        calls.append(call)
    rate = lane.pace.rate
    for call in calls:
        lane.ended(call, Answer.THROTTLED, now)
    assert lane.wakes_at() is None
    lane.join("a", now)
    assert lane.wakes_at() == pytest.approx(now + FIRST_PAUSE)
    opening = lane.next(now + FIRST_PAUSE)
    assert opening
    lane.ended(opening, Answer.PASSED, now + FIRST_PAUSE)
    assert rate / 2 <= lane.pace.rate <= rate * 0.8


def test_retry_after_is_heeded_by_all_that_wait_and_by_those_that_come() -> None:
    lane = Lane(8)
    lane.join("waits", 0.0)
    throttled(lane, at=0.0, retry_after=30)
    assert lane.wakes_at() is None or lane.wakes_at() == 30
    lane.join("comes", 1.0)
    assert lane.next(29.9) is None
    assert lane.next(30.0)


def test_the_longest_retry_after_holds() -> None:
    lane = Lane(8)
    calls = [lane.join(name, 0.0) and lane.next(0.0) for name in "ab"]
    for call, seconds in zip(calls, (5.0, 30.0), strict=True):
        assert call
        lane.ended(call, Answer.THROTTLED, 0.0, seconds)
    lane.join("a", 0.0)
    assert lane.wakes_at() == 30


def test_a_try_that_was_lost_is_followed_by_another() -> None:
    lane = Lane(8, draw=lambda: 1.0)
    throttled(lane)
    for answer in (Answer.LOST, Answer.THROTTLED, Answer.PASSED):
        lane.join("a", 0.0)
        at = lane.wakes_at()
        assert at is not None
        call = lane.next(at)
        assert call
        assert call.tries
        assert lane.pace.closed
        lane.ended(call, answer, at)
    assert not lane.pace.closed


def test_pauses_grow_while_the_cloud_refuses() -> None:
    lane = Lane(8, draw=lambda: 1.0)
    now, pauses = 0.0, []
    for _ in range(6):
        throttled(lane, at=now)
        lane.leave(lane.join("x", now))
        waits = lane.join("first", now)
        at = lane.wakes_at()
        assert at is not None
        lane.leave(waits)
        pauses.append(at - now)
        now = at
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_who_was_refused_comes_back_to_its_place() -> None:
    lane = Lane(1, draw=lambda: 1.0)
    first = lane.join("first", 0.0)
    assert lane.next(0.0) is first
    lane.join("second", 0.0)
    lane.ended(first, Answer.THROTTLED, 0.0)
    again = lane.join("first", 0.0)
    assert lane.next(FIRST_PAUSE) is again
    lane.ended(again, Answer.PASSED, FIRST_PAUSE)
    late = lane.join("first", FIRST_PAUSE)
    order = [lane.next(99.0 * step) for step in (1, 2)]
    assert order[0]
    assert order[0].sandbox == "second"
    assert order[1] is None  # one at once
    lane.ended(order[0], Answer.PASSED, 99.0)
    assert lane.next(198.0) is late


def test_the_place_of_who_gave_up_is_not_kept_for_ever() -> None:
    lane = Lane(100)
    for number in range(1000):
        name = f"gone-{number}"
        lane.join(name, number * 1.0)
        call = lane.next(10_000.0 + number) or lane.next(1e6)
        if call:
            lane.ended(call, Answer.THROTTLED, number * 1.0)
    assert len(lane._kept) <= MEMORY + 2


@pytest.mark.parametrize("goes", ["waiting", "its turn has come"])
def test_who_leaves_frees_its_place(goes: str) -> None:
    lane = Lane(1)
    throttled(lane)
    call = lane.join("leaves", 0.0)
    other = lane.join("other", 0.0)
    if goes != "waiting":
        assert lane.next(8.0) is call
        assert lane.next(1e6) is None
    lane.leave(call)
    assert lane.next(8.0) is other


def test_a_pace_is_forgotten_once_nothing_was_refused_and_nobody_waited_for_long() -> None:
    lane = paced()
    lane.join("a", 2.0)
    lane.join("a", 2.0)
    assert lane.next(2.0)
    assert lane.next(2.0) is None
    assert lane.next(100.0)
    lane.join("a", 3.0 + MEMORY)
    assert lane.pace.rate == math.inf


def test_many_refusals_never_stop_it() -> None:
    lane = paced()
    now = 2.0
    for _ in range(50):
        for answer in (Answer.THROTTLED, Answer.PASSED):
            lane.join("a", now)
            now = max(now, lane.wakes_at() or now)
            call = lane.next(now)
            assert call
            lane.ended(call, answer, now)
    assert lane.pace.rate >= SLOWEST


class Caller:
    """Callers of one budget, by the order in which they were let go."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.let_go: list[tuple[float, str]] = []

    async def wait(self, sandbox: str, *, action: str = "ecs:RunInstances", at_once: int = 1) -> Turn:
        turn = await self._budget.turn(action, sandbox, at_once=at_once)
        self.let_go.append((asyncio.get_running_loop().time(), sandbox))
        return turn


async def step() -> None:
    """Let every task that can run come to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_callers_sleep_until_their_turn(in_virtual_time: Run) -> None:
    async def story() -> None:
        callers = Caller(Budget())
        first = await callers.wait("a")
        tasks = [asyncio.create_task(callers.wait(name)) for name in "bc"]
        await step()
        assert [name for _, name in callers.let_go] == ["a"]
        with structlog.testing.capture_logs() as logs:
            first.ended(Answer.THROTTLED, 7.0)
        assert [entry["action"] for entry in logs] == ["ecs:RunInstances"]
        again = await callers.wait("a")
        again.ended(Answer.PASSED)
        (await tasks[0]).ended(Answer.PASSED)
        (await tasks[1]).ended(Answer.PASSED)
        times, names = zip(*callers.let_go, strict=True)
        assert names == ("a", "a", "b", "c")
        assert times == pytest.approx((0, 7, 8, 9), abs=0.1)

    in_virtual_time(story())


def test_actions_do_not_wait_for_each_other(in_virtual_time: Run) -> None:
    async def story() -> None:
        callers = Caller(Budget())
        (await callers.wait("a")).ended(Answer.THROTTLED, 60.0)
        await callers.wait("a", action="ecs:DeleteInstance")
        await callers.wait("", action="vpc:DescribeVSwitches")
        assert [at for at, _ in callers.let_go] == [0, 0, 0]

    in_virtual_time(story())


@pytest.mark.parametrize("moment", ["waiting", "let go"])
def test_a_cancelled_caller_leaves_the_way_to_the_next(in_virtual_time: Run, moment: str) -> None:
    async def story() -> None:
        callers = Caller(Budget())
        first = await callers.wait("a")
        leaves, stays = (asyncio.create_task(callers.wait(name)) for name in "bc")
        await step()
        if moment == "let go":
            first.ended(Answer.PASSED)  # the turn is b's now, who is not told yet
            leaves.cancel()
        else:
            leaves.cancel()
            await step()
            first.unused()
        await stays
        assert leaves.cancelled()
        assert [name for _, name in callers.let_go] == ["a", "c"]

    in_virtual_time(story())


def test_a_deadline_frees_the_place(in_virtual_time: Run) -> None:
    async def story() -> None:
        callers = Caller(Budget())
        (await callers.wait("a")).ended(Answer.THROTTLED, 60.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await callers.wait("b")
        await callers.wait("c")
        assert [(round(at), name) for at, name in callers.let_go] == [(0, "a"), (60, "c")]

    in_virtual_time(story())
