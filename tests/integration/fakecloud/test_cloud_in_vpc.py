"""With boot="netns", worker nodes reach the cloud from inside its VPC, and nowhere else."""

import asyncio
import http.client
import json
import os
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from alibabacloud_ecs20140526 import models

from caa.fakecloud import NETNS_FOLDER, EniStatus, FakeCloudSettings, LocalCloud, NoBoot, Status, netlink
from caa.fakecloud.netns import apart_now
from caa.polling import growing, poll


def _get(url: str, ca: str | None) -> Callable[[], tuple[int, bytes]]:
    """To be run inside a namespace."""
    parts = urlsplit(url)

    def get() -> tuple[int, bytes]:
        connection: http.client.HTTPConnection = http.client.HTTPConnection(parts.netloc, timeout=10)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca)
            connection = http.client.HTTPSConnection(parts.netloc, timeout=10, context=context)
        try:
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return get


@pytest.mark.root
@pytest.mark.parametrize("tls", [False, True])
async def test_a_worker_reaches_the_api_and_the_metadata_service(
    netlab: Any, tmp_path: Any, tls: bool
) -> None:
    worker = netlab.namespace("worker")
    settings = FakeCloudSettings(
        dir=tmp_path / "cloud",
        boot="netns",
        tls=tls,
        workers=(worker.name,),
        vpc_name=f"caat-{os.getpid()}-cloud{int(tls)}",
    )

    async def get(url: str) -> tuple[int, bytes]:
        ca = cloud.environment.get("ALIBABACLOUD_CA_FILE")
        return await asyncio.to_thread(worker.run, _get(url, ca))

    async with LocalCloud(settings, boot=NoBoot()) as cloud:
        endpoint = cloud.environment["ALIBABACLOUD_ECS_ENDPOINT"]
        assert urlsplit(endpoint).hostname == "10.64.255.253"
        status, body = await get(f"{endpoint}/.well-known/openid-configuration")
        # A token's issuer has one name, wherever it is read from.
        assert (status, json.loads(body)["issuer"]) == (200, cloud.ecs_endpoint)
        # A worker node is an instance that this cloud did not create.
        assert (await get("http://100.100.100.200/latest/user-data"))[0] == 404
        assert cloud.worker_addresses == {worker.name: next(iter(settings.vswitches[0].cidr.hosts()))}
        assert worker.show("addr show eth0")[0]["addr_info"][0]["local"] == "10.64.0.1"
    assert worker.devices() == {"lo"}


@pytest.mark.root
async def test_a_machine_has_what_the_books_say(tmp_path: Any, sdk: Any) -> None:
    """Interfaces that come with RunInstances, and that come and go while the instance runs."""
    settings = FakeCloudSettings(
        dir=tmp_path / "cloud",
        credentials="keys",
        policy="full",
        boot="netns",
        boot_seconds=3600,
        vpc_name=f"caat-{os.getpid()}-nics",
    )
    async with LocalCloud(settings) as cloud:
        ecs = sdk.ecs(cloud)
        nic = models.RunInstancesRequestNetworkInterface(instance_type="Secondary")
        await ecs.run_instances_async(sdk.run_request(cloud, network_interface=[nic]))
        [instance] = cloud.instances
        created = await ecs.create_network_interface_async(
            models.CreateNetworkInterfaceRequest(
                region_id=settings.region,
                v_switch_id=cloud.environment["VSWITCH_ID"],
                security_group_id=cloud.environment["SECURITY_GROUP_IDS"],
            )
        )
        third = cloud.enis.find(created.body.network_interface_id)

        def macs() -> set[str]:
            """Of the machine's interfaces, from inside of it."""

            def look() -> set[str]:
                with netlink(fd) as link:
                    return {dict(each["attrs"])["IFLA_ADDRESS"] for each in link.get_links()}

            fd = os.open(NETNS_FOLDER / f"{settings.vpc_name}.{instance.id}", os.O_RDONLY)
            try:
                return apart_now(look) - {"00:00:00:00:00:00"}
            finally:
                os.close(fd)

        async def until(status: Status | EniStatus, seen: Callable[[], Any]) -> None:
            async def ask() -> tuple[bool | None, str]:
                return seen() == status or None, str(seen())

            await poll(ask, what=str(status), pauses=growing(0.01), timeout=30)

        await until(Status.RUNNING, lambda: cloud.instances.status(instance))
        assert macs() == {each.mac for each in cloud.instances.interfaces(instance)}
        named = {"region_id": settings.region, "network_interface_id": third.id, "instance_id": instance.id}
        await ecs.attach_network_interface_async(models.AttachNetworkInterfaceRequest(**named))
        await until(EniStatus.IN_USE, lambda: third.status)
        assert len(macs()) == 3
        assert third.mac in macs()
        await ecs.detach_network_interface_async(models.DetachNetworkInterfaceRequest(**named))
        await until(EniStatus.AVAILABLE, lambda: third.status)
        assert macs() == {each.mac for each in cloud.instances.interfaces(instance)}
    assert list(NETNS_FOLDER.glob(f"{settings.vpc_name}*")) == []
