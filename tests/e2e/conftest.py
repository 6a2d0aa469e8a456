"""One node with the local cloud around it: the real commands run in the node's network namespace."""

import os
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import pytest

from caa.demo import CAA, Child, Stage, WorkerNode
from caa.fakecloud import Instance, LocalCloud, Order
from caa.polling import growing, poll
from caa.sandbox import Step


class Node(Stage):
    """A stage that tests can ask what is left on it."""

    def __init__(self, worker: WorkerNode, cloud: LocalCloud, folder: Path) -> None:
        super().__init__(worker, cloud, folder)
        self.ever_created = 0
        create = cloud.instances.create

        def counted(order: Order) -> Instance:
            self.ever_created += 1
            return create(order)

        cloud.instances.create = counted  # type: ignore[method-assign]  # what no API call tells

    def daemon_with(self, *flags: str) -> AbstractAsyncContextManager[Child]:
        return self.daemon((*CAA, "alibabacloud", *flags))

    def mortal_daemon(self, dies_at: Step) -> AbstractAsyncContextManager[Child]:
        script = Path(__file__).with_name("mortal_daemon.py")
        return self.daemon((sys.executable, str(script), str(dies_at.value)))

    def journal_rows(self) -> list[str]:
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as journal:
            return [row[0] for row in journal.execute("SELECT id FROM sandboxes")]

    async def nothing_is_left(self, pod: str) -> None:
        """Wait until the cloud and the journal are empty, then look at what has to be gone by then."""

        async def emptied() -> tuple[bool | None, str]:
            there, rows = self.cloud.leftovers(), self.journal_rows()
            return (not there and not rows) or None, f"cloud {there}, journal {rows}"

        await poll(emptied, what="cloud and journal to be empty", pauses=growing(0.05, 1.5, 0.3), timeout=40)
        devices = await self.worker.devices(pod)
        assert set(devices) == {"lo", "eth0"}
        assert "ingress" not in devices["eth0"]
        assert await self.worker.nft_tables() == []
        assert [path.name for path in self.pods_dir.glob("*")] == []


@pytest.fixture
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    name = f"caat-{os.getpid()}-{uuid.uuid4().hex[:4]}"
    async with Node.up(name, tmp_path_factory.mktemp("n")) as node:
        yield node
