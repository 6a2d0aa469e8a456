"""Addresses to hand out, each to one holder at a time."""

from collections.abc import Iterable
from ipaddress import IPv4Address


class NoAddressLeftError(Exception):
    """All are taken."""


class Addresses:
    """The addresses from `first` to `last`, and which of them are free. One that was returned comes up again
    as late as possible, so that stale knowledge of an address shows as silence and not as somebody else's
    machine.
    """

    def __init__(self, first: IPv4Address, last: IPv4Address, taken: Iterable[IPv4Address] = ()) -> None:
        self._range = range(int(first), int(last) + 1)
        self._taken = {int(address) for address in taken} & set(self._range)
        self._next = self._range.start

    @property
    def size(self) -> int:
        """Taken ones too."""
        return len(self._range)

    @property
    def available(self) -> int:
        return self.size - len(self._taken)

    def __contains__(self, address: IPv4Address) -> bool:
        """Whether it can be had at all, taken or not."""
        return int(address) in self._range

    def is_taken(self, address: IPv4Address) -> bool:
        return int(address) in self._taken

    def allocate(self) -> IPv4Address:
        """Raises NoAddressLeftError."""
        if not self.available:
            raise NoAddressLeftError
        while self._next in self._taken:
            self._advance()
        address = IPv4Address(self._next)
        self._advance()
        return self.take(address)

    def take(self, address: IPv4Address) -> IPv4Address:
        """Raises ValueError for one that is taken or can't be had."""
        if address not in self or self.is_taken(address):
            raise ValueError(f"{address} is not free")
        self._taken.add(int(address))
        return address

    def release(self, address: IPv4Address) -> None:
        self._taken.discard(int(address))

    def _advance(self) -> None:
        self._next = self._next + 1 if self._next + 1 in self._range else self._range.start
