"""Netlink work in threads, for callers that may be cancelled.

A tunnel end is a few milliseconds of system calls that block on a lock of the kernel's, so they run in a
thread. A thread can't be cancelled. Therefore a cancellation waits for it: what it did must be known before
it is undone.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def finish(function: Callable[[], T]) -> T:
    """Run `function` in a thread. If the caller is cancelled, that is raised once the function has ended."""
    run = contextvars.copy_context().run
    # A future and not a task: a closing event loop cancels all tasks, and this one must not be abandoned.
    future = asyncio.get_running_loop().run_in_executor(None, run, function)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # mark it as seen
        raise cancelled
    return future.result()


async def finish_or_undo(function: Callable[[], T], undo: Callable[[], object]) -> T:
    """Run `function` in a thread; if it fails or the caller is cancelled, run `undo` to its end and raise
    that.
    """
    try:
        return await finish(function)
    except BaseException:
        try:
            await finish(undo)
        except Exception:
            log.exception("undoing failed")
        raise
