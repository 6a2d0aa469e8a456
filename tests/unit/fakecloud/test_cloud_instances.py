import asyncio
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.fakecloud import Machine, Status, Timings, VSwitch
from caa.fakecloud.addresses import Addresses
from caa.fakecloud.boot import Interface
from caa.fakecloud.enis import Eni, EniOrder, Enis
from caa.fakecloud.errors import ApiError
from caa.fakecloud.instance_types import INSTANCE_TYPES
from caa.fakecloud.instances import Instance, Instances, Power, status
from caa.fakecloud.orders import Order
from caa.fakecloud.stock import Stock
from caa.fakecloud.vswitches import AddressPool

TIMINGS = Timings(
    visible_after=1,
    address_after=2,
    starting_after=3,
    running_after=5,
    initializing=6,
    deleting=2,
    attaching=1,
    detaching=1,
    deleting_interface=1,
)


class RecordingBoot:
    """Notes what it is told; `hold` lets a start hang until cancelled."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.machines: list[Machine] = []
        self.hold = False
        self.fail = False

    async def start(self, machine: Machine) -> None:
        self.machines.append(machine)
        self.log.append("start")
        if self.fail:
            raise RuntimeError("no such hypervisor")
        if self.hold:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.log.append("start cancelled")

    async def stop(self, instance_id: str) -> None:
        self.log.append("stop")

    async def plug(self, instance_id: str, interface: Interface) -> None:
        self.log.append(f"plug {interface.address}")

    async def unplug(self, instance_id: str, interface: Interface) -> None:
        self.log.append(f"unplug {interface.address}")

    async def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def pool() -> AddressPool:
    return AddressPool(VSwitch("vsw-1", "cn-beijing-i", IPv4Network("10.0.0.0/28")))


@pytest.fixture
def boot() -> RecordingBoot:
    return RecordingBoot()


@pytest.fixture
def enis(clock: Any) -> Enis:
    return Enis(clock, TIMINGS, quota=10)


@pytest.fixture
def public() -> Addresses:
    return Addresses(IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2"))


@pytest.fixture
def stock() -> Stock:
    return Stock()


@pytest.fixture
def instances(boot: RecordingBoot, clock: Any, enis: Enis, public: Addresses, stock: Stock) -> Instances:
    return Instances(
        boot, clock, TIMINGS, boot_seconds=0.7, enis=enis, public_addresses=public, stock=stock, quota=12
    )


def _order(pool: AddressPool, **more: Any) -> Order:
    return Order(
        "podvm-a", "m-1", INSTANCE_TYPES["ecs.g8i.xlarge"], pool, ("sg-1",), b"#cloud-config", **more
    )


def _refusal(instances: Instances, instance_id: str, *, force: bool = True) -> str:
    with pytest.raises(ApiError) as refusal:
        instances.delete(instance_id, force=force)
    return refusal.value.code


async def test_the_life_of_an_instance(
    instances: Instances, boot: RecordingBoot, pool: AddressPool, clock: Any
) -> None:
    instance = instances.create(_order(pool))
    seen = []
    for _ in range(7):
        seen.append(
            (
                instances.visible(instance.id) is not None,
                instances.has_addresses(instance),
                instances.status(instance).value,
            )
        )
        await clock.advance(1)
    assert seen == [
        (False, False, "Pending"),
        (True, False, "Pending"),
        (True, True, "Pending"),
        (True, True, "Starting"),
        (True, True, "Starting"),
        (True, True, "Running"),
        (True, True, "Running"),
    ]
    assert boot.machines == [
        Machine(
            instance.id,
            "podvm-a",
            (Interface(IPv4Address("10.0.0.1"), "00:16:3e:00:00:01"),),
            b"#cloud-config",
            0.7,
        )
    ]

    instances.delete(instance.id, force=True)
    assert instances.status(instance) is Status.STOPPING
    await clock.advance(1.9)
    assert boot.log == ["start", "stop"]
    assert instances.visible(instance.id) is instance
    await clock.advance(0.2)
    assert instances.visible(instance.id) is None
    assert list(instances) == []


async def test_nothing_runs_that_is_not_powered_on(
    instances: Instances, boot: RecordingBoot, pool: AddressPool, clock: Any
) -> None:
    boot.hold = True
    instance = instances.create(_order(pool))
    await clock.advance(100)
    assert instances.status(instance) is Status.STARTING
    instances.delete(instance.id, force=True)
    await clock.advance(100)
    assert boot.log == ["start", "start cancelled", "stop"]
    assert list(instances) == []


async def test_what_cannot_be_powered_on_is_stopped_and_can_be_deleted(
    instances: Instances, boot: RecordingBoot, pool: AddressPool, clock: Any
) -> None:
    boot.fail = True
    instance = instances.create(_order(pool))
    await clock.advance(100)
    assert instances.status(instance) is Status.STOPPED
    instances.delete(instance.id, force=False)
    await clock.advance(100)
    assert list(instances) == []


async def test_refused_deletions(instances: Instances, pool: AddressPool, clock: Any) -> None:
    assert _refusal(instances, "i-nobody") == "InvalidInstanceId.NotFound"
    instance = instances.create(_order(pool))
    assert _refusal(instances, instance.id) == "IncorrectInstanceStatus.Initializing"
    await clock.advance(5.9)
    assert _refusal(instances, instance.id) == "IncorrectInstanceStatus.Initializing"
    await clock.advance(0.2)
    assert _refusal(instances, instance.id, force=False) == "IncorrectInstanceStatus"
    instances.delete(instance.id, force=True)
    assert _refusal(instances, instance.id) == "IncorrectInstanceStatus"
    await clock.advance(2)
    assert _refusal(instances, instance.id) == "InvalidInstanceId.NotFound"


async def test_an_address_is_taken_until_its_machine_is_gone(
    instances: Instances, pool: AddressPool, clock: Any
) -> None:
    before = pool.available
    instance = instances.create(_order(pool))
    assert instances.at("10.0.0.1") is instance
    await clock.advance(10)
    instances.delete(instance.id, force=True)
    await clock.advance(1)
    assert pool.available == before - 1
    await clock.advance(1)
    assert pool.available == before
    assert instances.at("10.0.0.1") is None


async def test_no_more_than_the_quota(instances: Instances, pool: AddressPool) -> None:
    for _ in range(12):
        instances.create(_order(pool))
    with pytest.raises(ApiError, match=r"QuotaExceed\.ElasticQuota"):
        instances.create(_order(pool))
    assert len(list(instances)) == 12
    await instances.close()


async def test_what_an_instance_has_is_free_when_it_is_gone(
    instances: Instances, pool: AddressPool, public: Addresses, stock: Stock, enis: Enis, clock: Any
) -> None:
    stock.set("cn-beijing-i", "ecs.g8i.xlarge", 1)
    wanted = EniOrder(pool=pool, security_group_ids=("sg-1",), delete_on_release=True)
    instance = instances.create(_order(pool, internet_mbps=100, interfaces=(wanted,)))
    assert (pool.available, public.available) == (10, 1)
    assert stock.left("cn-beijing-i", "ecs.g8i.xlarge") == 0
    with pytest.raises(ApiError, match=r"OperationDenied\.NoStock"):
        instances.create(_order(pool))
    await clock.advance(10)
    instances.delete(instance.id, force=True)
    await clock.advance(2)
    assert (pool.available, public.available) == (12, 2)
    assert stock.left("cn-beijing-i", "ecs.g8i.xlarge") == 1
    assert list(enis) == []


async def test_close_powers_everything_off(
    instances: Instances, boot: RecordingBoot, pool: AddressPool, clock: Any
) -> None:
    running = instances.create(_order(pool))
    await clock.advance(10)
    instances.delete(running.id, force=True)
    boot.hold = True
    instances.create(_order(pool))
    await clock.advance(3)
    instances.create(_order(pool))
    others = asyncio.all_tasks()
    await instances.close()
    assert boot.log[-2:] == ["start cancelled", "close"]
    assert list(instances) == []
    assert asyncio.all_tasks() <= others
    assert asyncio.all_tasks() == {asyncio.current_task()}


class TestInterfaces:
    @pytest.fixture
    async def running(self, instances: Instances, pool: AddressPool, clock: Any) -> Instance:
        instance = instances.create(_order(pool))
        await clock.advance(10)
        return instance

    @pytest.fixture
    def eni(self, enis: Enis, pool: AddressPool) -> Eni:
        return enis.create(EniOrder(pool=pool, security_group_ids=("sg-1",), address=IPv4Address("10.0.0.9")))

    async def test_is_plugged_into_a_running_machine_and_unplugged(
        self, instances: Instances, running: Instance, eni: Eni, boot: RecordingBoot, clock: Any
    ) -> None:
        instances.attach(eni, running)
        await clock.advance(0.9)
        assert (eni.status, instances.interfaces(running)) == ("Attaching", [running.primary, eni])
        await clock.advance(0.2)
        assert (eni.status, boot.log[-1]) == ("InUse", "plug 10.0.0.9")
        assert instances.at("10.0.0.9") is running
        instances.detach(eni, running)
        await clock.advance(0.9)
        assert eni.status == "Detaching"
        await clock.advance(0.2)
        assert (eni.status, boot.log[-1]) == ("Available", "unplug 10.0.0.9")
        assert instances.at("10.0.0.9") is None

    async def test_goes_where_its_instance_goes_while_it_is_attached(
        self, instances: Instances, running: Instance, eni: Eni, boot: RecordingBoot, enis: Enis, clock: Any
    ) -> None:
        instances.attach(eni, running)
        instances.delete(running.id, force=True)
        assert eni.status == "Detaching"
        await clock.advance(5)
        assert (eni.status, list(enis)) == ("Available", [eni])
        assert boot.log == ["start", "stop"]

    async def test_gets_the_address_that_it_wants(self, instances: Instances, pool: AddressPool) -> None:
        first = IPv4Address("10.0.0.1")  # which the primary one would get
        wanted = EniOrder(pool=pool, security_group_ids=("sg-1",), address=first)
        instance = instances.create(_order(pool, interfaces=(wanted,)))
        assert [eni.address for eni in instances.interfaces(instance)] == [first + 1, first]
        any_one = EniOrder(pool=pool, security_group_ids=("sg-1",))
        other = instances.create(_order(pool, interfaces=(any_one,), address=first + 2))
        assert [eni.address for eni in instances.interfaces(other)] == [first + 2, first + 3]
        await instances.close()

    async def test_needs_an_instance_that_is_ready(
        self, instances: Instances, pool: AddressPool, eni: Eni, clock: Any
    ) -> None:
        instance = instances.create(_order(pool))
        await clock.advance(4)
        assert instances.status(instance) is Status.STARTING
        with pytest.raises(ApiError, match=r"InvalidOperation\.InvalidEcsState"):
            instances.attach(eni, instance)

    async def test_no_more_than_the_type_can_have(
        self, instances: Instances, running: Instance, enis: Enis, pool: AddressPool
    ) -> None:
        for _ in range(running.order.type.enis - 1):
            instances.attach(enis.create(EniOrder(pool=pool, security_group_ids=("sg-1",))), running)
        with pytest.raises(ApiError, match="EniPerInstanceLimitExceeded"):
            instances.attach(enis.create(EniOrder(pool=pool, security_group_ids=("sg-1",))), running)
        await instances.close()

    async def test_of_another_instance_is_not_detached(
        self, instances: Instances, running: Instance, eni: Eni, pool: AddressPool, clock: Any
    ) -> None:
        instances.attach(eni, running)
        other = instances.create(_order(pool))
        await clock.advance(10)
        with pytest.raises(ApiError, match=r"InvalidOperation\.InvalidEniState"):
            instances.detach(eni, other)


@given(
    ages=st.lists(st.floats(0, 20), min_size=2).map(sorted),
    powered_at=st.floats(3, 20),
    deleted_at=st.floats(0, 30),
)
def test_status_only_moves_forward(ages: list[float], powered_at: float, deleted_at: float) -> None:
    order = [Status.PENDING, Status.STARTING, Status.RUNNING, Status.STOPPING]
    seen = [
        status(
            age,
            Power.ON if age >= powered_at else Power.OFF,
            deleting=age >= deleted_at,
            timings=TIMINGS,
        )
        for age in ages
    ]
    assert seen == sorted(seen, key=order.index)


def test_slower_timings_keep_their_order() -> None:
    slow = Timings().slower(20)
    assert (slow.visible_after, slow.address_after, slow.running_after, slow.attaching) == (1, 2, 6, 2)
