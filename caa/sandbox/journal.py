"""The journal: every sandbox of this node, on disk before and after each side effect.

SQLite in WAL mode with full synchronisation, so that an intent that was written is there after a power
cut too. One thread of its own does the writing, since a write waits for the disk and the event loop must
not; it does all in the order in which it was asked for. The records are read once, at start; after that
those in memory are what counts.
"""

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog

from caa.errors import NotFoundError, StartupError
from caa.sandbox import debts, history
from caa.sandbox.debts import Debt
from caa.sandbox.history import Event, Life
from caa.sandbox.record import Sandbox
from caa.sandbox.schema import prepare, unreadable

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_NOTES_WAIT = 1.0
"""Seconds that an event waits at most for a record to be written with."""

_MOST_WAITING = 10_000
"""Events and writes that wait for the disk; beyond that, events are dropped."""


@dataclass(frozen=True)
class _Note:
    sandbox_id: str
    event: Event


@dataclass(frozen=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


class Journal:
    """The records of `folder`/journal.db. Opened by one daemon at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or make the journal.

        Raises StartupError if the folder can't be used, another daemon has it, the file is not a journal,
        or a newer version wrote it (it is left as it is then).
        """
        self._closing = ExitStack()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock(folder / "lock")
            path = folder / "journal.db"
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._closing.callback(self._database.close)
            prepare(self._database, path)
            for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._database.execute(f"PRAGMA {setting}")
        except OSError as error:
            self._closing.close()
            raise StartupError(
                f"can't use the state folder {folder}: {error.strerror}; make it writable for this user or"
                " give another with --state-dir (CAA_STATE_DIR)"
            ) from error
        except sqlite3.Error as error:
            self._closing.close()
            raise StartupError(
                f"can't read the journal {folder}/journal.db: {error}; if it can't be restored, move it away"
                " and delete what is left of its pods by hand: instances named podvm-*"
            ) from error
        except BaseException:
            self._closing.close()
            raise
        self._waiting: queue.SimpleQueue[_Note | _Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()
        self._closing.callback(self._writer.join)
        self._closing.callback(self._waiting.put, None)

    def _lock(self, path: Path) -> None:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._closing.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"another daemon uses the state folder {path.parent}; stop it, or give this one its own with"
                " --state-dir (CAA_STATE_DIR)"
            ) from None

    def read(self) -> list[Sandbox]:
        """All sandboxes, as they were last put. Raises StartupError if one can't be read."""
        sandboxes = []
        for sandbox_id, text in self._database.execute("SELECT id, record FROM sandboxes ORDER BY slot"):
            try:
                sandboxes.append(Sandbox.from_json(text))
            except (ValueError, TypeError, KeyError) as error:
                raise unreadable(sandbox_id, error) from error
        return sandboxes

    async def put(self, sandbox: Sandbox, owing: Debt | None = None) -> None:
        """Write the record, and what is owed from now on; it is on disk when this returns."""
        now = time.time()

        def work(database: sqlite3.Connection) -> None:
            database.execute(
                "INSERT INTO sandboxes (id, slot, record) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET slot = excluded.slot, record = excluded.record",
                (sandbox.id, sandbox.slot, sandbox.to_json()),
            )
            history.note_state(database, sandbox, now)
            if owing:
                debts.owe(database, owing)

        await self._do(work)

    async def forget(self, sandbox_id: str, owing: Debt | None = None) -> None:
        """Remove the record; what an operator may ask of it later goes to the past ones, and what it leaves
        owed stays.
        """
        now = time.time()

        def work(database: sqlite3.Connection) -> None:
            history.note_end(database, sandbox_id, now)
            database.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))
            if owing:
                debts.owe(database, owing)

        await self._do(work)

    async def debts(self) -> list[Debt]:
        """All that is owed. Raises StartupError if it can't be read."""
        try:
            return await self._do(debts.owed)
        except ValueError as error:
            raise StartupError(f"the journal's list of debts can't be read: {error!r}") from error

    async def paid(self, debt: Debt) -> None:
        """Strike it out, unless another has taken its place."""
        await self._do(lambda database: debts.pay(database, debt))

    def note(self, sandbox_id: str, event: Event) -> None:
        """Add to the sandbox's timeline, from any thread. Never waits and never fails: it is written with the
        next record, or within about a second, and is lost if this process is killed before.
        """
        if self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put(_Note(sandbox_id, event))

    async def lives(self) -> list[Life]:
        """All sandboxes that live, by slot, then those that have ended, the last first. Without events."""
        return await self._do(history.lives)

    async def history(self, sandbox_id: str) -> Life | None:
        """The sandbox with its timeline: the present life or, if it has ended, the last that is kept."""
        return await self._do(lambda database: history.history(database, sandbox_id))

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # A cancelled caller must not leave it open whether the write is yet to come: what the journal
        # holds has to be in the order in which it was asked for, and that is what the one thread gives.
        done: Future[T] = Future()
        self._waiting.put(_Job(work, done))
        return await asyncio.wrap_future(done)

    def _write(self) -> None:
        """The writer thread. Events wait for a job, and are then written in its transaction, before it."""
        notes: list[_Note] = []
        due = 0.0
        while True:
            try:
                patience = max(0.0, due - time.monotonic()) if notes else None
                item = self._waiting.get(timeout=patience)
            except queue.Empty:
                self._append(notes)
                notes = []
                continue
            match item:
                case _Note():
                    due = due if notes else time.monotonic() + _NOTES_WAIT
                    notes.append(item)
                case _Job(work, done):
                    if self._perform(work, done, notes):
                        notes = []
                case None:
                    self._append(notes)
                    return

    def _perform(
        self, work: Callable[[sqlite3.Connection], Any], done: Future[Any], notes: list[_Note]
    ) -> bool:
        """Do a job, with the events that wait; whether those are off our hands."""
        if not done.set_running_or_notify_cancel():
            return False
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                _append(self._database, notes)
                result = work(self._database)
        except BaseException as error:  # noqa: BLE001  for whoever waits for it
            done.set_exception(error)
            return False
        done.set_result(result)
        return True

    def _append(self, notes: list[_Note]) -> None:
        """Write events alone. A disk that refuses costs only them."""
        if notes:
            done: Future[None] = Future()
            if not self._perform(lambda _: None, done, notes):
                _log.warning("events of sandboxes were lost", count=len(notes), error=str(done.exception()))

    def close(self) -> None:
        """Write what is on its way and release the folder."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _append(database: sqlite3.Connection, notes: list[_Note]) -> None:
    """An event that can't be written must not keep a record from being written."""
    for note in notes:
        database.execute("SAVEPOINT event")
        try:
            history.append(database, note.sandbox_id, note.event.bounded())
        except Exception as error:  # noqa: BLE001  see above
            database.execute("ROLLBACK TO event")
            _log.warning("an event of a sandbox was lost", sandbox=note.sandbox_id, error=repr(error))
        database.execute("RELEASE event")


class Snapshot:
    """What a journal says at this moment, without opening it for work or changing it: for a command that
    runs beside a daemon, or after its end. Reads journals of earlier formats too.
    """

    def __init__(self, folder: Path) -> None:
        """Raises NotFoundError if there is no journal, and StartupError if it can't be read."""
        path = folder / "journal.db"
        if not path.is_file():
            raise NotFoundError(
                f"there is no journal in {folder}: no daemon has run with this state folder; give the"
                " daemon's with --state-dir (CAA_STATE_DIR)"
            )
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        try:
            source = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True)
            try:
                source.backup(self._database)
            finally:
                source.close()
            prepare(self._database, path)
        except sqlite3.Error as error:
            self._database.close()
            raise StartupError(f"can't read the journal {path}: {error}") from error
        except BaseException:
            self._database.close()
            raise

    def lives(self) -> list[Life]:
        return history.lives(self._database)

    def history(self, sandbox_id: str) -> Life | None:
        return history.history(self._database, sandbox_id)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
