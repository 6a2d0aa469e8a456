"""Instances and their lives.

An instance's status follows from its age and from what its machine has come to; nothing has to tick for it:

    age < visible_after                           known to nobody but DeleteInstance, which refuses it
    age < address_after                           Pending, without addresses
    age < starting_after                          Pending, with addresses
    age < running_after, or not yet powered on    Starting
    otherwise                                     Running (Stopped, if the machine could not be powered on)
    being deleted                                 Stopping, for `deleting` and until powered off; then gone

The machine is powered on at `starting_after`. For the first `initializing` seconds an instance refuses to be
deleted.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import structlog

from caa.fakecloud.boot import Boot, Machine
from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError
from caa.fakecloud.orders import Order
from caa.fakecloud.timings import Timings

log = structlog.get_logger(__name__)

ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class Status(StrEnum):
    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    STOPPED = "Stopped"


class Power(Enum):
    OFF = "off"
    ON = "on"
    FAILED = "failed"


@dataclass(eq=False)
class Instance:
    id: str
    order: Order
    created_at: float
    address: IPv4Address
    public_address: IPv4Address | None
    power: Power = Power.OFF
    deleting: bool = False
    powering_on: asyncio.Task[None] | None = None

    @property
    def mac(self) -> str:
        """Unique as long as the VPC is no larger than a /8; 00:16:3e is the cloud's own prefix."""
        return "00:16:3e:" + ":".join(f"{byte:02x}" for byte in self.address.packed[1:])


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

    def __init__(self, boot: Boot, clock: Clock, timings: Timings, boot_seconds: float) -> None:
        self._boot = boot
        self._clock = clock
        self._timings = timings
        self._boot_seconds = boot_seconds
        self._instances: dict[str, Instance] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Set aside for benchmarks (RFC 2544), so nobody's real address.
        self._public_addresses = IPv4Network("198.18.0.0/15").hosts()

    def create(self, order: Order) -> Instance:
        """Take the order; powering on goes its own way. Raises ApiError if the vSwitch is full."""
        instance = Instance(
            id="i-2ze" + "".join(secrets.choice(ID_ALPHABET) for _ in range(17)),
            order=order,
            created_at=self._clock.now(),
            address=order.pool.allocate(),
            public_address=next(self._public_addresses) if order.internet_mbps else None,
        )
        self._instances[instance.id] = instance
        instance.powering_on = self._spawn(self._power_on(instance))
        log.info("instance created", instance=instance.id, name=order.name, address=str(instance.address))
        return instance

    def __iter__(self) -> Iterator[Instance]:
        """All, also those that no call can see yet, the oldest first."""
        return iter(tuple(self._instances.values()))

    def visible(self, instance_id: str) -> Instance | None:
        instance = self._instances.get(instance_id)
        return instance if instance and self.age(instance) >= self._timings.visible_after else None

    def at(self, address: str) -> Instance | None:
        """The instance with that private address."""
        return next((each for each in self if str(each.address) == address), None)

    def age(self, instance: Instance) -> float:
        return self._clock.now() - instance.created_at

    def status(self, instance: Instance) -> Status:
        return status(self.age(instance), instance.power, deleting=instance.deleting, timings=self._timings)

    def has_addresses(self, instance: Instance) -> bool:
        return self.age(instance) >= self._timings.address_after

    def delete(self, instance_id: str, *, force: bool) -> None:
        """Start to remove the instance. Raises ApiError where the cloud refuses."""
        instance = self._instances.get(instance_id)
        if instance is None:
            raise not_found()
        if instance.deleting:
            raise _incorrect_status("IncorrectInstanceStatus")
        if self.age(instance) < self._timings.initializing:
            raise _incorrect_status("IncorrectInstanceStatus.Initializing")
        if not force and self.status(instance) is not Status.STOPPED:
            raise _incorrect_status("IncorrectInstanceStatus")
        instance.deleting = True
        self._spawn(self._remove(instance))

    async def close(self) -> None:
        """Power everything off, at once; returns when nothing is left."""
        for task in self._tasks:
            task.cancel()
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._instances.clear()
            await self._boot.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _power_on(self, instance: Instance) -> None:
        await self._clock.sleep(self._timings.starting_after)
        machine = Machine(
            instance.id,
            instance.order.name,
            instance.address,
            instance.mac,
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

    async def _remove(self, instance: Instance) -> None:
        started = self._clock.now()
        if instance.powering_on:
            instance.powering_on.cancel()
            await asyncio.wait([instance.powering_on])
        try:
            await self._boot.stop(instance.id)
        except Exception:
            log.exception("instance can't be powered off", instance=instance.id)
        await self._clock.sleep(max(0.0, started + self._timings.deleting - self._clock.now()))
        instance.order.pool.release(instance.address)
        del self._instances[instance.id]
        log.info("instance deleted", instance=instance.id)


def not_found() -> ApiError:
    return ApiError(404, "InvalidInstanceId.NotFound", "The specified InstanceId does not exist.")


def _incorrect_status(code: str) -> ApiError:
    return ApiError(403, code, "The specified instance status does not support this operation.")
