"""The real daemon, with a journal that another version has written."""

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from caa.demo import CAA, Child
from caa.errors import CaaError
from caa.fakecloud import Fault
from caa.polling import growing, poll
from caa.proto import agent_pb2 as agent
from caa.ttrpc import Client

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root


def as_version_1(record: dict[str, Any]) -> dict[str, Any]:
    """A sandbox's record as the first version wrote it: it knew of an instance, or of its request."""
    instance = record.pop("holding")["resources"]["instance"]
    plan = {"RunInstances": instance["request"]} if instance["request"] else None
    for later in ("pod_uid", "peer_pod"):
        del record[later]
    return record | {"plan": plan, "launched": True}


def rewrite_as_version_1(node: "Node") -> None:
    with closing(sqlite3.connect(node.journal)) as journal:
        rows = journal.execute("SELECT id, slot, record FROM sandboxes").fetchall()
    for file in node.journal.parent.glob("journal.db*"):
        file.unlink()
    with closing(sqlite3.connect(node.journal, isolation_level=None)) as journal:
        journal.execute("PRAGMA journal_mode = WAL")
        journal.execute(
            "CREATE TABLE sandboxes"
            " (id TEXT PRIMARY KEY, slot INTEGER NOT NULL UNIQUE, record TEXT NOT NULL) STRICT"
        )
        journal.execute("PRAGMA application_id = 1667326257")
        journal.execute("PRAGMA user_version = 1")
        for sandbox, slot, text in rows:
            record = json.dumps(as_version_1(json.loads(text)))
            journal.execute("INSERT INTO sandboxes VALUES (?, ?, ?)", (sandbox, slot, record))


async def test_the_first_versions_pods_live_on_and_what_it_left_half_made_is_removed(node: "Node") -> None:
    web, half = node.shim(), node.shim()
    async with node.daemon() as daemon, web, half:
        for name, shim in (("web", web), ("half", half)):
            netns, _ = await node.worker.add_pod(name)
            await shim.create_vm(pod=name, namespace="default", netns=netns)
        await web.start_vm()
        [runs] = node.instance_ids
        node.cloud.faults.add(Fault(action="RunInstances", when="after", delay=60))
        starting = asyncio.create_task(half.start_vm())

        async def took_effect() -> tuple[bool | None, str]:
            return (len(node.instance_ids) == 2) or None, "one instance"

        await poll(took_effect, what="RunInstances to take effect", pauses=growing(0.02), timeout=30)
        daemon.process.kill()
        with pytest.raises(CaaError):
            await starting
    rewrite_as_version_1(node)

    async with node.daemon():

        async def undone() -> tuple[bool | None, str]:
            left = node.journal_rows(), node.instance_ids
            return (left == ([web.sandbox_id], [runs])) or None, str(left)

        await poll(undone, what="the half made one to go", pauses=growing(0.05, longest=0.3), timeout=40)
        assert node.ever_created == 2
        async with await Client.connect_unix(node.pods_dir / web.sandbox_id / "agent.ttrpc") as client:
            health = await client.call(
                "grpc.Health", "Check", agent.CheckRequest(), agent.HealthCheckResponse, timeout=30
            )
        assert health.status == agent.HealthCheckResponse.SERVING
        await node.worker.ping(node.worker.address_of("web"), timeout=10)
        await web.stop_vm()
        await node.nothing_is_left("web")


async def test_a_newer_versions_journal_is_refused_and_not_touched(node: "Node") -> None:
    node.journal.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(node.journal, isolation_level=None)) as journal:
        journal.execute("CREATE TABLE sandboxes (of TEXT, another TEXT, shape TEXT)")
        journal.execute("PRAGMA application_id = 1667326257")
        journal.execute("PRAGMA user_version = 99")
    before = node.journal.read_bytes()
    log = node.folder / "refused.log"
    command = (*CAA, "alibabacloud")
    async with Child.running(command, log, environ=node.environ, netns=node.worker.netns) as daemon:
        async with asyncio.timeout(60):
            assert await daemon.process.wait() == 1
    assert "was written by a newer caa (format 99" in log.read_text()
    assert "Nothing was changed" in log.read_text()
    assert node.journal.read_bytes() == before
    assert [file.name for file in node.journal.parent.glob("journal.db*")] == ["journal.db"]
