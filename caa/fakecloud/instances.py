"""Instances and their lives.

An instance's status follows from its age and from what its machine has come to; nothing has to tick for it:

    age < visible_after                           known to nobody but DeleteInstance, which refuses it
    age < address_after                           Pending, without addresses
    age < starting_after                          Pending, with addresses
    age < running_after, or not yet powered on    Starting
    otherwise                                     Running (Stopped, if the machine could not be powered on)
    being deleted                                 Stopping, for `deleting` and until powered off; then gone

The machine is powered on at `starting_after`. For the first `initializing` seconds an instance refuses to be
deleted. Its network interfaces are Attaching until it is powered on.
"""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from ipaddress import IPv4Address

import structlog

from caa.fakecloud.addresses import Addresses
from caa.fakecloud.boot import Boot, Machine
from caa.fakecloud.clock import Clock
from caa.fakecloud.eni_orders import check_eni_limit, check_zone
from caa.fakecloud.enis import ID_ALPHABET, Eni, EniOrder, Enis, EniStatus, require_secondary, require_status
from caa.fakecloud.errors import ApiError
from caa.fakecloud.orders import Order
from caa.fakecloud.stock import Stock
from caa.fakecloud.tasks import Tasks
from caa.fakecloud.timings import Timings

log = structlog.get_logger(__name__)


class Status(StrEnum):
    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    STOPPED = "Stopped"


STEADY = (Status.RUNNING, Status.STOPPED)
"""When an instance can be changed."""


class Power(Enum):
    OFF = "off"
    ON = "on"
    FAILED = "failed"


@dataclass(eq=False)
class Instance:
    id: str
    order: Order
    created_at: float
    primary: Eni
    public_address: IPv4Address | None
    tags: dict[str, str]
    """The order's, and what has become of them."""
    power: Power = Power.OFF
    deleting: bool = False
    powering_on: asyncio.Task[None] | None = None

    @property
    def address(self) -> IPv4Address:
        return self.primary.address

    @property
    def mac(self) -> str:
        return self.primary.mac


def status(age: float, power: Power, *, deleting: bool, timings: Timings) -> Status:
    if deleting:
        return Status.STOPPING
    if age < timings.starting_after:
        return Status.PENDING
    if power is Power.FAILED:
        return Status.STOPPED
    if age < timings.running_after or power is Power.OFF:
        return Status.STARTING
    return Status.RUNNING


class Instances:
    """All instances that there are, and the tasks that power them on and off."""

    def __init__(
        self,
        boot: Boot,
        clock: Clock,
        timings: Timings,
        boot_seconds: float,
        *,
        enis: Enis,
        public_addresses: Addresses,
        stock: Stock,
        quota: int | None = None,
    ) -> None:
        self._boot = boot
        self._clock = clock
        self._timings = timings
        self._boot_seconds = boot_seconds
        self._enis = enis
        self._public_addresses = public_addresses
        self._stock = stock
        self._quota = quota
        self._instances: dict[str, Instance] = {}
        self._tasks = Tasks()
        self._moves: dict[Eni, asyncio.Task[None]] = {}

    def check_quota(self) -> None:
        """Raises ApiError if no instance more is allowed."""
        if self._quota is not None and len(self._instances) >= self._quota:
            raise ApiError(
                403,
                "QuotaExceed.ElasticQuota",
                "No additional quota is available for the specified ECS instance type.",
            )

    def create(self, order: Order) -> Instance:
        """Take the order, which has been checked; powering on goes its own way."""
        self.check_quota()
        self._stock.take(order.pool.vswitch.zone_id, order.type)
        instance_id = "i-2ze" + "".join(secrets.choice(ID_ALPHABET) for _ in range(17))
        enis = self._make_interfaces(order)
        for eni in enis:
            self._enis.attach(eni, instance_id)
        instance = Instance(
            id=instance_id,
            order=order,
            created_at=self._clock.now(),
            primary=enis[0],
            public_address=self._public_addresses.allocate() if order.internet_mbps else None,
            tags=dict(order.tags),
        )
        self._instances[instance.id] = instance
        instance.powering_on = self._tasks.spawn(self._power_on(instance))
        log.info("instance created", instance=instance.id, name=order.name, address=str(instance.address))
        return instance

    def _make_interfaces(self, order: Order) -> list[Eni]:
        """The primary one first, then the order's, those that exist among them."""
        primary = EniOrder(
            pool=order.pool, security_group_ids=order.security_group_ids, address=order.address
        )
        wanted = (primary, *order.interfaces)
        new = [each for each in wanted if isinstance(each, EniOrder)]
        # Those that want a certain address first, before another one gets it.
        new.sort(key=lambda each: each.address is None)
        made = {each: self._enis.create(each, primary=each is primary) for each in new}
        return [made[each] if isinstance(each, EniOrder) else each for each in wanted]

    def __iter__(self) -> Iterator[Instance]:
        """All, also those that no call can see yet, the oldest first."""
        return iter(tuple(self._instances.values()))

    def visible(self, instance_id: str) -> Instance | None:
        instance = self._instances.get(instance_id)
        return instance if instance and self.age(instance) >= self._timings.visible_after else None

    def at(self, address: str) -> Instance | None:
        """The instance with that private address, on whichever of its interfaces."""
        eni = next((eni for eni in self._enis if str(eni.address) == address), None)
        return self._instances.get(eni.instance) if eni and eni.instance else None

    def interfaces(self, instance: Instance) -> list[Eni]:
        """The primary one first."""
        return self._enis.of(instance.id)

    def age(self, instance: Instance) -> float:
        return self._clock.now() - instance.created_at

    def status(self, instance: Instance) -> Status:
        return status(self.age(instance), instance.power, deleting=instance.deleting, timings=self._timings)

    def has_addresses(self, instance: Instance) -> bool:
        return self.age(instance) >= self._timings.address_after

    def check_deletion(self, instance_id: str, *, force: bool) -> Instance:
        """Raises ApiError where the cloud refuses to delete."""
        instance = self._instances.get(instance_id)
        if instance is None:
            raise not_found()
        if instance.deleting:
            raise _incorrect_status("IncorrectInstanceStatus")
        if self.age(instance) < self._timings.initializing:
            raise _incorrect_status("IncorrectInstanceStatus.Initializing")
        if not force and self.status(instance) is not Status.STOPPED:
            raise _incorrect_status("IncorrectInstanceStatus")
        return instance

    def delete(self, instance_id: str, *, force: bool) -> None:
        """Start to remove the instance. Raises ApiError as `check_deletion` does."""
        instance = self.check_deletion(instance_id, force=force)
        instance.deleting = True
        for eni in self.interfaces(instance):
            self._enis.detach(eni)
        self._tasks.spawn(self._remove(instance))

    def attach(self, eni: Eni, instance: Instance) -> None:
        """Start to attach a secondary interface. Raises ApiError where the cloud refuses."""
        require_secondary(eni)
        require_status(eni, EniStatus.AVAILABLE)
        self._require_steady(instance)
        check_zone(eni.pool, instance.order.pool)
        check_eni_limit(instance.order.type, len(self.interfaces(instance)) + 1)
        self._enis.attach(eni, instance.id)
        self._move(eni, instance)

    def detach(self, eni: Eni, instance: Instance) -> None:
        """Start to detach a secondary interface. Raises ApiError where the cloud refuses."""
        if eni.primary:
            raise ApiError(
                400,
                "InvalidOperation.DetachPrimaryEniNotAllowed",
                "Detaching primary ENI from ECS instance is not allowed.",
            )
        require_status(eni, EniStatus.IN_USE)
        if eni.instance != instance.id:
            raise ApiError(
                400,
                "InvalidOperation.InvalidEniState",
                f"The specified ENI is not attached to the instance {instance.id}.",
            )
        self._require_steady(instance)
        self._enis.detach(eni)
        self._move(eni, instance)

    async def close(self) -> None:
        """Power everything off, at once; returns when nothing is left."""
        try:
            await self._tasks.close()
        finally:
            self._instances.clear()
            await self._boot.close()

    def _require_steady(self, instance: Instance) -> None:
        if self.status(instance) not in STEADY:
            raise ApiError(
                400,
                "InvalidOperation.InvalidEcsState",
                "The operation is not allowed in the current ECS state.",
            )

    async def _power_on(self, instance: Instance) -> None:
        await self._clock.sleep(self._timings.starting_after)
        interfaces = self.interfaces(instance)
        primary, *others = (eni.interface for eni in interfaces)
        machine = Machine(
            instance.id,
            instance.order.name,
            (replace(primary, public_address=instance.public_address), *others),
            instance.order.user_data,
            self._boot_seconds,
        )
        try:
            await self._boot.start(machine)
        except Exception:
            instance.power = Power.FAILED
            log.exception("instance can't be powered on", instance=instance.id)
        else:
            instance.power = Power.ON
        for eni in interfaces:
            self._enis.attached(eni)

    def _move(self, eni: Eni, instance: Instance) -> None:
        """Finish what is Attaching or Detaching."""
        self._moves[eni] = self._tasks.spawn(self._moving(eni, instance, eni.status))

    async def _moving(self, eni: Eni, instance: Instance, status: EniStatus) -> None:
        plugging = status is EniStatus.ATTACHING
        await self._clock.sleep(self._timings.attaching if plugging else self._timings.detaching)
        try:
            await (self._boot.plug if plugging else self._boot.unplug)(instance.id, eni.interface)
        except Exception:
            log.exception("network interface can't be moved", eni=eni.id, instance=instance.id)
        del self._moves[eni]
        if plugging:
            self._enis.attached(eni)
        else:
            self._enis.detached(eni)

    async def _remove(self, instance: Instance) -> None:
        started = self._clock.now()
        under_way = [self._moves.pop(eni) for eni in self.interfaces(instance) if eni in self._moves]
        if instance.powering_on:
            under_way.append(instance.powering_on)
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        try:
            await self._boot.stop(instance.id)
        except Exception:
            log.exception("instance can't be powered off", instance=instance.id)
        await self._clock.sleep(max(0.0, started + self._timings.deleting - self._clock.now()))
        for eni in self.interfaces(instance):
            if eni.delete_on_release:
                self._enis.remove(eni)
            else:
                self._enis.detached(eni)
        if instance.public_address:
            self._public_addresses.release(instance.public_address)
        self._stock.put_back(instance.order.pool.vswitch.zone_id, instance.order.type)
        del self._instances[instance.id]
        log.info("instance deleted", instance=instance.id)


def not_found() -> ApiError:
    return ApiError(404, "InvalidInstanceId.NotFound", "The specified InstanceId does not exist.")


def _incorrect_status(code: str) -> ApiError:
    return ApiError(403, code, "The specified instance status does not support this operation.")
