from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from caa.fakecloud import VSwitch
from caa.fakecloud.errors import ApiError
from caa.fakecloud.vswitches import AddressPool

NETWORK = IPv4Network("10.1.0.0/28")


def test_the_reserved_addresses_are_not_handed_out() -> None:
    pool = AddressPool(VSwitch("vsw-1", "z", NETWORK))
    addresses = [pool.allocate() for _ in range(pool.available)]
    assert addresses == [IPv4Address(f"10.1.0.{last}") for last in range(1, 13)]
    with pytest.raises(ApiError, match="QuotaExceeded"):
        pool.allocate()


def test_a_returned_address_comes_last() -> None:
    pool = AddressPool(VSwitch("vsw-1", "z", NETWORK))
    first = pool.allocate()
    pool.release(first)
    assert [pool.allocate() for _ in range(pool.available)][-1] == first


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
