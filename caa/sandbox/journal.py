"""The journal: every sandbox of this node, on disk before and after each side effect.

SQLite in WAL mode with full synchronisation, so that an intent that was written is there after a power
cut too. One thread of its own does the writing, since a write waits for the disk and the event loop must
not. Reading happens once, at start; after that the records in memory are what counts.
"""

import asyncio
import fcntl
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from caa.errors import StartupError
from caa.sandbox.record import Sandbox

T = TypeVar("T")

SCHEMA_VERSION = 1
"""In `PRAGMA user_version`. A change of the schema raises it and brings a migration in `_migrate`."""

_APPLICATION_ID = 0x63616131
"""In `PRAGMA application_id`: "caa1"."""

_SCHEMA = """
CREATE TABLE sandboxes (
    id     TEXT PRIMARY KEY,
    slot   INTEGER NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT
"""


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
            self._prepare(path)
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
        self._writer = ThreadPoolExecutor(1, "journal")
        self._closing.callback(self._writer.shutdown)

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

    def _prepare(self, path: Path) -> None:
        application = self._value("PRAGMA application_id")
        version = self._value("PRAGMA user_version")
        tables = self._value("SELECT count(*) FROM sqlite_schema")
        if application != _APPLICATION_ID and (application or version or tables):
            raise StartupError(
                f"{path} is a database, but not a journal of caa; give another folder with --state-dir"
                " (CAA_STATE_DIR)"
            )
        if version > SCHEMA_VERSION:
            raise StartupError(
                f"the journal {path} was written by a newer caa (format {version}, this one knows up to"
                f" {SCHEMA_VERSION}); run that version, or a newer one. Nothing was changed"
            )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if version == 0:
            with self._database:
                self._database.execute("BEGIN")
                self._database.execute(_SCHEMA)
                self._database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _value(self, query: str) -> Any:
        return self._database.execute(query).fetchone()[0]

    def read(self) -> list[Sandbox]:
        """All sandboxes, as they were last put. Raises StartupError if one can't be read."""
        sandboxes = []
        for sandbox_id, text in self._database.execute("SELECT id, record FROM sandboxes ORDER BY slot"):
            try:
                sandboxes.append(Sandbox.from_json(text))
            except (ValueError, TypeError, KeyError) as error:
                raise StartupError(
                    f"the journal's record of sandbox {sandbox_id} can't be read: {error}"
                ) from error
        return sandboxes

    async def put(self, sandbox: Sandbox) -> None:
        """Write the record; it is on disk when this returns."""
        await self._write(
            "INSERT INTO sandboxes (id, slot, record) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET slot = excluded.slot, record = excluded.record",
            (sandbox.id, sandbox.slot, sandbox.to_json()),
        )

    async def forget(self, sandbox_id: str) -> None:
        await self._write("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))

    async def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        def write() -> None:
            self._database.execute(statement, values)

        # A cancelled caller must not leave it open whether the write is yet to come: what the journal
        # holds has to be in the order in which it was asked for, and that is what the one thread gives.
        await asyncio.get_running_loop().run_in_executor(self._writer, write)

    def close(self) -> None:
        """Write what is on its way and release the folder."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
