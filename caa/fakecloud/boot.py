"""What a started instance is made of: the seam between the API's books and whatever plays the machines."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol


@dataclass(frozen=True)
class Machine:
    """One instance as its hardware sees it."""

    instance_id: str
    name: str
    address: IPv4Address
    """The private address of its only network interface."""
    mac: str
    user_data: bytes = field(repr=False)
    """What the metadata service hands out, decoded; it may hold keys."""
    boot_seconds: float
    """From power on until the guest's init runs."""


class Boot(Protocol):
    """Powers machines on and off."""

    async def start(self, machine: Machine) -> None:
        """Power on. Returns once the machine's interface is in the VPC; nothing answers at its address
        until it has booted. Cancelled or failed, it leaves nothing behind.
        """

    async def stop(self, instance_id: str) -> None:
        """Power off and remove. Stopping a machine that is not there is no error."""

    async def close(self) -> None:
        """Power every machine off."""


class NoBoot:
    """Instances with states and addresses, and no machine behind them."""

    async def start(self, machine: Machine) -> None:
        pass

    async def stop(self, instance_id: str) -> None:
        pass

    async def close(self) -> None:
        pass
