"""The timelines of the journal: in order, bounded, and still there for a while when the sandbox is gone."""

import asyncio
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import NotFoundError, StartupError
from caa.polling import growing, poll
from caa.sandbox import Event, Journal, Life, Sandbox, Snapshot, State
from caa.sandbox import history as timelines
from caa.sandbox import journal as journals

MARKER = "-----BEGIN EC PRIVATE KEY-----"


def a_sandbox(sandbox_id: str = "s1", slot: int = 0) -> Sandbox:
    return Sandbox(
        id=sandbox_id,
        pod_name="web",
        pod_namespace="default",
        netns="/run/netns/web",
        name=f"podvm-web-{sandbox_id}",
        slot=slot,
        boot_id="boot",
        state=State.CREATING,
        network={"vxlan-id": 555000 + slot},
        holding={"RunInstances": {"UserData": MARKER}},
    )


def event(number: int = 0, **details: str) -> Event:
    return Event(1000.0 + number, "step", f"event {number}", details)


async def told(journal: Journal, sandbox_id: str = "s1") -> Life:
    life = await journal.history(sandbox_id)
    assert life is not None
    return life


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, which a test sets."""
    times = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: times[0])
    return times


async def test_events_come_back_in_order(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        journal.note("s1", event(1, instance="i-1"))
        journal.note("s1", Event(1001.5, "call", "RunInstances", {"request id": "8F3A", "outcome": "ok"}))
        await journal.put(a_sandbox("s2", 1))
        journal.note("s2", event(9))
        journal.note("s1", event(2))
        life = await told(journal)
        assert [each.text for each in life.events] == ["event 1", "RunInstances", "event 2"]
        assert life.events[1].details == {"request id": "8F3A", "outcome": "ok"}
        assert (await told(journal, "s2")).events == (event(9),)


def test_events_outlive_the_daemon(tmp_path: Path) -> None:
    async def live() -> None:
        with Journal(tmp_path) as journal:
            await journal.put(a_sandbox())
            journal.note("s1", event())

    asyncio.run(live())
    with Snapshot(tmp_path) as snapshot:
        life = snapshot.history("s1")
    assert life is not None
    assert life.events == (event(),)


async def test_an_event_alone_is_written_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_NOTES_WAIT", 0.01)
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        journal.note("s1", event())

        async def written() -> tuple[bool | None, str]:
            with Snapshot(tmp_path) as snapshot:
                life = snapshot.history("s1")
            assert life is not None
            return bool(life.events) or None, "no event"

        await poll(written, what="the event", pauses=growing(0.01), timeout=10)


async def test_an_event_is_lost_rather_than_a_record(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        journal.note("s1", Event(float("nan"), "note", "at no time"))
        journal.note("s1", Event(1.0, "note", object()))  # type: ignore[arg-type]  # a fault of ours
        journal.note("nobody", event(3))
        journal.note("s1", event(4))
        await journal.put(a_sandbox().move(State.CREATED))
        life = await told(journal)
        assert life.sandbox.state is State.CREATED
        assert life.events == (event(4),)


async def test_a_record_that_can_not_be_written_costs_no_events(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        journal.note("s1", event())
        with pytest.raises(sqlite3.IntegrityError):
            await journal.put(a_sandbox("s2", slot=0))
        assert (await told(journal)).events == (event(),)


async def test_events_may_come_from_any_thread(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        threads = [threading.Thread(target=journal.note, args=("s1", event(n))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len((await told(journal)).events) == 8


def test_an_event_after_the_end_is_no_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    journal.note("s1", event())


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=20))
def test_an_event_is_bounded(text: str, details: dict[str, str]) -> None:
    kept = Event(0.0, "note", text * 3000, {name * 300: value * 300 for name, value in details.items()})
    kept = kept.bounded()
    assert len(kept.text) <= 2000
    assert len(kept.details) <= 8
    assert all(len(word) <= 200 for pair in kept.details.items() for word in pair)
    kept.text.encode()


@pytest.mark.parametrize("count", [0, 1, 249, 250, 251, 252, 400])
async def test_a_timeline_keeps_its_beginning_and_its_end(tmp_path: Path, count: int) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        for number in range(count):
            journal.note("s1", event(number))
        life = await told(journal)
    everything = [event(number) for number in range(count)]
    if count <= 250:
        assert list(life.events) == everything
        assert life.left_out == 0
    else:
        assert list(life.events) == everything[:50] + everything[-200:]
        assert life.left_out == count - 250


async def test_times_of_a_life(tmp_path: Path, now: list[float]) -> None:
    with Journal(tmp_path) as journal:
        began = now[0]
        await journal.put(a_sandbox())
        now[0] += 1
        await journal.put(a_sandbox().learn(instance_id="i-1"))
        assert (await told(journal)).since == began, "it is in the same state"
        now[0] += 1
        await journal.put(a_sandbox().move(State.CREATED))
        assert (await told(journal)).since == began + 2
        now[0] += 1
        await journal.forget("s1")
        life = await told(journal)
        assert (life.began, life.ended) == (began, began + 3)


async def test_one_that_is_gone_can_still_be_asked_for(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        journal.note("s1", Event(1.0, "error", "RunInstances: OperationDenied.NoStock"))
        gone = a_sandbox().move(State.STOPPING, error="no stock", instance_id="i-1", addresses=("10.0.0.9",))
        await journal.put(gone)
        await journal.forget("s1")
        journal.note("s1", event(7))
        assert journal.read() == []
        life = await told(journal)
        assert life.sandbox == gone.learn(holding={})
        assert life.error == "RunInstances: OperationDenied.NoStock"
        assert [each.text for each in life.events][-1] == "event 7"
        assert [each.sandbox.id for each in await journal.lives()] == ["s1"]
        assert await journal.history("s2") is None


async def test_a_new_life_under_the_same_id(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        journal.note("s1", event(1))
        await journal.forget("s1")
        journal.note("s1", event(2))  # the first life's very end
        await journal.put(a_sandbox())
        journal.note("s1", event(3))
        assert (await told(journal)).events == (event(3),)
        alive, past = await journal.lives()
        assert (alive.ended, past.ended is not None) == (None, True)


async def test_what_is_told_never_has_the_holding(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(a_sandbox())
        await journal.put(a_sandbox("s2", 1))
        assert MARKER not in repr([await told(journal), await journal.lives()])
        await journal.forget("s1")
        assert MARKER not in repr([await told(journal), await journal.lives()])
        with Snapshot(tmp_path) as snapshot:
            assert MARKER not in repr([snapshot.lives(), snapshot.history("s2")])
        kept = journal._database.execute("SELECT record FROM lives WHERE ended IS NOT NULL").fetchall()
        assert len(kept) == 1
        assert MARKER not in kept[0][0]


async def test_past_ones_are_kept_for_a_week_and_not_too_many(
    tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "PAST_KEPT", 3)
    with Journal(tmp_path) as journal:
        for number in range(5):
            await journal.put(a_sandbox(f"s{number}", number))
            journal.note(f"s{number}", event())
            await journal.forget(f"s{number}")
        await journal.put(a_sandbox("alive", 9))
        assert [life.sandbox.id for life in await journal.lives()] == ["alive", "s4", "s3", "s2"]
        assert journal._database.execute("SELECT count(DISTINCT life) FROM events").fetchone() == (3,)
        now[0] += timelines.PAST_SECONDS + 1
        await journal.put(a_sandbox("last", 1))
        await journal.forget("last")
        assert [life.sandbox.id for life in await journal.lives()] == ["alive", "last"]


def test_a_snapshot_of_a_killed_daemons_journal(tmp_path: Path) -> None:
    """What such a daemon leaves is a database with a write-ahead log that nobody has put into it."""

    async def live() -> None:
        with Journal(tmp_path / "state") as journal:
            await journal.put(a_sandbox())
            journal.note("s1", event())
            await journal.put(a_sandbox().move(State.CREATED))
            (tmp_path / "left").mkdir()
            for name in ("journal.db", "journal.db-wal"):
                shutil.copy(tmp_path / "state" / name, tmp_path / "left" / name)

    asyncio.run(live())
    assert (tmp_path / "left" / "journal.db-wal").stat().st_size > 0
    with Snapshot(tmp_path / "left") as snapshot:
        [life] = snapshot.lives()
        assert life.sandbox.state is State.CREATED
        told = snapshot.history("s1")
    assert told is not None
    assert told.events == (event(),)


def test_a_snapshot_needs_a_journal(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no journal in .*--state-dir"):
        Snapshot(tmp_path)
    (tmp_path / "journal.db").write_text("no database" * 200)
    with pytest.raises(StartupError, match="can't read the journal"):
        Snapshot(tmp_path)
    assert not (tmp_path / "lock").exists()
