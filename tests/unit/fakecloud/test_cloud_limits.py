from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.fakecloud.errors import ApiError
from caa.fakecloud.limits import OTHERS, REAL, Limit, Limiter, parse_limits


class Hands:
    """A clock that is set by hand."""

    time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None: ...


def _admitted(limiter: Limiter, action: str, calls: int) -> int:
    admitted = 0
    for _ in range(calls):
        with suppress(ApiError):
            limiter.admit(action)
            admitted += 1
    return admitted


def test_how_a_refusal_looks(clock: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        Limiter({"A": Limit(0)}, clock).admit("A")
    assert (refusal.value.status, refusal.value.code) == (400, "Throttling.User")
    assert refusal.value.headers == {}


def test_none_by_default(clock: Any) -> None:
    assert _admitted(Limiter({}, clock), "A", 1000) == 1000


def test_a_window_and_the_next(clock: Any) -> None:
    clock.time = 60_000.0
    limiter = Limiter({"A": Limit(3)}, clock)
    assert _admitted(limiter, "A", 5) == 3
    clock.time += 59.9
    assert _admitted(limiter, "A", 1) == 0
    clock.time += 0.1
    assert _admitted(limiter, "A", 5) == 3


def test_windows_begin_by_the_clock_and_not_with_the_first_call(clock: Any) -> None:
    clock.time = 60_055.0
    limiter = Limiter({"A": Limit(3)}, clock)
    assert _admitted(limiter, "A", 5) == 3
    clock.time += 5
    assert _admitted(limiter, "A", 5) == 3


def test_actions_are_counted_alone(clock: Any) -> None:
    limiter = Limiter({"A": Limit(1), OTHERS: Limit(2)}, clock)
    assert [_admitted(limiter, action, 5) for action in ("A", "B", "C", "A")] == [1, 2, 2, 0]


def test_a_window_may_be_shorter(clock: Any) -> None:
    limiter = Limiter({"A": Limit(1, seconds=1)}, clock)
    admitted = 0
    for _ in range(10):
        admitted += _admitted(limiter, "A", 2)
        clock.time += 0.5
    assert admitted == 5


@given(st.lists(st.floats(0, 50), max_size=40), st.integers(0, 3), st.integers(1, 20))
def test_a_call_is_refused_if_and_only_if_its_window_is_full(
    pauses: list[float], calls: int, seconds: int
) -> None:
    clock = Hands()
    limiter = Limiter({"A": Limit(calls, seconds)}, clock)
    admitted: Counter[int] = Counter()
    for pause in pauses:
        clock.time += pause
        window = int(clock.time // seconds)
        got = _admitted(limiter, "A", 1)
        assert got == (admitted[window] < calls)
        admitted[window] += got


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ([], {}),
        (["none"], {}),
        (["A=10/60s"], {"A": Limit(10)}),
        (["A=10/60s", "*=5/1s", "A=0/60s"], {"A": Limit(0), "*": Limit(5, 1)}),
        (["real"], REAL),
        (["A=1/1s", "real", "RunInstances=7/60s"], {**REAL, "A": Limit(1, 1), "RunInstances": Limit(7)}),
        (["real", "none", "A=1/1s"], {"A": Limit(1, 1)}),
    ],
)
def test_options(options: list[str], limits: dict[str, Limit]) -> None:
    assert parse_limits(options) == limits


@pytest.mark.parametrize("option", ["", "A", "A=", "A=x/60s", "A=10", "A=10/60", "A=10/0s", "=1/60s", "Real"])
def test_what_is_no_option(option: str) -> None:
    with pytest.raises(ValueError, match="allowed: none, real"):
        parse_limits([option])
