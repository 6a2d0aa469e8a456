import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import DeadlineExceededError
from caa.providers.alibabacloud.budget import Answer, Budget
from caa.providers.alibabacloud.errors import ApiError, Kind, rule_for
from caa.providers.alibabacloud.retry import jittered, persist

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def error(code: str, retry_after: float = 0.0, status: int = 400) -> ApiError:
    return ApiError("ecs:RunInstances", rule_for(code, "", status), code, retry_after=retry_after)


class Cloud:
    """Gives the answers that it was told to, and notes when it was asked."""

    def __init__(self, *answers: ApiError | str) -> None:
        self._answers = list(answers)
        self.asked_at: list[float] = []

    async def ask(self) -> tuple[str | None, str]:
        self.asked_at.append(asyncio.get_running_loop().time())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer, ""

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.asked_at, self.asked_at[1:], strict=False)]


def middle() -> float:
    return 0.5


@given(st.floats(0.01, 2), st.floats(2, 30), st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_pauses_grow_to_the_longest_within_their_jitter(
    first: float, longest: float, draws: list[float]
) -> None:
    pauses = jittered(first, longest, iter(draws).__next__)
    full = first
    for draw in draws:
        assert next(pauses) == pytest.approx(full * (1 + draw) / 2)
        full = min(full * 1.5, longest)


def test_lost_requests_are_repeated_with_growing_pauses(in_virtual_time: Run) -> None:
    cloud = Cloud(error("InternalError"), error("HTTP 502", status=502), error("InternalError"), "i-1")
    pauses = jittered(1.0, 8.0, middle)
    assert in_virtual_time(persist(cloud.ask, what="x", timeout=60, pauses=pauses)) == "i-1"
    assert cloud.pauses == pytest.approx([0.75, 1.125, 1.6875])


def test_retry_after_is_heeded_once(in_virtual_time: Run) -> None:
    cloud = Cloud(error("InternalError", retry_after=20), error("InternalError"), "i-1")
    pauses = jittered(1.0, 8.0, middle)
    assert in_virtual_time(persist(cloud.ask, what="x", timeout=60, pauses=pauses)) == "i-1"
    assert cloud.pauses == pytest.approx([20, 1.125])


def test_a_throttled_request_is_repeated_when_the_budget_says(in_virtual_time: Run) -> None:
    answers: list[ApiError | str] = [error("Throttling.User", retry_after=9), error("InternalError"), "i-1"]
    sent_at: list[float] = []

    async def story() -> str:
        budget = Budget()

        async def ask() -> tuple[str | None, str]:
            turn = await budget.turn("ecs:RunInstances", "a", at_once=1)
            sent_at.append(asyncio.get_running_loop().time())
            answer = answers.pop(0)
            if not isinstance(answer, ApiError):
                turn.ended(Answer.PASSED)
                return answer, ""
            throttled = answer.kind is Kind.THROTTLED
            turn.ended(Answer.THROTTLED if throttled else Answer.LOST, answer.retry_after)
            raise answer

        return await persist(ask, what="x", timeout=60, pauses=jittered(4.0, 8.0, middle))

    assert in_virtual_time(story()) == "i-1"
    # What the cloud asked for, and no more; then the pause of a lost request, the first one still.
    assert sent_at == pytest.approx([0, 9, 12])


def test_the_deadline_ends_it_and_tells_what_was_seen(in_virtual_time: Run) -> None:
    cloud = Cloud(error("InternalError"))
    with pytest.raises(DeadlineExceededError, match=r"waiting for RunInstances.*60 s.*InternalError"):
        in_virtual_time(persist(cloud.ask, what="RunInstances", timeout=60, pauses=jittered(1.0, 8.0)))
    assert len(cloud.asked_at) > 7
    assert cloud.asked_at[-1] <= 60


def test_a_wait_longer_than_the_deadline_is_cut_short(in_virtual_time: Run) -> None:
    cloud = Cloud(error("InternalError", retry_after=600), "i-1")
    with pytest.raises(DeadlineExceededError, match="last seen: RunInstances: InternalError"):
        in_virtual_time(persist(cloud.ask, what="x", timeout=5, pauses=jittered(1.0, 8.0)))
    assert len(cloud.asked_at) == 1


@pytest.mark.parametrize("code", ["OperationDenied.NoStock", "Forbidden.RAM", "InvalidInstanceId.NotFound"])
def test_other_failures_are_raised_at_once(code: str, in_virtual_time: Run) -> None:
    cloud = Cloud(error(code), "i-1")
    with pytest.raises(ApiError, match=code):
        in_virtual_time(persist(cloud.ask, what="x", timeout=60, pauses=jittered(1.0, 8.0)))
    assert len(cloud.asked_at) == 1


def test_what_is_waited_for_is_no_failure(in_virtual_time: Run) -> None:
    cloud = Cloud(error("IncorrectInstanceStatus.Initializing"), "done")
    asked = persist(cloud.ask, what="x", timeout=60, pauses=jittered(1.0, 8.0), waiting_for=(Kind.NOT_YET,))
    assert in_virtual_time(asked) == "done"
