"""Work in threads under cancellation."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from structlog.contextvars import bound_contextvars, get_contextvars
from structlog.testing import capture_logs

from caa.tunnel.threads import finish, finish_or_undo


class Work:
    """A function that says when it has begun and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(30)
        self.ended = True
        return "done"


async def begun(work: Work) -> None:
    assert await asyncio.to_thread(work.begun.wait, 30)


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


async def test_result_and_error_come_through() -> None:
    assert await finish(lambda: 5) == 5
    with pytest.raises(KeyError):
        await finish(failing(KeyError("x")))


async def test_log_context_is_the_callers() -> None:
    with bound_contextvars(sandbox="s1"):
        assert await finish(get_contextvars) == {"sandbox": "s1"}


async def test_cancellation_waits_for_the_thread() -> None:
    work = Work()
    task = asyncio.create_task(finish(work))
    await begun(work)
    for _ in range(3):
        task.cancel()
        assert not (await asyncio.wait([task], timeout=0))[0]
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended


async def test_deadline_of_the_caller_stays_a_deadline() -> None:
    work = Work()
    asyncio.get_running_loop().call_later(0.01, work.may_end.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await finish(work)
    assert work.ended


async def test_error_of_cancelled_work_is_not_lost_in_noise() -> None:
    work = Work()

    def fail() -> None:
        work()
        raise OSError("after the cancellation")

    task = asyncio.create_task(finish(fail))
    await begun(work)
    task.cancel()
    assert not (await asyncio.wait([task], timeout=0))[0]
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_failure_is_undone_and_raised() -> None:
    undone: list[str] = []
    with pytest.raises(KeyError):
        await finish_or_undo(failing(KeyError("x")), lambda: undone.append("yes"))
    assert undone == ["yes"]


async def test_success_is_not_undone() -> None:
    undone: list[str] = []
    assert await finish_or_undo(lambda: 7, lambda: undone.append("yes")) == 7
    assert undone == []


async def test_undoing_is_not_cut_off_by_another_cancellation() -> None:
    work, undoing = Work(), Work()
    task = asyncio.create_task(finish_or_undo(work, undoing))
    await begun(work)
    task.cancel()
    work.may_end.set()
    await begun(undoing)
    task.cancel()
    assert not (await asyncio.wait([task], timeout=0))[0]
    undoing.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undoing.ended


async def test_failing_undo_is_logged_and_the_first_error_raised() -> None:
    with capture_logs() as logs, pytest.raises(KeyError):
        await finish_or_undo(failing(KeyError("first")), failing(ValueError("second")))
    assert [entry["event"] for entry in logs] == ["undoing failed"]


async def test_cancellation_while_undoing_a_failure_is_a_cancellation() -> None:
    undoing = Work()
    task = asyncio.create_task(finish_or_undo(failing(KeyError("x")), undoing))
    await begun(undoing)
    task.cancel()
    undoing.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
