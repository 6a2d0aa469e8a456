"""Leader election: never two at once, whatever clocks, delays and lost answers do."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import pytest

from caa.reaper.lease import Candidacy, Record, Times

TIMES = Times(duration=60, deadline=40.0, retry=10.0)
NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)


def test_who_comes_first_leads_until_its_deadline() -> None:
    one = Candidacy("one", TIMES)
    one.observe(None, "", 100.0)
    record = one.bid(100.0, NOON)
    assert record == Record("one", 60, NOON, NOON, 0)
    assert not one.leads(100.0)
    one.won(record, "1", sent_at=100.0, now=103.0)
    assert one.leads(139.9)
    assert not one.leads(140.0)


def test_others_wait_for_as_long_as_they_have_seen_no_change() -> None:
    held = Record("one", 60, NOON, NOON, 4)
    two = Candidacy("two", TIMES)
    two.observe(held, "1", 1000.0)
    assert two.bid(1059.9, NOON) is None
    two.observe(held, "2", 1059.9)
    assert two.bid(1119.8, NOON) is None, "it was renewed"
    two.observe(held, "2", 1119.9)
    taken = two.bid(1119.9, NOON)
    assert taken is not None
    assert (taken.holder, taken.transitions) == ("two", 5)


def test_a_lease_that_was_given_back_is_free() -> None:
    one, two = Candidacy("one", TIMES), Candidacy("two", TIMES)
    one.observe(None, "", 0.0)
    record = one.bid(0.0, NOON)
    assert record
    one.won(record, "1", 0.0, 0.0)
    free = one.farewell(NOON)
    assert free
    assert free.holder == ""
    assert not one.leads(0.0)
    two.observe(free, "2", 5.0)
    taken = two.bid(5.0, NOON)
    assert taken
    assert taken.transitions == 1


def test_what_is_not_its_own_is_not_given_back() -> None:
    two = Candidacy("two", TIMES)
    assert two.farewell(NOON) is None
    two.observe(Record("one", 60), "1", 0.0)
    assert two.farewell(NOON) is None


def test_who_sees_another_name_leads_no_more() -> None:
    one = Candidacy("one", TIMES)
    one.observe(None, "", 0.0)
    record = one.bid(0.0, NOON)
    assert record
    one.won(record, "1", 0.0, 0.0)
    one.observe(Record("two", 60, transitions=1), "2", 1.0)
    assert not one.leads(1.0)


def test_who_finds_its_own_name_leads_only_once_it_has_renewed() -> None:
    one = Candidacy("one", TIMES)
    one.observe(Record("one", 60, NOON, NOON, 3), "1", 0.0)
    assert not one.leads(0.0)
    renewed = one.bid(0.0, NOON)
    assert renewed
    assert renewed.transitions == 3


def test_a_lease_that_lasts_for_nonsense_is_not_believed() -> None:
    for duration, until in ((0, 60.0), (-5, 60.0), (10**9, 3600.0)):
        two = Candidacy("two", TIMES)
        two.observe(Record("one", duration), "1", 0.0)
        assert two.bid(until - 0.1, NOON) is None
        assert two.bid(until, NOON)


@dataclass
class Candidate:
    """Looks, bids, and is answered, again and again. Each step takes its time, and answers get lost."""

    core: Candidacy
    offset: float
    """Of its clock."""
    due: float = 0.0
    lost: bool = False
    """The next answer."""

    def steps(self, lease: "Lease") -> Iterator[None]:
        """Each `next` is one step, at the lease's time."""
        while True:
            self.core.observe(lease.record, str(lease.version), lease.now + self.offset)
            version = lease.version
            yield
            sent_at = lease.now + self.offset
            record = self.core.bid(sent_at, NOON)
            yield
            if record and lease.version == version:
                lease.record, lease.version = record, version + 1
                yield
                if not self.lost:
                    self.core.won(record, str(version + 1), sent_at, lease.now + self.offset)
            yield


@dataclass
class Lease:
    record: Record | None = None
    version: int = 0
    now: float = 0.0


@pytest.mark.parametrize("seed", range(20))
def test_there_are_never_two_leaders(seed: int) -> None:
    """A search by chance, since the bad cases are long: it finds each rule of `lease` that is left out."""
    chance = Random(seed)
    for _ in range(20):
        lease = Lease()
        candidates = [Candidate(Candidacy(name, TIMES), chance.uniform(-1e6, 1e6)) for name in "abc"]
        running = [(each, each.steps(lease)) for each in candidates]
        for _ in range(150):
            one, steps = min(running, key=lambda pair: pair[0].due)
            lease.now = one.due
            next(steps)
            leading = [each.core.identity for each in candidates if each.core.leads(lease.now + each.offset)]
            assert len(leading) <= 1
            one.due += chance.choice([0.01, 0.1, 1.0, 10.0, 25.0, 45.0, 61.0])
            one.lost = chance.random() < 0.2
