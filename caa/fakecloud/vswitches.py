"""vSwitches: subnets that network interfaces get their private addresses from."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from caa.fakecloud.addresses import Addresses

RESERVED_AT_END = 3
"""Alibaba Cloud keeps a vSwitch's first address and its last three; the gateway is among the last."""


@dataclass(frozen=True)
class VSwitch:
    id: str
    zone_id: str
    cidr: IPv4Network


class AddressPool(Addresses):
    """One vSwitch's addresses."""

    def __init__(self, vswitch: VSwitch, taken: Iterable[IPv4Address] = ()) -> None:
        cidr = vswitch.cidr
        super().__init__(cidr.network_address + 1, cidr.broadcast_address - RESERVED_AT_END, taken)
        self.vswitch = vswitch
