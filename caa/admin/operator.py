"""What an operator asks for, done in the process that has the journal: the daemon, or a command alone."""

import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from caa.admin import gc
from caa.admin.views import Collection, Leftover, SandboxView
from caa.errors import CaaError, NotFoundError, PermissionDeniedError, UnavailableError
from caa.providers import Provider, Stray
from caa.sandbox import Journal, Life, Snapshot

_log = structlog.get_logger(__name__)


def look(folder: Path, pods_dir: Path) -> list[SandboxView]:
    """All sandboxes of the journal in `folder`, past ones too, without their events: what can be known while
    no daemon runs. Raises NotFoundError if there is no journal, StartupError if it can't be read.
    """
    with Snapshot(folder) as snapshot:
        return [SandboxView.of(life, pods_dir) for life in snapshot.lives()]


def look_at(folder: Path, pods_dir: Path, sandbox_id: str) -> SandboxView:
    """One sandbox, with its events. Raises as `look` does."""
    with Snapshot(folder) as snapshot:
        return _view(sandbox_id, snapshot.history(sandbox_id), pods_dir)


class Operator:
    def __init__(
        self,
        journal: Journal,
        provider: Provider,
        stop: Callable[[str], Awaitable[None]],
        *,
        pods_dir: Path,
        alone: bool,
    ) -> None:
        """`stop` takes a sandbox down as StopVM would, and returns after a while if that is refused for now.
        `alone`: no daemon runs, so nobody else is at work on a sandbox.
        """
        self._journal = journal
        self._provider = provider
        self._stop = stop
        self._pods_dir = pods_dir
        self._alone = alone

    async def sandboxes(self, *, past: bool) -> list[SandboxView]:
        """All that live, by slot, and then with `past` those that have ended. Without their events."""
        lives = await self._journal.lives()
        return [SandboxView.of(life, self._pods_dir) for life in lives if past or life.ended is None]

    async def sandbox(self, sandbox_id: str) -> SandboxView:
        """One sandbox, with its events. Raises NotFoundError."""
        return _view(sandbox_id, await self._journal.history(sandbox_id), self._pods_dir)

    async def remove(self, sandbox_id: str) -> SandboxView:
        """Take the sandbox down; one that has ended is no error. Raises NotFoundError.

        What is returned tells whether that is done. If the cloud refuses for now, it is not: its error says
        why, and the daemon goes on trying.
        """
        if (await self.sandbox(sandbox_id)).ended is None:
            _log.info("an operator takes a sandbox down", sandbox=sandbox_id)
            await self._stop(sandbox_id)
        return await self.sandbox(sandbox_id)

    async def collect(self, *, dry_run: bool) -> Collection:
        """Find what is left over, and remove it, or with `dry_run` only tell."""
        # First the cloud, then the journal: what is made meanwhile is in the journal before it is in the
        # cloud, so that it is never taken for a stray.
        strays, unseen, denied = await self._strays()
        alive = [life for life in await self._journal.lives() if life.ended is None]
        known = {life.sandbox.id for life in alive} | {life.sandbox.instance_id for life in alive} - {""}
        found: list[Leftover] = []
        for life in alive:
            verdict = gc.judge_sandbox(life, alone=self._alone, netns_exists=os.path.exists)
            if verdict is not None:
                leftover = _sandbox_leftover(life, verdict)
                found.append(await self._settle(leftover, partial(self._end, life.sandbox.id), dry_run))
        for stray in strays:
            verdict = gc.judge_stray(stray, known, time.time())
            if verdict is not None:
                leftover = _stray_leftover(stray, verdict)
                found.append(
                    await self._settle(leftover, partial(self._provider.release_stray, stray), dry_run)
                )
        return Collection(leftovers=tuple(found), unseen=unseen, denied=denied)

    async def _strays(self) -> tuple[list[Stray], str, bool]:
        """What carries this node's mark; why that can't be told, and whether for want of a right."""
        found, failures = await self._provider.strays()
        denied = bool(failures) and all(isinstance(error, PermissionDeniedError) for error in failures)
        return found, "; ".join(map(str, failures)), denied

    async def _settle(
        self, leftover: Leftover, remove: Callable[[], Awaitable[None]], dry_run: bool
    ) -> Leftover:
        if dry_run or leftover.fate != "to be removed":
            return leftover
        _log.info("an operator has a leftover removed", kind=leftover.kind, id=leftover.id, of=leftover.of)
        try:
            await remove()
        except CaaError as error:
            return leftover.model_copy(update={"fate": "failed", "why": str(error)})
        return leftover.model_copy(update={"fate": "removed"})

    async def _end(self, sandbox_id: str) -> None:
        left = await self.remove(sandbox_id)
        if left.ended is None:
            raise UnavailableError(left.error or "its removal is not done yet")


def _view(sandbox_id: str, life: Life | None, pods_dir: Path) -> SandboxView:
    if life is None:
        raise NotFoundError(f"there is no sandbox {sandbox_id} on this node, nor was there lately")
    return SandboxView.of(life, pods_dir)


def _sandbox_leftover(life: Life, verdict: gc.Verdict) -> Leftover:
    sandbox = life.sandbox
    return Leftover(
        kind="sandbox",
        id=sandbox.id,
        of=f"{sandbox.pod_namespace}/{sandbox.pod_name}",
        since=None if life.since is None else datetime.fromtimestamp(life.since, UTC),
        fate="to be removed" if verdict.remove else "left",
        why=verdict.why,
    )


def _stray_leftover(stray: Stray, verdict: gc.Verdict) -> Leftover:
    return Leftover(
        kind=stray.kind,
        id=stray.id,
        of=stray.sandbox or stray.name,
        since=gc.created(stray),
        fate="to be removed" if verdict.remove else "left",
        why=verdict.why,
    )
