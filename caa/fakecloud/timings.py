"""How fast the cloud's clock ticks."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds: tenths where the cloud takes whole ones. An instance's are since its creation, but for
    `deleting`; all others are how long that takes.
    """

    visible_after: float = 0.05
    address_after: float = 0.1
    starting_after: float = 0.15
    running_after: float = 0.3
    initializing: float = 0.3
    deleting: float = 0.2
    importing: float = 0.5
    """Of an image."""

    attaching: float = 0.1
    detaching: float = 0.1
    deleting_interface: float = 0.05

    associating: float = 0.1
    unassociating: float = 0.1
    releasing: float = 0.05

    def slower(self, factor: float) -> "Timings":
        """All of them, this many times as long."""
        return Timings(*(seconds * factor for seconds in astuple(self)))
