"""The books of instances, network interfaces and elastic addresses, by whatever is done to them."""

import asyncio
from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from caa.fakecloud import NoBoot, Status, Timings, VSwitch
from caa.fakecloud.addresses import Addresses
from caa.fakecloud.eips import EipOrder, Eips, EipStatus
from caa.fakecloud.enis import EniOrder, Enis, EniStatus
from caa.fakecloud.errors import ApiError
from caa.fakecloud.instance_types import INSTANCE_TYPES
from caa.fakecloud.instances import Instances
from caa.fakecloud.orders import Order
from caa.fakecloud.stock import Stock
from caa.fakecloud.vswitches import AddressPool

TYPE = INSTANCE_TYPES["ecs.g8i.xlarge"]
TIMINGS = Timings(
    visible_after=0,
    address_after=0,
    starting_after=1,
    running_after=2,
    initializing=1,
    deleting=2,
    attaching=1,
    detaching=1,
    deleting_interface=1,
    associating=1,
    unassociating=1,
    releasing=1,
)
STOCK = 3
index = st.integers(0, 5)


class Books(RuleBasedStateMachine):
    clock_class: Any

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = self.clock_class()
        self.pool = AddressPool(VSwitch("vsw-1", "zone-1", IPv4Network("10.0.0.0/28")))
        self.public = Addresses(IPv4Address("198.18.0.1"), IPv4Address("198.18.0.4"))
        self.stock = Stock({("zone-1", TYPE.id): STOCK})
        self.eips = Eips(self.clock, TIMINGS, self.public, quota=3)
        self.enis = Enis(self.clock, TIMINGS, quota=5)
        self.enis.on_gone = self.eips.forget
        self.instances = Instances(
            NoBoot(),
            self.clock,
            TIMINGS,
            0,
            enis=self.enis,
            public_addresses=self.public,
            stock=self.stock,
        )

    def _do(self, action: Any, *arguments: Any, **more: Any) -> str:
        """The code of the refusal, or nothing."""

        async def do() -> str:
            try:
                action(*arguments, **more)
            except ApiError as refusal:
                return refusal.code
            return ""

        return self.loop.run_until_complete(do())

    def _order(self) -> EniOrder:
        return EniOrder(pool=self.pool, security_group_ids=("sg-1",))

    @rule(public=st.booleans(), delete_on_release=st.booleans(), chosen=index, existing=st.booleans())
    def run(self, *, public: bool, delete_on_release: bool, chosen: int, existing: bool) -> None:
        free = [eni for eni in self.enis if eni.status is EniStatus.AVAILABLE]
        if existing and chosen < len(free):
            nic: Any = free[chosen]
        else:
            nic = EniOrder(pool=self.pool, security_group_ids=("sg-1",), delete_on_release=delete_on_release)
            if self._do(self.enis.check_address, nic) or self._do(self.enis.check_quota, 1):
                return
        if self.pool.available < 2 or (public and not self.public.available):
            return
        order = Order(
            "vm", "m-1", TYPE, self.pool, ("sg-1",), internet_mbps=100 if public else 0, interfaces=(nic,)
        )
        sold_out = self.stock.left("zone-1", TYPE.id) == 0
        assert self._do(self.instances.create, order) == ("OperationDenied.NoStock" if sold_out else "")

    @rule(chosen=index)
    def delete_instance(self, chosen: int) -> None:
        for instance in list(self.instances)[chosen : chosen + 1]:
            ready = not instance.deleting and self.instances.age(instance) >= TIMINGS.initializing
            assert bool(self._do(self.instances.delete, instance.id, force=True)) != ready

    @rule()
    def create_eni(self) -> None:
        self._do(self.enis.create, self._order())

    @rule(chosen=index)
    def delete_eni(self, chosen: int) -> None:
        for eni in list(self.enis)[chosen : chosen + 1]:
            ready = not eni.primary and eni.status is EniStatus.AVAILABLE
            assert bool(self._do(self.enis.delete, eni)) != ready

    @rule(chosen=index, other=index)
    def attach(self, chosen: int, other: int) -> None:
        for eni in list(self.enis)[chosen : chosen + 1]:
            for instance in list(self.instances)[other : other + 1]:
                self._do(self.instances.attach, eni, instance)

    @rule(chosen=index)
    def detach(self, chosen: int) -> None:
        for eni in list(self.enis)[chosen : chosen + 1]:
            for instance in self.instances:
                if instance.id == eni.instance:
                    self._do(self.instances.detach, eni, instance)

    @rule()
    def allocate(self) -> None:
        if self.public.available:
            self._do(self.eips.allocate, EipOrder(mbps=5, internet_charge_type="PayByTraffic"))

    @rule(chosen=index, other=index)
    def associate(self, chosen: int, other: int) -> None:
        for eip in list(self.eips)[chosen : chosen + 1]:
            for eni in list(self.enis)[other : other + 1]:
                self._do(self.eips.associate, eip, eni)

    @rule(chosen=index)
    def unassociate(self, chosen: int) -> None:
        for eip in list(self.eips)[chosen : chosen + 1]:
            assert bool(self._do(self.eips.unassociate, eip)) == (eip.status is not EipStatus.UNASSOCIATING)

    @rule(chosen=index)
    def release(self, chosen: int) -> None:
        for eip in list(self.eips)[chosen : chosen + 1]:
            free = eip.status is EipStatus.AVAILABLE
            assert bool(self._do(self.eips.release, eip)) != free

    @rule(seconds=st.sampled_from([0.5, 1, 5]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(self.clock.advance(seconds))

    @invariant()
    def no_address_is_given_twice(self) -> None:
        private = [eni.address for eni in self.enis]
        public = [eip.address for eip in self.eips]
        public += [each.public_address for each in self.instances if each.public_address]
        assert max(Counter(private + public).values(), default=1) == 1
        assert self.pool.available == self.pool.size - len(private)
        assert self.public.available == self.public.size - len(public)

    @invariant()
    def an_interface_has_an_instance_while_it_is_attached(self) -> None:
        known = {instance.id for instance in self.instances}
        for eni in self.enis:
            attached = eni.status in (EniStatus.ATTACHING, EniStatus.IN_USE, EniStatus.DETACHING)
            assert (eni.instance in known) == attached
        for instance in self.instances:
            interfaces = self.instances.interfaces(instance)
            assert interfaces[0] is instance.primary
            assert len(interfaces) <= TYPE.enis
            assert self.instances.status(instance) is not Status.RUNNING or not instance.deleting

    @invariant()
    def an_elastic_address_is_where_it_says(self) -> None:
        enis = set(self.enis)
        for eip in self.eips:
            assert (eip.eni in enis) == (eip.status not in (EipStatus.AVAILABLE, EipStatus.RELEASING))
        targets = Counter(eip.eni for eip in self.eips if eip.eni)
        assert max(targets.values(), default=1) == 1

    @invariant()
    def stock_is_what_is_not_sold(self) -> None:
        assert self.stock.left("zone-1", TYPE.id) == STOCK - len(list(self.instances))

    def teardown(self) -> None:
        """Whatever was done, all can be undone, by asking again and again as a client does."""
        try:
            for _ in range(6):
                for instance in self.instances:
                    self._do(self.instances.delete, instance.id, force=True)
                for eni in self.enis:
                    self._do(self.enis.delete, eni)
                for eip in self.eips:
                    self._do(self.eips.unassociate, eip)
                    self._do(self.eips.release, eip)
                self.wait(2)
            assert [*self.instances, *self.enis, *self.eips] == []
            assert self.pool.available == self.pool.size
            assert self.public.available == self.public.size
        finally:
            self.loop.close()


def test_books(clock: Any) -> None:
    class Machine(Books):
        clock_class = type(clock)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )
