"""One node with the local cloud around it: the real commands run in the node's network namespace."""

import os
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from caa.demo import CAA, Child, Shim, WorkerNode
from caa.fakecloud import FakeCloudSettings, Instance, LocalCloud, Order
from caa.polling import growing, poll


class Node:
    """A worker node, the local cloud, and a state folder that outlives daemons."""

    def __init__(self, worker: WorkerNode, cloud: LocalCloud, folder: Path) -> None:
        self.worker = worker
        self.cloud = cloud
        self.folder = folder
        self.socket = folder / "hypervisor.sock"
        self.grpc_socket = folder / "grpc.sock"
        self.pods_dir = folder / "pods"
        self.journal = folder / "state" / "journal.db"
        self._daemons = 0
        self.ever_created = 0
        create = cloud.instances.create

        def counted(order: Order) -> Instance:
            self.ever_created += 1
            return create(order)

        cloud.instances.create = counted  # type: ignore[method-assign]  # what no API call tells

    @property
    def instance_ids(self) -> list[str]:
        return [instance.id for instance in self.cloud.instances]

    def environ(self) -> Mapping[str, str]:
        return {
            **self.cloud.environment,
            "REMOTE_HYPERVISOR_ENDPOINT": str(self.socket),
            "HYPERVISOR_GRPC_ENDPOINT": str(self.grpc_socket),
            "PODS_DIR": str(self.pods_dir),
            "CAA_STATE_DIR": str(self.folder / "state"),
            "LOG_FORMAT": "json",
        }

    def daemon(self, *flags: str, dies_at: int | None = None) -> AbstractAsyncContextManager[Child]:
        self._daemons += 1
        mortal = (sys.executable, str(Path(__file__).with_name("mortal_daemon.py")), str(dies_at))
        command = (*CAA, "alibabacloud", *flags) if dies_at is None else mortal
        log = self.folder / f"daemon-{self._daemons}.log"
        return Child.running(command, log, environ=self.environ(), netns=self.worker.netns)

    def shim(self) -> Shim:
        return Shim(self.socket, uuid.uuid4().hex)

    async def pod(self, name: str) -> tuple[Path, IPv4Address]:
        return await self.worker.add_pod(name)

    def journal_rows(self) -> list[str]:
        with sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True) as journal:
            return [row[0] for row in journal.execute("SELECT id FROM sandboxes")]

    async def nothing_is_left(self, pod: str) -> None:
        """Wait until the cloud and the journal are empty, then look at what has to be gone by then."""

        async def emptied() -> tuple[bool | None, str]:
            instances, rows = self.instance_ids, self.journal_rows()
            return (not instances and not rows) or None, f"instances {instances}, journal {rows}"

        await poll(emptied, what="cloud and journal to be empty", pauses=growing(0.05, 1.5, 0.3), timeout=40)
        devices = await self.worker.devices(pod)
        assert set(devices) == {"lo", "eth0"}
        assert "ingress" not in devices["eth0"]
        assert await self.worker.nft_tables() == []
        assert [path.name for path in self.pods_dir.glob("*")] == []


@pytest.fixture
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    folder = tmp_path_factory.mktemp("n")
    name = f"caat-{os.getpid()}-{uuid.uuid4().hex[:4]}"
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(WorkerNode.up(name))
        settings = FakeCloudSettings(
            dir=folder / "cloud", boot="netns", workers=(worker.netns.name,), vpc_name=f"{name}-vpc"
        )
        cloud = await stack.enter_async_context(LocalCloud(settings))
        yield Node(worker, cloud, folder)
