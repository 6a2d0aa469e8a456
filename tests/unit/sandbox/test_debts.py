"""What is owed to the cluster is in the journal with what it comes of, until it is paid."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from caa.errors import StartupError
from caa.sandbox import Debt, Journal, Sandbox, State
from caa.sandbox.schema import SCHEMA_VERSION

SANDBOX = Sandbox(
    id="s1",
    pod_name="web",
    pod_namespace="default",
    netns="/run/netns/web",
    name="podvm-web-s1",
    slot=0,
    boot_id="boot",
    state=State.STARTING,
    network={},
    holding={},
    instance_id="i-1",
    pod_uid="uid",
    peer_pod="web-resource-aaaaa",
)
CLAIM = Debt(
    kind="claim",
    namespace="default",
    name="web-resource-aaaaa",
    pod="web",
    pod_uid="uid",
    instance_id="i-1",
    sandbox="s1",
    since=1.5,
)
DISCLAIM = replace(CLAIM, kind="disclaim", since=2.5)


async def test_debts_outlive_the_sandbox_and_the_daemon(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert await journal.debts() == []
        await journal.put(SANDBOX, CLAIM)
    with Journal(tmp_path) as journal:
        assert journal.read() == [SANDBOX]
        assert await journal.debts() == [CLAIM]
        await journal.forget("s1", DISCLAIM)
    with Journal(tmp_path) as journal:
        assert journal.read() == []
        assert await journal.debts() == [DISCLAIM]  # in place of the claim: it need not be made any more
        await journal.paid(DISCLAIM)
    with Journal(tmp_path) as journal:
        assert await journal.debts() == []


async def test_payment_of_a_debt_that_was_replaced_leaves_the_present_one(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(SANDBOX, CLAIM)
        await journal.forget("s1", DISCLAIM)
        await journal.paid(CLAIM)
        assert await journal.debts() == [DISCLAIM]


async def test_objects_have_a_debt_each(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        others = [replace(CLAIM, name="web-resource-bbbbb"), replace(CLAIM, namespace="team")]
        for debt in (CLAIM, *others):
            await journal.put(SANDBOX, debt)
        await journal.paid(CLAIM)
        assert sorted(await journal.debts(), key=repr) == sorted(others, key=repr)


async def test_put_without_a_debt_leaves_those_that_there_are(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(SANDBOX, CLAIM)
        await journal.put(SANDBOX.move(State.STOPPING))
        await journal.forget("s1")
        assert await journal.debts() == [CLAIM]


async def test_record_and_debt_are_written_both_or_neither(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(SANDBOX)
        journal._database.execute("DROP TABLE debts")
        with pytest.raises(sqlite3.Error):
            await journal.forget("s1", DISCLAIM)
        assert journal.read() == [SANDBOX]


@pytest.mark.parametrize("record", ["{}", "[]", "half", '{"kind": "claim"}'])
async def test_debt_that_cant_be_read(tmp_path: Path, record: str) -> None:
    with Journal(tmp_path) as journal:
        journal._database.execute("INSERT INTO debts VALUES ('default', 'x', ?)", (record,))
        with pytest.raises(StartupError, match="debts"):
            await journal.debts()


async def test_sandboxes_of_version_2_live_on_and_owe_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.put(SANDBOX)
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as database:
        database.execute("DROP TABLE debts")
        database.execute(
            "UPDATE sandboxes SET record = json_remove(record, '$.pod_uid', '$.peer_pod')",
        )
        database.execute("PRAGMA user_version = 2")
    with Journal(tmp_path) as journal:
        assert journal.read() == [SANDBOX.learn(pod_uid="", peer_pod="")]
        assert await journal.debts() == []
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
