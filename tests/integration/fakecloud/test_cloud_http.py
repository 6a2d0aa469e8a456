"""What is no SDK's business: the admin API, the metadata service, bad requests, and the cloud's own life."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from alibabacloud_ecs20140526.models import RunInstancesRequestNetworkInterface
from alibabacloud_tea_openapi.exceptions import ClientException

from caa.fakecloud import FakeCloudSettings, LocalCloud, Machine, NoBoot, run
from caa.fakecloud.clock import SystemClock
from caa.fakecloud.metadata import TOKEN_HEADER, TTL_HEADER, Metadata


@pytest.fixture
async def http(cloud: LocalCloud) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cloud.ecs_endpoint) as session:
        yield session


class TestAdmin:
    async def test_state(self, cloud: LocalCloud, http: aiohttp.ClientSession, ecs: Any, sdk: Any) -> None:
        await ecs.run_instances_async(sdk.run_request(cloud, user_data="c2VjcmV0"))
        async with http.get("/local/state") as answer:
            state = await answer.json()
        [instance] = state["instances"]
        [call] = state["calls"]
        assert (instance["name"], instance["address"]) == ("podvm-nginx-12345678", "10.64.0.1")
        assert (call["action"], call["outcome"], call["status"]) == ("RunInstances", "ok", 200)
        assert call["parameters"]["UserData"] == "(8 characters)"
        async with http.get("/local/state?calls=0") as answer:
            assert (await answer.json())["calls"] == []

    async def test_faults(self, cloud: LocalCloud, http: aiohttp.ClientSession) -> None:
        async with http.post("/local/fault", json={"action": "RunInstances", "drop": "after"}) as answer:
            assert answer.status == 200
        assert [fault.drop for fault in cloud.faults] == ["after"]
        async with http.delete("/local/fault") as answer:
            assert answer.status == 200
        assert list(cloud.faults) == []
        async with http.post("/local/fault", json={"typo": 1}) as answer:
            assert answer.status == 400
            assert "typo" in await answer.text()

    async def test_stock(self, cloud: LocalCloud, http: aiohttp.ClientSession, ecs: Any, sdk: Any) -> None:
        order = {"zone": "cn-beijing-i", "type": "ecs.g8i.xlarge", "stock": 1}
        async with http.post("/local/stock", json=order) as answer:
            assert await answer.json() == order
        async with http.get("/local/state") as answer:
            assert (await answer.json())["stock"] == [order]
        await ecs.run_instances_async(sdk.run_request(cloud))
        with pytest.raises(ClientException) as refusal:
            await ecs.run_instances_async(sdk.run_request(cloud))
        assert (refusal.value.status_code, refusal.value.code) == (403, "OperationDenied.NoStock")
        async with http.post("/local/stock", json=order | {"stock": None}) as answer:
            assert answer.status == 200
        await ecs.run_instances_async(sdk.run_request(cloud))
        async with http.post("/local/stock", json=order | {"stock": -1}) as answer:
            assert answer.status == 400


class TestBadRequests:
    @pytest.mark.parametrize(
        ("query", "status", "code"),
        [
            ("", 400, "MissingParameter"),
            ("Action=RunInstances", 400, "InvalidVersion"),
            ("Action=RunInstances&Version=2014-05-26", 400, "MissingParameter"),
            ("Action=AssumeRoleWithOIDC&Version=2015-04-01", 400, "MissingParameter"),
        ],
    )
    async def test_what_is_missing(
        self, http: aiohttp.ClientSession, query: str, status: int, code: str
    ) -> None:
        async with http.get(f"/?{query}") as answer:
            body = await answer.json()
        assert (answer.status, body["Code"]) == (status, code)

    async def test_too_big(self, http: aiohttp.ClientSession) -> None:
        async with http.post("/", data=b"x" * (257 * 1024)) as answer:
            assert answer.status == 413
        form = {f"p{n}": "" for n in range(2000)}
        async with http.post("/", data=form) as answer:
            assert answer.status == 400


@pytest.fixture
async def metadata(cloud: LocalCloud, ecs: Any, sdk: Any) -> AsyncIterator[Any]:
    """Starts the metadata service as an instance sees it: every caller is the cloud's only instance."""
    second = RunInstancesRequestNetworkInterface(instance_type="Secondary")
    request = sdk.run_request(cloud, user_data="I2Nsb3VkLWNvbmZpZwo=", network_interface=[second])
    await ecs.run_instances_async(request)
    [instance] = cloud.instances
    runners = []

    async def start(*, tokens_required: bool = False, known: bool = True) -> str:
        service = Metadata(
            lambda address: instance if known and address == "127.0.0.1" else None,
            region="cn-beijing",
            vpc_id="vpc-1",
            vpc_cidr=cloud.settings.vpc_cidr,
            interfaces=cloud.instances.interfaces,
            tokens_required=tokens_required,
            clock=SystemClock(),
        )
        runner = web.AppRunner(service.application())
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/latest/"

    yield start
    for runner in runners:
        await runner.cleanup()


class TestMetadata:
    async def test_an_instance_reads_about_itself(self, cloud: LocalCloud, metadata: Any) -> None:
        [instance] = cloud.instances
        async with aiohttp.ClientSession(await metadata()) as http:
            async with http.get("user-data") as answer:
                assert await answer.read() == b"#cloud-config\n"
            for key, value in {
                "instance-id": instance.id,
                "private-ipv4": "10.64.0.1",
                "mac": instance.mac,
                "hostname": instance.id.replace("-", "Z"),
                "region-id": "cn-beijing",
                "zone-id": "cn-beijing-i",
                "vswitch-id": cloud.environment["VSWITCH_ID"],
                "vpc-id": "vpc-1",
            }.items():
                async with http.get(f"meta-data/{key}") as answer:
                    assert await answer.text() == value
            async with http.get("meta-data/") as answer:
                listed = (await answer.text()).split()
                assert {"instance-id", "instance/", "network/"} <= set(listed)
            for unknown in ("none", "none/", "inst"):
                async with http.get(f"meta-data/{unknown}") as answer:
                    assert answer.status == 404

    async def test_an_instance_reads_about_its_interfaces(self, cloud: LocalCloud, metadata: Any) -> None:
        [instance] = cloud.instances
        primary, second = cloud.instances.interfaces(instance)
        async with aiohttp.ClientSession(await metadata()) as http:

            async def get(key: str) -> str:
                async with http.get(f"meta-data/network/interfaces/macs/{key}") as answer:
                    assert answer.status == 200
                    return await answer.text()

            async with http.get("meta-data/network/interfaces/macs") as answer:
                assert await answer.text() == await get("")
            assert set((await get("")).split()) == {f"{primary.mac}/", f"{second.mac}/"}
            assert "primary-ip-address" in (await get(f"{second.mac}/")).split()
            for eni in (primary, second):
                assert await get(f"{eni.mac}/network-interface-id") == eni.id
                assert await get(f"{eni.mac}/primary-ip-address") == str(eni.address)
                assert await get(f"{eni.mac}/private-ipv4s") == f'["{eni.address}"]'
                assert await get(f"{eni.mac}/netmask") == "255.255.0.0"
                assert await get(f"{eni.mac}/gateway") == "10.64.255.253"

    async def test_a_stranger_reads_nothing(self, metadata: Any) -> None:
        async with aiohttp.ClientSession(await metadata(known=False)) as http:
            async with http.get("user-data") as answer:
                assert answer.status == 404
            async with http.put("api/token", headers={TTL_HEADER: "60"}) as answer:
                assert answer.status == 404

    @pytest.mark.parametrize("required", [False, True])
    async def test_token_mode(self, metadata: Any, required: bool) -> None:
        async with aiohttp.ClientSession(await metadata(tokens_required=required)) as http:
            async with http.get("user-data") as answer:
                assert answer.status == (403 if required else 200)
            async with http.get("user-data", headers={TOKEN_HEADER: "guessed"}) as answer:
                assert answer.status == 403
            async with http.put("api/token", headers={TTL_HEADER: "60"}) as answer:
                token = await answer.text()
            async with http.get("user-data", headers={TOKEN_HEADER: token}) as answer:
                assert answer.status == 200
            for wrong in ("0", "21601", "soon", ""):
                async with http.put("api/token", headers={TTL_HEADER: wrong}) as answer:
                    assert answer.status == 400


class _Recorder(NoBoot):
    def __init__(self) -> None:
        self.running: set[str] = set()
        self.started = asyncio.Event()

    async def start(self, machine: Machine) -> None:
        self.running.add(machine.instance_id)
        self.started.set()

    async def stop(self, instance_id: str) -> None:
        self.running.discard(instance_id)

    async def close(self) -> None:
        self.running.clear()


async def test_closing_powers_off(tmp_path: Path, sdk: Any) -> None:
    boot = _Recorder()
    async with LocalCloud(FakeCloudSettings(dir=tmp_path, policy="full"), boot=boot) as cloud:
        await sdk.ecs(cloud).run_instances_async(sdk.run_request(cloud))
        async with asyncio.timeout(10):
            await boot.started.wait()
        assert len(boot.running) == 1
    assert boot.running == set()
    assert list(tmp_path.iterdir()) == []
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(cloud.ecs_endpoint)


async def test_run_says_when_it_is_ready_and_ends_when_cancelled(tmp_path: Path) -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(FakeCloudSettings(dir=tmp_path), ready.set_result))
    async with asyncio.timeout(10):
        assert str(tmp_path / "env") in await ready
    assert (tmp_path / "env").exists()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert list(tmp_path.iterdir()) == []


async def test_a_taken_port_leaves_nothing_behind(cloud: LocalCloud, tmp_path: Path) -> None:
    port = int(cloud.ecs_endpoint.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        async with LocalCloud(FakeCloudSettings(dir=tmp_path / "second", port=port)):
            pass
    assert list((tmp_path / "second").iterdir()) == []
