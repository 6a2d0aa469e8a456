"""The admin API of a journal with a few sandboxes, without the rest of the daemon."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caa.admin import SOCKET, Client, Operator
from caa.admin.server import AdminServer
from caa.errors import CaaError
from caa.providers import Stray
from caa.sandbox import Event, Journal, Sandbox, State

MARKER = "-----BEGIN EC PRIVATE KEY-----"


class CloudOfStrays:
    """As much of a provider as an operator needs."""

    def __init__(self) -> None:
        self.found: list[Stray] = []
        self.refusal: CaaError | None = None
        self.released: list[str] = []
        self.refused: dict[str, CaaError] = {}

    def add(self, stray_id: str, *, sandbox: str, created_at: str = "2020-01-01T00:00Z") -> None:
        self.found.append(Stray("instance", stray_id, f"podvm-{sandbox}", sandbox, created_at))

    async def strays(self) -> tuple[list[Stray], list[CaaError]]:
        return self.found, [self.refusal] if self.refusal is not None else []

    async def release_stray(self, stray: Stray) -> None:
        if stray.id in self.refused:
            raise self.refused[stray.id]
        self.released.append(stray.id)


class Place:
    """A journal, and the operator who works on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods_dir = folder / "pods"
        self.journal = Journal(folder)
        self.cloud = CloudOfStrays()
        self.will_not_stop: set[str] = set()
        self.client = Client(folder)

    def operator(self, *, alone: bool) -> Operator:
        cloud: Any = self.cloud
        return Operator(self.journal, cloud, self._stop, pods_dir=self.pods_dir, alone=alone)

    async def put(self, sandbox_id: str, slot: int, state: State = State.RUNNING, **changes: Any) -> Sandbox:
        sandbox = Sandbox(
            id=sandbox_id,
            pod_name=f"pod-{sandbox_id}",
            pod_namespace="default",
            netns="/proc/self/ns/net",
            name=f"podvm-{sandbox_id}",
            slot=slot,
            boot_id="boot",
            state=state,
            network={"vxlan-id": 555000 + slot},
            holding={"RunInstances": {"UserData": MARKER}},
            instance_id=f"i-{sandbox_id}",
        )
        sandbox = replace(sandbox, **changes)
        await self.journal.put(sandbox)
        return sandbox

    async def _stop(self, sandbox_id: str) -> None:
        if sandbox_id in self.will_not_stop:
            error = Event(time.time(), "error", "DeleteInstance: Forbidden.RAM")
            self.journal.note(sandbox_id, error)
        else:
            await self.journal.forget(sandbox_id)


@pytest.fixture
def place(tmp_path: Path) -> Any:
    place = Place(tmp_path)
    yield place
    place.journal.close()


@pytest.fixture
async def served(place: Place) -> AsyncIterator[Place]:
    server = AdminServer(place.operator(alone=False))
    await server.start(place.folder / SOCKET)
    yield place
    await server.close()
