"""Elastic IP addresses.

    Available --associate--> Associating --> InUse --unassociate--> Unassociating --> Available
    Available --release--> Releasing --> gone

One is associated with a network interface: a secondary one, or, when an instance was named, its primary one.
When that interface goes, the address is Available again.
"""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

import structlog

from caa.fakecloud.addresses import Addresses
from caa.fakecloud.clock import Clock
from caa.fakecloud.enis import ID_ALPHABET, Eni
from caa.fakecloud.errors import ApiError
from caa.fakecloud.tasks import Tasks
from caa.fakecloud.timings import Timings

log = structlog.get_logger(__name__)


class EipStatus(StrEnum):
    ASSOCIATING = "Associating"
    UNASSOCIATING = "Unassociating"
    IN_USE = "InUse"
    AVAILABLE = "Available"
    RELEASING = "Releasing"


@dataclass(frozen=True, kw_only=True)
class EipOrder:
    """An address that is asked for."""

    mbps: int
    internet_charge_type: str
    name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False, kw_only=True)
class Eip:
    id: str
    address: IPv4Address
    created_at: float
    order: EipOrder
    tags: dict[str, str]
    status: EipStatus = EipStatus.AVAILABLE
    eni: Eni | None = None
    """What it is associated with, or on its way to or from."""

    @property
    def name(self) -> str:
        return self.order.name

    @property
    def target_type(self) -> str:
        """As AssociateEipAddress calls it: EcsInstance, NetworkInterface, or nothing."""
        if self.eni is None:
            return ""
        return "EcsInstance" if self.eni.primary else "NetworkInterface"

    @property
    def instance(self) -> str | None:
        """The id of what it is associated with, an instance or a network interface."""
        if self.eni is None:
            return None
        return self.eni.instance if self.eni.primary else self.eni.id


class Eips:
    """All elastic addresses that there are."""

    def __init__(self, clock: Clock, timings: Timings, addresses: Addresses, *, quota: int) -> None:
        self._clock = clock
        self._timings = timings
        self._addresses = addresses
        self._quota = quota
        self._eips: dict[str, Eip] = {}
        self._tasks = Tasks()

    def __iter__(self) -> Iterator[Eip]:
        """The oldest first."""
        return iter(tuple(self._eips.values()))

    def find(self, allocation_id: str) -> Eip:
        """Raises ApiError if there is none of that id."""
        eip = self._eips.get(allocation_id)
        if eip is None:
            raise ApiError(404, "InvalidAllocationId.NotFound", "Specified allocation ID is not found.")
        return eip

    def of(self, eni: Eni) -> Eip | None:
        return next((eip for eip in self._eips.values() if eip.eni is eni), None)

    def allocate(self, order: EipOrder) -> Eip:
        """Raises ApiError if the quota is used up."""
        if len(self._eips) >= self._quota:
            raise ApiError(400, "QuotaExceeded.Eip", "Elastic IP address quota exceeded.")
        eip = Eip(
            id="eip-2ze" + "".join(secrets.choice(ID_ALPHABET) for _ in range(17)),
            address=self._addresses.allocate(),
            created_at=self._clock.now(),
            order=order,
            tags=dict(order.tags),
        )
        self._eips[eip.id] = eip
        log.info("elastic address allocated", eip=eip.id, address=str(eip.address))
        return eip

    def associate(self, eip: Eip, eni: Eni) -> None:
        """Start to. Raises ApiError if either has an association already."""
        _require_status(eip, EipStatus.AVAILABLE)
        if self.of(eni):
            raise ApiError(400, "InvalidAssociation.Duplicated", "Specified instance already is associated.")
        eip.status, eip.eni = EipStatus.ASSOCIATING, eni
        self._tasks.spawn(self._move(eip, eni, EipStatus.ASSOCIATING, self._timings.associating))

    def unassociate(self, eip: Eip) -> None:
        """Start to. Raises ApiError if it is not associated."""
        _require_status(eip, EipStatus.IN_USE)
        assert eip.eni is not None
        eip.status = EipStatus.UNASSOCIATING
        self._tasks.spawn(self._move(eip, eip.eni, EipStatus.UNASSOCIATING, self._timings.unassociating))

    async def _move(self, eip: Eip, eni: Eni, status: EipStatus, seconds: float) -> None:
        await self._clock.sleep(seconds)
        if (eip.status, eip.eni) != (status, eni):
            return  # the interface has gone meanwhile
        if status is EipStatus.ASSOCIATING:
            eip.status = EipStatus.IN_USE
        else:
            eip.status, eip.eni = EipStatus.AVAILABLE, None

    def release(self, eip: Eip) -> None:
        """Start to. Raises ApiError unless it is Available."""
        _require_status(eip, EipStatus.AVAILABLE)
        eip.status = EipStatus.RELEASING
        self._tasks.spawn(self._release(eip))

    async def _release(self, eip: Eip) -> None:
        await self._clock.sleep(self._timings.releasing)
        del self._eips[eip.id]
        self._addresses.release(eip.address)
        log.info("elastic address released", eip=eip.id)

    def forget(self, eni: Eni) -> None:
        """That interface is gone."""
        eip = self.of(eni)
        if eip:
            eip.status, eip.eni = EipStatus.AVAILABLE, None

    async def close(self) -> None:
        await self._tasks.close()
        self._eips.clear()


def _require_status(eip: Eip, wanted: EipStatus) -> None:
    if eip.status is not wanted:
        raise ApiError(
            400, "IncorrectEipStatus", "Current elastic IP status does not support this operation."
        )
