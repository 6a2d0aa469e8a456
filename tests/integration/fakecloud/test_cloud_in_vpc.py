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

from caa.fakecloud import FakeCloudSettings, LocalCloud, NoBoot


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
