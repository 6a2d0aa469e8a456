"""A local cloud, and providers that use it through the SDK."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from caa.config import AlibabaCloudSettings, load
from caa.fakecloud import Boot, FakeCloudSettings, LocalCloud
from caa.polling import growing, poll
from caa.providers import Holding, VmOrder
from caa.providers.alibabacloud import AlibabaCloud

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakeProvider = Callable[..., AlibabaCloud]
Until = Callable[[Callable[[], object], str], Awaitable[None]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start_cloud(tmp_path: Path, stack: AsyncExitStack) -> StartCloud:
    """Starts a local cloud with the given settings; it lasts as long as the test."""

    async def start(boot: Boot | None = None, **settings: Any) -> LocalCloud:
        return await stack.enter_async_context(
            LocalCloud(FakeCloudSettings(dir=tmp_path / "cloud", **settings), boot=boot)
        )

    return start


@pytest.fixture
async def cloud(start_cloud: StartCloud) -> LocalCloud:
    return await start_cloud(credentials="keys")


def settings_of(cloud: LocalCloud, **environ: str) -> AlibabaCloudSettings:
    return load({}, dict(cloud.environment) | environ).alibabacloud


@pytest.fixture
def make_provider(stack: AsyncExitStack) -> MakeProvider:
    """A provider for the cloud, with further environment variables; closed when the test ends."""

    def make(cloud: LocalCloud, **environ: str) -> AlibabaCloud:
        provider = AlibabaCloud(settings_of(cloud, **environ), node="worker-1")
        stack.push_async_callback(provider.close)
        return provider

    return make


@pytest.fixture
def provider(cloud: LocalCloud, make_provider: MakeProvider) -> AlibabaCloud:
    return make_provider(cloud)


class PodVm:
    """One sandbox's VM and its holding, which passes through JSON as in the journal."""

    def __init__(self, provider: AlibabaCloud, **order: Any) -> None:
        values: dict[str, Any] = {
            "sandbox_id": "ab" * 32,
            "pod_name": "web",
            "pod_namespace": "shop",
            "name": "podvm-web-abababab",
            "user_data": b"#cloud-config\n",
            "client_token": "token-1",
            "vcpus": 1,
            "memory_mib": 2048,
        }
        self.provider = provider
        self.holding: dict[str, Any] = json.loads(json.dumps(provider.plan(VmOrder(**(values | order)))))

    @property
    def types(self) -> list[str]:
        """The instance types of the places in turn."""
        return [instance_type for instance_type, _ in self.holding["order"]["places"]]

    async def keep(self, holding: Holding) -> None:
        self.holding = json.loads(json.dumps(holding))

    async def launch(self) -> str:
        return await self.provider.launch(self.holding, self.keep)

    async def finish(self) -> tuple[IPv4Address, ...]:
        found = await self.provider.addresses(self.holding, self.keep)
        await self.provider.complete(self.holding)
        return found

    async def release(self, provider: AlibabaCloud | None = None) -> None:
        """By the same provider, or by another one, as after a restart."""
        await (provider or self.provider).release(self.holding, self.keep)


@pytest.fixture
def pod_vm() -> type[PodVm]:
    return PodVm


@pytest.fixture
def until() -> Until:
    """Waits until something is true."""

    async def wait(true: Callable[[], object], what: str) -> None:
        async def ask() -> tuple[bool | None, str]:
            seen = true()
            return (True if seen else None), repr(seen)

        await poll(ask, what=what, pauses=growing(0.01, longest=0.2), timeout=30)

    return wait


@pytest.fixture
def nothing_left(until: Until) -> Callable[[LocalCloud], Awaitable[None]]:
    """Waits until every instance is gone; one that nobody deletes never is."""

    async def wait(cloud: LocalCloud) -> None:
        await until(lambda: not list(cloud.instances), "the cloud to be empty")

    return wait
