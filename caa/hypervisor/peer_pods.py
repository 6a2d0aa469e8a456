"""The PeerPod objects of this node's sandboxes, made and given up in the background.

A sandbox owes its object from the moment that its instance is known, and owes to give it up from the moment
that the instance is gone; either is in the journal with what it comes of. One task an object works that off,
with growing pauses, so that for each object one thing happens after the other. No pod waits for it.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import structlog

from caa.errors import AbortedError, AlreadyExistsError, CaaError, UnavailableError
from caa.kubernetes import NoPeerPodsError, NotSentError, object_name
from caa.polling import growing
from caa.sandbox import Debt, Event, Journal, Sandbox

if TYPE_CHECKING:
    from caa.kubernetes import Cluster

_log = structlog.get_logger(__name__)

_AT_ONCE = 4
"""Objects that are worked on at a time; pods that are waiting have the rest of the API server's attention."""

_SLOWLY = 300.0
"""Seconds between tries of what takes a person to change: a right, the CRD."""

_SETTLED = 90.0
"""Seconds after which no request that was sent before can still take effect: an API server ends each after
60."""


@dataclass(eq=False)
class _Account:
    """What is owed for an object."""

    debt: Debt
    doubtful: bool
    """A request to make it may be on its way that nobody waits for any more."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tried: bool = False


class PeerPods:
    """Outside a cluster there are no objects, and what an earlier daemon owes stays owed."""

    def __init__(self, journal: Journal, cluster: "Cluster | None") -> None:
        self._journal = journal
        self._cluster = cluster
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._tasks: dict[_Account, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._closing = False

    # What is owed

    def claimed(self, sandbox: Sandbox) -> tuple[Sandbox, Debt | None]:
        """The sandbox, whose instance is known now, with the name of its object-to-be, and the debt to be
        written along with it."""
        if self._cluster is None or sandbox.peer_pod or not sandbox.instance_id:
            return sandbox, None
        sandbox = sandbox.learn(peer_pod=object_name(sandbox.pod_name))
        return sandbox, _debt(sandbox, "claim")

    def disclaimed(self, sandbox: Sandbox) -> Debt | None:
        """What the sandbox, whose instance is gone, leaves behind: to be written as it is forgotten."""
        return _debt(sandbox, "disclaim") if sandbox.peer_pod else None

    # Working it off

    async def recover(self) -> None:
        """Take up what an earlier daemon owed."""
        for debt in await self._journal.debts():
            self._open(debt, doubtful=True)

    def settle(self, debt: Debt | None) -> None:
        """Work off what is in the journal now."""
        if debt is None:
            return
        if account := self._accounts.get(debt.key):
            account.debt = debt
            account.tried = False
            account.changed.set()
        else:
            self._open(debt, doubtful=False)

    def _open(self, debt: Debt, *, doubtful: bool) -> None:
        if self._cluster is not None and not self._closing:
            account = self._accounts[debt.key] = _Account(debt, doubtful)
            self._tasks[account] = asyncio.create_task(self._work_off(account, self._cluster))

    async def close(self, grace: float) -> None:
        """Let what was not tried yet be tried, within `grace` seconds. The rest is for the next daemon."""
        self._closing = True
        for account in self._accounts.values():
            account.changed.set()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace)
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _work_off(self, account: _Account, cluster: "Cluster") -> None:
        pauses = _pauses()
        while not (self._closing and account.tried):
            account.changed.clear()
            debt = account.debt
            pause = await self._attempt(account, debt, cluster, pauses)
            if debt is not account.debt:  # another took its place meanwhile
                pauses = _pauses()
                continue
            if pause is None:
                del self._accounts[debt.key], self._tasks[account]
                return
            account.tried = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await account.changed.wait()

    async def _attempt(
        self, account: _Account, debt: Debt, cluster: "Cluster", pauses: Iterator[float]
    ) -> float | None:
        """Try once. None: it is paid; otherwise the seconds after which to try again."""
        try:
            async with self._places:
                if debt is account.debt:
                    await (self._claim if debt.kind == "claim" else self._disclaim)(account, debt, cluster)
                    await self._journal.paid(debt)
        except (UnavailableError, AbortedError) as error:
            pause, reason = next(pauses), str(error)
        except CaaError as error:
            pause, reason = _SLOWLY, str(error)
        except Exception as error:  # noqa: BLE001  a fault of ours must not leave an object behind either
            pause, reason = _SLOWLY, repr(error)
            _log.exception("PeerPod object: unexpected error", **_names(debt))
        else:
            return None
        if not account.tried:
            _log.info("PeerPod object is owed", **_names(debt), owed=debt.kind, error=reason)
        return pause

    async def _claim(self, account: _Account, debt: Debt, cluster: "Cluster") -> None:
        try:
            await cluster.claim(
                debt.namespace, debt.pod, debt.pod_uid, debt.name, debt.instance_id, debt.sandbox
            )
        except NotSentError:
            raise
        except UnavailableError:
            account.doubtful = True
            raise
        except AlreadyExistsError as error:
            _log.error("PeerPod object not made: its name is taken", **_names(debt), error=str(error))
            return
        account.doubtful = False
        _log.info("PeerPod object made", **_names(debt))
        self._note(debt, "made")

    async def _disclaim(self, account: _Account, debt: Debt, cluster: "Cluster") -> None:
        try:
            there = await cluster.disclaim(debt.namespace, debt.name, debt.instance_id)
        except NoPeerPodsError:
            return
        if there:
            _log.info("PeerPod object given up", **_names(debt))
            self._note(debt, "given up")
        elif account.doubtful and abs(time.time() - debt.since) < _SETTLED:
            raise UnavailableError(f"PeerPod {debt.namespace}/{debt.name} is not there, but may be made yet")

    def _note(self, debt: Debt, what: str) -> None:
        self._journal.note(debt.sandbox, Event(time.time(), "note", f"PeerPod {debt.name} {what}"))


def _pauses() -> Iterator[float]:
    return growing(0.5, 2.0, 30.0)


def _debt(sandbox: Sandbox, kind: Literal["claim", "disclaim"]) -> Debt:
    return Debt(
        kind=kind,
        namespace=sandbox.pod_namespace,
        name=sandbox.peer_pod,
        pod=sandbox.pod_name,
        pod_uid=sandbox.pod_uid,
        instance_id=sandbox.instance_id,
        sandbox=sandbox.id,
        since=time.time(),
    )


def _names(debt: Debt) -> dict[str, str]:
    return {
        "sandbox": debt.sandbox,
        "pod": f"{debt.namespace}/{debt.pod}",
        "peer_pod": debt.name,
        "instance": debt.instance_id,
    }
