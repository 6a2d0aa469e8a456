"""Checks of preconditions: what one is, what it finds, and running many side by side."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import structlog

from caa.errors import CaaError

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, but something is lost or will bite."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not needed, or can't be told."""


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    seen: str
    remedy: str = ""


def ok(seen: str) -> Finding:
    return Finding(Verdict.OK, seen)


def warning(seen: str, remedy: str = "") -> Finding:
    return Finding(Verdict.WARNING, seen, remedy)


def failed(seen: str, remedy: str = "") -> Finding:
    return Finding(Verdict.FAILED, seen, remedy)


def skipped(seen: str, remedy: str = "") -> Finding:
    return Finding(Verdict.SKIPPED, seen, remedy)


@dataclass(frozen=True)
class Check:
    group: str
    what: str
    ask: Callable[[], Awaitable[Finding]]
    """May raise CaaError, which is a failure too."""


@dataclass(frozen=True)
class Result:
    """A check and what it found."""

    group: str
    what: str
    finding: Finding


async def run_checks(
    checks: Sequence[Check], *, timeout: float, on_result: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run all side by side. One that takes longer than `timeout` seconds, or breaks, is a failed one. The
    results are in the order of the checks; `on_result` is told of each as it comes.
    """

    async def run(check: Check) -> Result:
        result = Result(check.group, check.what, await _finding(check, timeout))
        on_result(result)
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(check), name=check.what) for check in checks]
    return [task.result() for task in tasks]


async def _finding(check: Check, timeout: float) -> Finding:
    try:
        async with asyncio.timeout(timeout) as limit:
            return await check.ask()
    except CaaError as error:
        return failed(str(error))
    except TimeoutError as error:
        if limit.expired():
            return failed(f"no answer in {timeout:g} s")
        return failed(str(error) or "timed out")
    except Exception as error:
        log.debug("a check broke", what=check.what, exc_info=True)
        return failed(f"the check itself broke: {error!r}", "report this, please")


async def in_thread(function: Callable[[], T]) -> T:
    """Run what may block, such as a look at a dead network disk. If the caller gives up, the thread is left
    behind; it does not keep the process from ending.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001  whatever it is, the caller gets it
            outcome.set_exception(error)

    threading.Thread(target=run, name="check", daemon=True).start()
    return await asyncio.wrap_future(outcome)
