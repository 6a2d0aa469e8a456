"""Who leads: the rules of leader election by a Lease, without I/O.

A candidate writes its name into the Lease and renews it; whoever sees the Lease unchanged for as long as it
says takes it. Clocks need not agree, only run about equally fast (client-go's tools/leaderelection works so):

- Others judge by how long *they* have seen the same Lease, never by the times in it.
- A leader counts from when it *sent* its last accepted renewal, which nobody can have seen earlier. It stops
  at `deadline`, well before `duration`, at which others take over.
- Each write names the version that it replaces: of two candidates, one is refused.
- A write whose answer was lost does not make a leader. Whoever it was finds its name and renews.
"""

from dataclasses import dataclass, replace
from datetime import datetime

_LONGEST = 3600
"""Seconds that a Lease is believed to last."""


@dataclass(frozen=True, slots=True)
class Record:
    """A Lease's spec."""

    holder: str
    """Empty: it was released."""
    duration: int
    """Seconds."""
    acquired: datetime | None = None
    renewed: datetime | None = None
    """For people: nothing is decided by them."""
    transitions: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """In seconds, each longer than the next."""

    duration: int = 60
    """That others wait for a silent leader."""
    deadline: float = 40.0
    """That a leader leads without having been able to renew."""
    retry: float = 10.0
    """Between tries, and the time for one."""


class Candidacy:
    """One candidate. `now` is its own clock, in seconds."""

    def __init__(self, identity: str, times: Times) -> None:
        """`identity` is used by no other process, not even by this one's predecessor."""
        assert times.duration > times.deadline > times.retry > 0
        self.identity = identity
        self.until = float("-inf")
        """It leads before this."""
        self._times = times
        self._seen: tuple[Record, str] | None = None
        self._seen_since = 0.0

    def leads(self, now: float) -> bool:
        return now < self.until

    def observe(self, record: Record | None, version: str, now: float) -> None:
        """What the Lease says. None: there is none."""
        if record is None:
            self._seen = None
        elif self._seen != (record, version):
            self._seen, self._seen_since = (record, version), now
        if record is None or record.holder != self.identity:
            self.until = float("-inf")

    def bid(self, now: float, wall_clock: datetime) -> Record | None:
        """What to write in place of what was observed. None: another one leads."""
        times = self._times
        ours = Record(self.identity, times.duration, wall_clock, wall_clock)
        if self._seen is None:
            return ours
        there = self._seen[0]
        if there.holder == self.identity:
            return replace(there, duration=times.duration, renewed=wall_clock)
        lasts = min(there.duration, _LONGEST) if there.duration > 0 else times.duration
        if there.holder and now < self._seen_since + lasts:
            return None
        return replace(ours, transitions=there.transitions + 1)

    def won(self, record: Record, version: str, sent_at: float, now: float) -> None:
        """The write was accepted."""
        self._seen, self._seen_since = (record, version), now
        self.until = sent_at + self._times.deadline

    def farewell(self, wall_clock: datetime) -> Record | None:
        """What to write at the end, so that others need not wait. None: nothing, it is not ours."""
        self.until = float("-inf")
        if self._seen is None or self._seen[0].holder != self.identity:
            return None
        return replace(self._seen[0], holder="", duration=1, renewed=wall_clock)
