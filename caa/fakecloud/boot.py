"""What a started instance is made of: the seam between the API's books and whatever plays the machines."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol


@dataclass(frozen=True)
class Interface:
    """A network interface as its machine sees it."""

    address: IPv4Address
    """Its private address."""
    mac: str
    public_address: IPv4Address | None = None


@dataclass(frozen=True)
class Machine:
    """One instance as its hardware sees it."""

    instance_id: str
    name: str
    interfaces: tuple[Interface, ...]
    """The primary one first."""
    user_data: bytes = field(repr=False)
    """What the metadata service hands out, decoded; it may hold keys."""
    boot_seconds: float
    """From power on until the guest's init runs."""

    @property
    def address(self) -> IPv4Address:
        """Its primary private address."""
        return self.interfaces[0].address


class Boot(Protocol):
    """Powers machines on and off."""

    async def start(self, machine: Machine) -> None:
        """Power on. Returns once the machine's interfaces are in the VPC; nothing answers at its addresses
        until it has booted. Cancelled or failed, it leaves nothing behind.
        """

    async def stop(self, instance_id: str) -> None:
        """Power off and remove. Stopping a machine that is not there is no error."""

    async def plug(self, instance_id: str, interface: Interface) -> None:
        """Give a machine one more interface. No error if it is not powered on: it has none then."""

    async def unplug(self, instance_id: str, interface: Interface) -> None:
        """Take it away again. No error if the machine does not have it."""

    async def close(self) -> None:
        """Power every machine off."""


class NoBoot:
    """Instances with states and addresses, and no machine behind them."""

    async def start(self, machine: Machine) -> None:
        pass

    async def stop(self, instance_id: str) -> None:
        pass

    async def plug(self, instance_id: str, interface: Interface) -> None:
        pass

    async def unplug(self, instance_id: str, interface: Interface) -> None:
        pass

    async def close(self) -> None:
        pass
