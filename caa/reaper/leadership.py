"""Leading by a Lease: the I/O around `lease`."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from caa.errors import AbortedError, AlreadyExistsError, CaaError, NotFoundError
from caa.kubernetes import Api, Complaints
from caa.reaper import rights
from caa.reaper.lease import Candidacy, Record, Times

_log = structlog.get_logger(__name__)

_LAST_WORD = 5.0
"""Seconds for giving the Lease back."""


class Leadership:
    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: Times,
        on_heard: Callable[[], object],
    ) -> None:
        """`on_heard` is called whenever the API server has told who leads."""
        self._api = api
        self._on_heard = on_heard
        self._namespace = namespace
        self._name = name
        self._times = times
        self._candidacy = Candidacy(identity, times)
        self._complaints = Complaints()
        self._there: Lease | None = None
        self._others = ""
        self._working: asyncio.Future[None] | None = None

    @property
    def leads(self) -> bool:
        """Ask right before anything that only the leader may do."""
        return self._candidacy.leads(_now())

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` while leading, however often that begins and ends; until cancelled. Raises what `work`
        raises.
        """
        try:
            while True:
                await self._try()
                await self._settle(work)
                await self._wait()
                await self._settle(work)
        finally:
            await self._end()
            await self._release()

    async def _settle(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin or end the work, as we lead or not. Raises what it raised."""
        if self.leads and self._working is None:
            _log.info("leading", lease=self._name, identity=self._candidacy.identity)
            self._working = asyncio.ensure_future(work())
        elif self._working and not self.leads:
            _log.warning("not leading any more: the Lease could not be renewed in time")
            await self._end()
        if self._working and self._working.done():
            ended, self._working = self._working, None
            if not ended.cancelled():
                ended.result()

    async def _end(self) -> None:
        if self._working:
            self._working.cancel()
            await asyncio.wait([self._working])

    async def _wait(self) -> None:
        """For the next try, or the end of leadership or work."""
        until = _now() + self._times.retry
        if self.leads:
            until = min(until, self._candidacy.until)
        if self._working:
            await asyncio.wait([self._working], timeout=until - _now())
        else:
            await asyncio.sleep(until - _now())

    async def _try(self) -> None:
        """One look, and one write if it is our turn. Raises nothing that passes."""
        try:
            # Whoever leads must not wait for an answer past the time at which it stops.
            async with asyncio.timeout_at(self._candidacy.until if self.leads else None):
                await self._look()
                record = self._candidacy.bid(_now(), _wall_clock())
                if record is None:
                    self._tell_leader()
                    return
                sent_at = _now()
                written = await self._write(record)
                version = str(written.metadata and written.metadata.resourceVersion)
                self._candidacy.won(record, version, sent_at, _now())
                self._there, self._others = written, ""
                self._complaints.over("lease", "the Lease is renewed again")
        except (AbortedError, AlreadyExistsError):
            _log.debug("another candidate was first")
        except CaaError as error:
            self._complaints.about("lease", "the Lease can't be had or renewed for now", error=str(error))
        except TimeoutError:
            pass

    async def _look(self) -> None:
        try:
            self._there = await self._api.call(
                rights.GET_LEASE,
                lambda client: client.get(Lease, self._name, namespace=self._namespace),
                namespace=self._namespace,
                timeout=self._times.retry,
            )
        except NotFoundError:
            self._there = None
        self._on_heard()
        version = str(self._there.metadata.resourceVersion) if self._there and self._there.metadata else ""
        self._candidacy.observe(_record(self._there) if self._there else None, version, _now())

    async def _write(self, record: Record) -> Lease:
        there, spec = self._there, _spec(record)
        if there is None:
            made = Lease(metadata=ObjectMeta(name=self._name, namespace=self._namespace), spec=spec)
            return await self._api.call(
                rights.CREATE_LEASE,
                lambda client: client.create(made),
                namespace=self._namespace,
                timeout=self._times.retry,
            )
        changed = Lease(metadata=there.metadata, spec=spec)  # with its resourceVersion
        return await self._api.call(
            rights.UPDATE_LEASE,
            lambda client: client.replace(changed),
            namespace=self._namespace,
            timeout=self._times.retry,
        )

    def _tell_leader(self) -> None:
        holder = str(self._there and self._there.spec and self._there.spec.holderIdentity)
        if holder != self._others:
            _log.info("another reaper leads: standing by", leader=holder[:200])
            self._others = holder

    async def _release(self) -> None:
        record = self._candidacy.farewell(_wall_clock())
        if record is None:
            return
        with contextlib.suppress(CaaError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await self._write(record)
                _log.info("the Lease is given back", lease=self._name)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _wall_clock() -> datetime:
    """For people. Never a whole second: the API server takes times with all six digits after it only, and the
    encoder leaves zeros out.
    """
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond or 1)


def _record(lease: Lease) -> Record:
    spec: Any = lease.spec or LeaseSpec()
    return Record(
        holder=spec.holderIdentity or "",
        duration=spec.leaseDurationSeconds or 0,
        acquired=spec.acquireTime,
        renewed=spec.renewTime,
        transitions=spec.leaseTransitions or 0,
    )


def _spec(record: Record) -> LeaseSpec:
    return LeaseSpec(
        holderIdentity=record.holder,
        leaseDurationSeconds=record.duration,
        acquireTime=record.acquired,
        renewTime=record.renewed,
        leaseTransitions=record.transitions,
    )
