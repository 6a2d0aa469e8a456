"""How many pod VMs this node takes, advertised for the scheduler while the daemon runs."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from caa.errors import CaaError
from caa.polling import growing

if TYPE_CHECKING:
    from caa.kubernetes.cluster import Cluster

_log = structlog.get_logger(__name__)

_LOOK_AGAIN = 300.0
"""Seconds. A kubelet forgets capacity that it does not provide when its Node object is made anew."""
_LAST_WORD = 5.0
"""Seconds for taking it back at the end."""


class Capacity:
    """The capacity `kata.peerpods.io/vm` of this node, from `start` to `close`."""

    def __init__(self, cluster: "Cluster", limit: int, owner: str) -> None:
        """`owner` is this daemon's pod uid: while an update overlaps, the newest daemon's word counts, and an
        older one does not take back what is not its own.
        """
        self._cluster = cluster
        self._limit = limit
        self._owner = owner
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Advertise in the background, however long that takes. A negative limit: nothing is advertised."""
        if self._limit >= 0:
            self._work = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        for pause in growing(0.5, 2.0, 60.0):
            try:
                await self._cluster.advertise(self._limit, self._owner)
                break
            except CaaError as error:
                _log.info("capacity not advertised yet", error=str(error), again_in=pause)
            await asyncio.sleep(pause)
        _log.info("capacity advertised", pod_vms=self._limit)
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            try:
                if await self._cluster.readvertise(self._limit, self._owner):
                    _log.warning("the node's capacity was lost and is advertised again", pod_vms=self._limit)
            except CaaError as error:
                _log.debug("capacity not looked at", error=str(error))

    async def close(self) -> None:
        """Take it back, if it still is ours, and if the API server lets us within some seconds. If not, it
        stays until the next daemon of this node sets it.
        """
        if self._work is None:
            return
        self._work.cancel()
        await asyncio.wait([self._work])
        self._work = None
        try:
            async with asyncio.timeout(_LAST_WORD):
                await self._cluster.withdraw(self._owner)
        except (CaaError, TimeoutError) as error:
            _log.warning("capacity could not be taken back", error=str(error) or "no answer in time")
