import asyncio
import threading

import pytest

from caa.checking import Check, Finding, Result, Verdict, failed, in_thread, ok, run_checks, skipped, warning
from caa.errors import FailedPreconditionError


async def test_all_run_side_by_side_and_are_told_in_order() -> None:
    both = asyncio.Barrier(2)

    async def first() -> Finding:
        await both.wait()
        await asyncio.sleep(0)
        return ok("one")

    async def second() -> Finding:
        await both.wait()
        return warning("two", "mend it")

    told: list[Result] = []
    checks = [Check("g", "first", first), Check("g", "second", second)]
    results = await run_checks(checks, timeout=30, on_result=told.append)
    assert [result.finding for result in results] == [ok("one"), warning("two", "mend it")]
    assert sorted(told, key=lambda result: result.what) == results


async def test_one_that_hangs_is_a_failed_one() -> None:
    async def hang() -> Finding:
        await asyncio.get_running_loop().create_future()
        return ok("never")

    async def fine() -> Finding:
        return skipped("not needed")

    hung, other = await run_checks([Check("g", "a", hang), Check("g", "b", fine)], timeout=0.05)
    assert hung.finding == failed("no answer in 0.05 s")
    assert other.finding.verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FailedPreconditionError("no interface"), "no interface"),
        (TimeoutError("of its own"), "of its own"),
        (KeyError("x"), "the check itself broke: KeyError('x')"),
    ],
)
async def test_one_that_raises_is_a_failed_one(error: Exception, told: str) -> None:
    async def broken() -> Finding:
        raise error

    (result,) = await run_checks([Check("g", "a", broken)], timeout=30)
    assert result.finding.verdict is Verdict.FAILED
    assert result.finding.seen == told


async def test_a_thread_that_hangs_holds_nobody_up() -> None:
    released = threading.Event()

    async def hang() -> Finding:
        return await in_thread(lambda: ok(str(released.wait(30))))

    (result,) = await run_checks([Check("g", "a", hang)], timeout=0.05)
    assert result.finding.verdict is Verdict.FAILED
    released.set()


async def test_what_a_thread_gives() -> None:
    assert await in_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)
