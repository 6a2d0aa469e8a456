"""vSwitches: subnets that instances get their private addresses from."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from caa.fakecloud.errors import ApiError

RESERVED_AT_END = 3
"""Alibaba Cloud keeps a vSwitch's first address and its last three; the gateway is among the last."""


@dataclass(frozen=True)
class VSwitch:
    id: str
    zone_id: str
    cidr: IPv4Network


class AddressPool:
    """The free addresses of one vSwitch. One that was returned comes up again as late as possible, so that
    stale knowledge of an address shows as silence and not as somebody else's machine.
    """

    def __init__(self, vswitch: VSwitch, taken: Iterable[IPv4Address] = ()) -> None:
        self.vswitch = vswitch
        first = int(vswitch.cidr.network_address) + 1
        last = int(vswitch.cidr.broadcast_address) - RESERVED_AT_END
        self._range = range(first, last + 1)
        self._taken = {int(address) for address in taken} & set(self._range)
        self._next = first

    @property
    def available(self) -> int:
        return len(self._range) - len(self._taken)

    def allocate(self) -> IPv4Address:
        """Raises ApiError if none is free."""
        if not self.available:
            raise ApiError(
                400, "QuotaExceeded.PrivateIpAddress", "Don't have enough private IPs in this switch."
            )
        while self._next in self._taken:
            self._advance()
        address = self._next
        self._taken.add(address)
        self._advance()
        return IPv4Address(address)

    def release(self, address: IPv4Address) -> None:
        self._taken.discard(int(address))

    def _advance(self) -> None:
        self._next = self._next + 1 if self._next + 1 in self._range else self._range.start
