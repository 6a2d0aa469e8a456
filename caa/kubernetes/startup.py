"""Whether the pods that ran on this node run again, for those who wait to update the next node."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from caa.errors import CaaError, DeadlineExceededError
from caa.polling import growing, poll

if TYPE_CHECKING:
    from caa.kubernetes.cluster import Cluster

_log = structlog.get_logger(__name__)

_LONGEST = 300.0
"""Seconds. A pod may have reasons of its own not to be Ready, and the kubelet kills a daemon whose startup
probe does not succeed in ten minutes, again and again."""

_TOLD = 5
"""Pods that are named in messages."""


class Startup:
    """From `start`, looks until all of the node's pods with the runtime class have been Ready at once."""

    def __init__(self, cluster: "Cluster", runtime_class: str) -> None:
        self.waits_for = "the first look at the node's pods"
        """Empty: for nothing any more, and never again."""
        self._cluster = cluster
        self._runtime_class = runtime_class
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._work = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            await poll(
                self._look,
                what="the node's pods to be Ready again",
                pauses=growing(0.5, 1.5, 10.0),
                timeout=_LONGEST,
            )
        except DeadlineExceededError as error:
            _log.warning("startup is taken for done", error=str(error))
        self.waits_for = ""

    async def _look(self) -> tuple[bool | None, str]:
        try:
            unready = await self._cluster.unready_pods(self._runtime_class)
        except CaaError as error:
            self.waits_for = str(error)
        else:
            more = f" and {len(unready) - _TOLD} more" if len(unready) > _TOLD else ""
            self.waits_for = f"not Ready: {', '.join(unready[:_TOLD])}{more}" if unready else ""
        return (not self.waits_for) or None, self.waits_for

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
