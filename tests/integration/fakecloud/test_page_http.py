"""What serves the page: the page itself, the stream of events, and who may use the admin API."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from caa.fakecloud import LocalCloud

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
async def http(cloud: LocalCloud) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cloud.ecs_endpoint) as session:
        yield session


class TestPage:
    async def test_a_browser_gets_it_with_all_that_it_loads(self, http: aiohttp.ClientSession) -> None:
        async with http.get("/", headers=BROWSER) as answer:
            page = await answer.text()
            policy = answer.headers["Content-Security-Policy"]
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        types = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
        for name, content_type in types.items():
            assert f'"/local/page/{name}"' in page
            async with http.get(f"/local/page/{name}", headers={"Sec-Fetch-Site": "same-origin"}) as answer:
                assert (answer.status, answer.content_type) == (200, content_type)
                assert "://" not in (await answer.text()).replace("http://www.w3.org/2000/svg", "")
        async with http.get("/local/page/page.py") as answer:
            assert answer.status == 404

    @pytest.mark.parametrize(
        ("method", "path", "headers"),
        [
            ("GET", "/", {}),
            ("GET", "/?Action=DescribeInstances&Version=2014-05-26", BROWSER),
            ("GET", "/", BROWSER | {"x-acs-action": "DescribeInstances", "x-acs-version": "2014-05-26"}),
            ("POST", "/", BROWSER),
        ],
    )
    async def test_a_call_is_a_call(
        self, cloud: LocalCloud, http: aiohttp.ClientSession, method: str, path: str, headers: dict[str, str]
    ) -> None:
        async with http.request(method, path, headers=headers) as answer:
            assert "RequestId" in await answer.json()
        assert len(list(cloud.calls)) == 1


class TestEvents:
    async def test_a_change_is_told(
        self, cloud: LocalCloud, http: aiohttp.ClientSession, ecs: Any, sdk: Any
    ) -> None:
        async with asyncio.timeout(20), http.get("/local/events") as stream:
            assert stream.content_type == "text/event-stream"
            assert (await _event(stream))["instances"] == []
            await ecs.run_instances_async(sdk.run_request(cloud))
            while not (state := await _event(stream))["instances"]:
                pass
        assert state["instances"][0]["name"] == "podvm-nginx-12345678"
        assert state["now"] >= state["instances"][0]["status_since"]

    async def test_it_does_not_hold_up_the_end(self, start_cloud: Any) -> None:
        async with asyncio.timeout(20):
            async with start_cloud() as cloud, aiohttp.ClientSession(cloud.ecs_endpoint) as http:
                stream = await http.get("/local/events")
                await _event(stream)
                await cloud.close()
                assert (await stream.content.read()).strip() == b"", "the stream has an end, not a reset"


async def _event(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    while True:
        line = await stream.content.readuntil(b"\n")
        if line.startswith(b"data: "):
            event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            return event


class TestOtherPages:
    """A page from elsewhere, in the browser of a person who can reach the cloud, gets nothing out of it."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://elsewhere.example"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Host": "elsewhere.example"},
            {"Host": "127.0.0.1.elsewhere.example:8900"},
            {"Host": ""},
        ],
    )
    @pytest.mark.parametrize("path", ["/local/state", "/local/events", "/local/page/page.js"])
    async def test_reading_is_refused(
        self, http: aiohttp.ClientSession, path: str, headers: dict[str, str]
    ) -> None:
        async with http.get(path, headers=headers) as answer:
            assert answer.status == 403

    @pytest.mark.parametrize("headers", [{"Origin": "http://["}, {"Host": "["}])
    async def test_nonsense_is_refused(self, http: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        async with http.get("/local/state", headers=headers) as answer:
            assert answer.status == 400

    async def test_orders_are_refused(self, cloud: LocalCloud, http: aiohttp.ClientSession) -> None:
        elsewhere = {"Origin": "https://elsewhere.example"}
        async with http.post("/local/fault", json={"code": "X"}, headers=elsewhere) as answer:
            assert answer.status == 403
        async with http.post("/local/token", json={}, headers=elsewhere) as answer:
            assert answer.status == 403
        async with http.delete("/local/fault", headers=elsewhere) as answer:
            assert answer.status == 403
        # What an HTML form can send, in a browser that says nothing of where it comes from.
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            sent = {"Content-Type": content_type}
            async with http.post("/local/fault", data='{"code": "X"}', headers=sent) as answer:
                assert answer.status == 415
        assert list(cloud.faults) == []

    async def test_its_own_page_may(self, cloud: LocalCloud, http: aiohttp.ClientSession) -> None:
        port = cloud.ecs_endpoint.rpartition(":")[2]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"10.64.0.1:{port}"):
            own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
            async with http.post("/local/fault", json={"code": "X"}, headers=own) as answer:
                assert answer.status == 200
        assert len(list(cloud.faults)) == 4
