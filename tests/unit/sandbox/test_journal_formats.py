"""A journal of an earlier version becomes one of this version, whole or not at all."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from caa.errors import StartupError
from caa.sandbox import Journal, Snapshot, State
from caa.sandbox.schema import SCHEMA_VERSION

VERSION_1 = """
CREATE TABLE sandboxes (
    id     TEXT PRIMARY KEY,
    slot   INTEGER NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT
"""

PLAN = {"RunInstances": {"ClientToken": "caa-1", "InstanceName": "podvm-web-s1"}}

STARTING = {
    "id": "s1",
    "pod_name": "web",
    "pod_namespace": "default",
    "netns": "/run/netns/web",
    "name": "podvm-web-s1",
    "slot": 0,
    "boot_id": "boot",
    "state": "starting",
    "network": {"podip": "10.0.0.5/24", "vxlan-id": 555000},
    "plan": PLAN,
    "launched": True,
    "instance_id": "",
    "addresses": [],
    "error": "",
}

RUNNING = STARTING | {
    "id": "s2",
    "slot": 3,
    "state": "running",
    "plan": None,
    "instance_id": "i-2",
    "addresses": ["10.0.0.9"],
}


def write_version_1(folder: Path, *records: str) -> None:
    """As the first version wrote it."""
    with closing(sqlite3.connect(folder / "journal.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("BEGIN")
        database.execute(VERSION_1)
        database.execute("PRAGMA application_id = 1667326257")
        database.execute("PRAGMA user_version = 1")
        for number, record in enumerate(records):
            database.execute("INSERT INTO sandboxes VALUES (?, ?, ?)", (f"s{number + 1}", number, record))
        database.execute("COMMIT")


def version_of(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.db")) as database:
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        return version


def test_the_sandboxes_of_version_1_live_on(tmp_path: Path) -> None:
    write_version_1(tmp_path, json.dumps(STARTING), json.dumps(RUNNING))
    with Journal(tmp_path) as journal:
        starting, running = journal.read()
    assert starting.state is State.STARTING
    assert starting.holding == {"version1": {"plan": PLAN, "launched": True, "instance_id": ""}}
    assert running.state is State.RUNNING
    assert running.holding == {"version1": {"plan": None, "launched": True, "instance_id": "i-2"}}
    assert (running.instance_id, running.addresses, running.slot) == ("i-2", ("10.0.0.9",), 3)
    assert version_of(tmp_path) == SCHEMA_VERSION


async def test_what_version_1_did_not_write_down_is_unknown(tmp_path: Path) -> None:
    write_version_1(tmp_path, json.dumps(STARTING))
    with Journal(tmp_path) as journal:
        [starting] = journal.read()
        life = await journal.history("s1")
        assert life is not None
        assert (life.began, life.since, life.ended, life.events) == (None, None, None, ())
        await journal.put(starting.move(State.STOPPING))
        life = await journal.history("s1")
        assert life is not None
        assert life.began is None
        assert life.since is not None


def test_migration_is_whole_or_does_not_happen(tmp_path: Path) -> None:
    write_version_1(tmp_path, json.dumps(STARTING), '{"half": ')
    with pytest.raises(StartupError, match="record of sandbox s2"):
        Journal(tmp_path)
    assert version_of(tmp_path) == 1
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        assert [
            name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ] == ["sandboxes"]
        assert json.loads(database.execute("SELECT record FROM sandboxes").fetchone()[0]) == STARTING


def test_a_snapshot_reads_version_1_and_leaves_it_alone(tmp_path: Path) -> None:
    write_version_1(tmp_path, json.dumps(RUNNING | {"id": "s1"}))
    before = (tmp_path / "journal.db").read_bytes()
    with Snapshot(tmp_path) as snapshot:
        [life] = snapshot.lives()
    assert life.sandbox.instance_id == "i-2"
    assert (tmp_path / "journal.db").read_bytes() == before


def test_a_migrated_journal_is_like_a_new_one(tmp_path: Path) -> None:
    def tables(folder: Path) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(folder / "journal.db")) as database:
            return database.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()

    (tmp_path / "old").mkdir()
    write_version_1(tmp_path / "old")
    Journal(tmp_path / "old").close()
    Journal(tmp_path / "new").close()

    def words(listed: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
        return [(name, (sql or "").split()) for name, sql in listed]

    assert words(tables(tmp_path / "old")) == words(tables(tmp_path / "new"))
