"""Network interfaces: every instance's primary one, and secondary ones, which can have lives of their own.

    Available --attach--> Attaching --> InUse --detach--> Detaching --> Available
    Available --delete--> Deleting --> gone

A secondary interface is Available at once when it is created by itself. One that is created or named in
RunInstances is Attaching until its instance is powered on. When an instance goes, its interfaces with
`delete_on_release` go with it, and the others become Available again.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

import structlog

from caa.fakecloud.boot import Interface
from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError
from caa.fakecloud.tasks import Tasks
from caa.fakecloud.timings import Timings
from caa.fakecloud.vswitches import AddressPool

log = structlog.get_logger(__name__)

ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class EniStatus(StrEnum):
    AVAILABLE = "Available"
    ATTACHING = "Attaching"
    IN_USE = "InUse"
    DETACHING = "Detaching"
    DELETING = "Deleting"


STEADY = (EniStatus.AVAILABLE, EniStatus.IN_USE)
"""When an interface can be changed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EniOrder:
    """A network interface that is asked for."""

    pool: AddressPool
    security_group_ids: Sequence[str]
    address: IPv4Address | None = None
    """None: any of the vSwitch's."""
    name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    delete_on_release: bool = False


@dataclass(eq=False, kw_only=True)
class Eni:
    id: str
    primary: bool
    pool: AddressPool
    address: IPv4Address
    created_at: float
    name: str
    description: str
    security_group_ids: Sequence[str]
    tags: dict[str, str]
    delete_on_release: bool
    status: EniStatus
    instance: str | None = None
    """The id of the instance that it is attached to, or on its way to or from."""

    @property
    def mac(self) -> str:
        """Unique as long as the VPC is no larger than a /8; 00:16:3e is the cloud's own prefix."""
        return "00:16:3e:" + ":".join(f"{byte:02x}" for byte in self.address.packed[1:])

    @property
    def interface(self) -> Interface:
        return Interface(self.address, self.mac)


class Enis:
    """All network interfaces that there are."""

    def __init__(self, clock: Clock, timings: Timings, *, quota: int) -> None:
        """`quota` is the largest number of secondary ones."""
        self._clock = clock
        self._timings = timings
        self._quota = quota
        self._enis: dict[str, Eni] = {}
        self._of: dict[str, list[Eni]] = {}
        self._tasks = Tasks()
        self.on_gone: Callable[[Eni], None] = lambda _: None
        """Told of each interface that is deleted."""

    def __iter__(self) -> Iterator[Eni]:
        """The oldest first."""
        return iter(tuple(self._enis.values()))

    def find(self, eni_id: str) -> Eni:
        """Raises ApiError if there is none of that id."""
        eni = self._enis.get(eni_id)
        if eni is None:
            raise ApiError(404, "InvalidEniId.NotFound", f'The specified EniId "{eni_id}" is not found.')
        return eni

    def of(self, instance_id: str) -> list[Eni]:
        """An instance's, the primary one first, then in the order in which they were attached."""
        return list(self._of.get(instance_id, ()))

    def check_quota(self, more: int) -> None:
        """Raises ApiError if so many secondary ones more are not allowed."""
        if sum(not eni.primary for eni in self) + more > self._quota:
            raise ApiError(
                403,
                "MaxEniCountExceeded",
                f"The maximum number of ENIs is exceeded: the quota of the account is {self._quota}.",
            )

    def check_address(self, order: EniOrder) -> None:
        """Raises ApiError if the vSwitch can't give the address."""
        vswitch = order.pool.vswitch
        if order.address is None:
            if not order.pool.available:
                raise ApiError(
                    403,
                    "InvalidVSwitchId.IpNotEnough",
                    f'The specified VSwitch "{vswitch.id}" has not enough IpAddress.',
                )
        elif order.address not in order.pool:
            raise ApiError(
                403,
                "InvalidVSwitchId.IpInvalid",
                f'The specified IpAddress "{order.address}" is not valid in VSwitch CIDR block'
                f' "{vswitch.cidr}".',
            )
        elif order.pool.is_taken(order.address):
            raise ApiError(
                403, "InvalidIp.IpAssigned", f'The specified Ip "{order.address}" is already assigned.'
            )

    def create(self, order: EniOrder, *, primary: bool = False) -> Eni:
        """Raises ApiError if it can't be had."""
        if not primary:
            self.check_quota(1)
        self.check_address(order)
        address = order.pool.take(order.address) if order.address else order.pool.allocate()
        eni = Eni(
            id="eni-2ze" + "".join(secrets.choice(ID_ALPHABET) for _ in range(17)),
            primary=primary,
            pool=order.pool,
            address=address,
            created_at=self._clock.now(),
            name=order.name,
            description=order.description,
            security_group_ids=tuple(order.security_group_ids),
            tags=dict(order.tags),
            delete_on_release=primary or order.delete_on_release,
            status=EniStatus.AVAILABLE,
        )
        self._enis[eni.id] = eni
        log.info("network interface created", eni=eni.id, name=eni.name, address=str(address))
        return eni

    def attach(self, eni: Eni, instance: str) -> None:
        """It is Attaching from now on."""
        eni.status, eni.instance = EniStatus.ATTACHING, instance
        self._of.setdefault(instance, []).append(eni)

    def attached(self, eni: Eni) -> None:
        eni.status = EniStatus.IN_USE

    def detach(self, eni: Eni) -> None:
        """It is Detaching from now on."""
        eni.status = EniStatus.DETACHING

    def detached(self, eni: Eni) -> None:
        self._leave(eni)
        eni.status, eni.instance = EniStatus.AVAILABLE, None

    def delete(self, eni: Eni) -> None:
        """Start to remove it. Raises ApiError where the cloud refuses."""
        require_secondary(eni)
        require_status(eni, EniStatus.AVAILABLE)
        eni.status = EniStatus.DELETING
        self._tasks.spawn(self._delete(eni))

    async def _delete(self, eni: Eni) -> None:
        await self._clock.sleep(self._timings.deleting_interface)
        self.remove(eni)

    def remove(self, eni: Eni) -> None:
        """At once."""
        self._leave(eni)
        del self._enis[eni.id]
        eni.pool.release(eni.address)
        self.on_gone(eni)
        log.info("network interface deleted", eni=eni.id)

    def _leave(self, eni: Eni) -> None:
        if eni.instance:
            others = self._of[eni.instance]
            others.remove(eni)
            if not others:
                del self._of[eni.instance]

    async def close(self) -> None:
        await self._tasks.close()
        self._enis.clear()
        self._of.clear()


def require_status(eni: Eni, *wanted: EniStatus) -> None:
    if eni.status not in wanted:
        raise ApiError(
            400,
            "InvalidOperation.InvalidEniState",
            f'The operation is not allowed in the current ENI state. Expecting status is "{"/".join(wanted)}"'
            f' while current status is "{eni.status}".',
        )


def require_secondary(eni: Eni) -> None:
    if eni.primary:
        raise ApiError(
            403, "InvalidOperation.InvalidEniType", "The operation is not allowed in the current ENI type."
        )
