"""How fast the cloud's clock ticks."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds since creation, and the length of a deletion: tenths where the cloud takes whole ones."""

    visible_after: float = 0.05
    address_after: float = 0.1
    starting_after: float = 0.15
    running_after: float = 0.3
    initializing: float = 0.3
    deleting: float = 0.2

    def slower(self, factor: float) -> "Timings":
        """All of them, this many times as long."""
        return Timings(*(seconds * factor for seconds in astuple(self)))
