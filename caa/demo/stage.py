"""What a daemon needs around it to work on one machine: a worker node, the local cloud, a folder."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from caa.demo.child import CAA, Child
from caa.demo.shim import Shim
from caa.demo.worker_node import WorkerNode
from caa.fakecloud import FakeCloudSettings, LocalCloud

SERVING_SECONDS = 60.0
"""How long a daemon may take to start: it imports the cloud's SDK, on a machine that may be busy."""


class Stage:
    """Where daemons come and go, and their state stays."""

    def __init__(self, worker: WorkerNode, cloud: LocalCloud, folder: Path) -> None:
        self.worker = worker
        self.cloud = cloud
        self.folder = folder
        self.socket = folder / "hypervisor.sock"
        self.grpc_socket = folder / "hypervisor-grpc.sock"
        self.pods_dir = folder / "pods"
        self.journal = folder / "state" / "journal.db"
        self._daemons = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, name: str, folder: Path) -> AsyncIterator[Self]:
        """Namespaces are called `name` and something; nothing of them is left after."""
        async with WorkerNode.up(f"{name}-node") as worker:
            settings = FakeCloudSettings(
                dir=folder / "cloud", boot="netns", workers=(worker.netns.name,), vpc_name=f"{name}-vpc"
            )
            async with LocalCloud(settings) as cloud:
                yield cls(worker, cloud, folder)

    @property
    def environ(self) -> Mapping[str, str]:
        """A daemon's settings."""
        return {
            **self.cloud.environment,
            "REMOTE_HYPERVISOR_ENDPOINT": str(self.socket),
            "HYPERVISOR_GRPC_ENDPOINT": str(self.grpc_socket),
            "PODS_DIR": str(self.pods_dir),
            "CAA_STATE_DIR": str(self.folder / "state"),
            "PROXY_TIMEOUT": "60s",  # what is not up by then on one machine has a fault, which is told
            "LOG_FORMAT": "json",
        }

    @contextlib.asynccontextmanager
    async def daemon(self, command: Sequence[str] = (*CAA, "alibabacloud")) -> AsyncIterator[Child]:
        """A daemon that serves, in the worker's namespace."""
        self._daemons += 1
        log = self.folder / f"daemon-{self._daemons}.log"
        async with Child.running(command, log, environ=self.environ, netns=self.worker.netns) as child:
            await child.event("serving", SERVING_SECONDS)
            yield child

    def shim(self) -> Shim:
        return Shim(self.socket, uuid.uuid4().hex)

    @property
    def instance_ids(self) -> list[str]:
        return [instance.id for instance in self.cloud.instances]
