from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from caa.fakecloud import VSwitch
from caa.fakecloud.addresses import NoAddressLeftError
from caa.fakecloud.vswitches import AddressPool

NETWORK = IPv4Network("10.1.0.0/28")


def test_the_reserved_addresses_are_not_handed_out() -> None:
    pool = AddressPool(VSwitch("vsw-1", "z", NETWORK))
    addresses = [pool.allocate() for _ in range(pool.available)]
    assert addresses == [IPv4Address(f"10.1.0.{last}") for last in range(1, 13)]
    with pytest.raises(NoAddressLeftError):
        pool.allocate()


def test_a_returned_address_comes_last() -> None:
    pool = AddressPool(VSwitch("vsw-1", "z", NETWORK))
    first = pool.allocate()
    pool.release(first)
    assert [pool.allocate() for _ in range(pool.available)][-1] == first


def test_an_address_can_be_asked_for_by_name() -> None:
    pool = AddressPool(VSwitch("vsw-1", "z", NETWORK))
    wanted = IPv4Address("10.1.0.1")
    assert pool.take(wanted) == wanted
    assert pool.allocate() == wanted + 1
    for unfree in (wanted, IPv4Address("10.1.0.0"), IPv4Address("10.1.0.13"), IPv4Address("10.2.0.1")):
        with pytest.raises(ValueError, match="not free"):
            pool.take(unfree)


class Pool(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = AddressPool(VSwitch("vsw-1", "z", NETWORK))
        self.taken: list[IPv4Address] = []

    @precondition(lambda self: self.pool.available)
    @rule()
    def allocate(self) -> None:
        address = self.pool.allocate()
        assert address not in self.taken
        assert address in NETWORK
        self.taken.append(address)

    @rule(address=st.sampled_from(list(NETWORK)))
    def take(self, address: IPv4Address) -> None:
        if address in self.pool and not self.pool.is_taken(address):
            self.taken.append(self.pool.take(address))
            assert address in list(NETWORK)[1:-3]
        else:
            with pytest.raises(ValueError, match="not free"):
                self.pool.take(address)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(self.taken))
        self.taken.remove(address)
        self.pool.release(address)

    @invariant()
    def counts(self) -> None:
        assert self.pool.available == 12 - len(self.taken)


TestPool = Pool.TestCase
