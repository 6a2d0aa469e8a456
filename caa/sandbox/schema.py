"""The journal's tables, and how those of an earlier format become those of this one."""

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from caa.errors import StartupError

_APPLICATION_ID = 0x63616131
"""In `PRAGMA application_id`: "caa1"."""


def _records(database: sqlite3.Connection) -> None:
    database.execute("""
        CREATE TABLE sandboxes (
            id     TEXT PRIMARY KEY,
            slot   INTEGER NOT NULL UNIQUE,
            record TEXT NOT NULL
        ) STRICT""")


def _history(database: sqlite3.Connection) -> None:
    database.execute("""
        CREATE TABLE lives (
            number  INTEGER PRIMARY KEY,
            sandbox TEXT NOT NULL,
            state   TEXT NOT NULL,
            began   REAL, -- null: before this format
            since   REAL, -- in its state
            ended   REAL, -- null: it is among the sandboxes
            record  TEXT  -- of one that has ended
        ) STRICT""")
    database.execute("CREATE UNIQUE INDEX alive ON lives (sandbox) WHERE ended IS NULL")
    database.execute("""
        CREATE TABLE events (
            life    INTEGER NOT NULL REFERENCES lives ON DELETE CASCADE,
            number  INTEGER NOT NULL,
            at      REAL NOT NULL,
            kind    TEXT NOT NULL,
            text    TEXT NOT NULL,
            details TEXT NOT NULL,
            PRIMARY KEY (life, number)
        ) STRICT, WITHOUT ROWID""")
    _rewrite(database, _with_holding)
    database.execute(
        "INSERT INTO lives (sandbox, state) SELECT id, json_extract(record, '$.state') FROM sandboxes"
    )


def _with_holding(record: dict[str, Any]) -> None:
    """What is known of the cloud's part became the provider's business."""
    record["holding"] = {
        "version1": {
            "plan": record.pop("plan"),
            "launched": record.pop("launched"),
            "instance_id": record["instance_id"],
        }
    }


def _debts(database: sqlite3.Connection) -> None:
    database.execute("""
        CREATE TABLE debts (
            namespace TEXT NOT NULL,
            name      TEXT NOT NULL,
            record    TEXT NOT NULL,
            PRIMARY KEY (namespace, name)
        ) STRICT, WITHOUT ROWID""")


_STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = MappingProxyType(
    {1: _records, 2: _history, 3: _debts}
)
"""By format, what makes it out of the one before. Never changed once it was released: a new one is added."""

SCHEMA_VERSION = max(_STEPS)
"""The format of this version, in `PRAGMA user_version`."""


def prepare(database: sqlite3.Connection, path: Path) -> None:
    """Bring the journal to the present format, in one transaction. `path` is what it is called in errors.

    Raises StartupError if it is something else, or was written by a newer version; it is left alone then.
    """
    application = _pragma(database, "application_id")
    version = _pragma(database, "user_version")
    tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
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
    if version < SCHEMA_VERSION:
        with database:
            database.execute("BEGIN IMMEDIATE")
            for number in range(version + 1, SCHEMA_VERSION + 1):
                _STEPS[number](database)
            database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _pragma(database: sqlite3.Connection, name: str) -> int:
    value: int = database.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _rewrite(database: sqlite3.Connection, change: Callable[[dict[str, Any]], None]) -> None:
    for sandbox_id, text in database.execute("SELECT id, record FROM sandboxes").fetchall():
        try:
            record = json.loads(text)
            change(record)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise unreadable(sandbox_id, error) from error
        database.execute(
            "UPDATE sandboxes SET record = ? WHERE id = ?",
            (json.dumps(record, separators=(",", ":")), sandbox_id),
        )


def unreadable(sandbox_id: str, error: Exception) -> StartupError:
    return StartupError(f"the journal's record of sandbox {sandbox_id} can't be read: {error!r}")
