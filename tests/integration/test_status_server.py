from collections.abc import AsyncIterator

import aiohttp
import pytest

from caa.errors import Code, StartupError
from caa.metrics import Metrics
from caa.status_server import HOST, StatusServer


class Watched:
    """A status server of something that is ready or not."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.server = StatusServer(self.metrics)

    async def get(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        url = f"http://{HOST}:{self.server.port}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
            return answer.status, answer.headers["Content-Type"], await answer.text()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    await watched.server.start(0)
    try:
        yield watched
    finally:
        await watched.server.close()


async def test_metrics_are_prometheus_text(watched: Watched) -> None:
    watched.metrics.on_rpc("StartVM", Code.OK, 7.0)
    status, content_type, text = await watched.get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert 'caa_rpcs_total{code="OK",method="StartVM"} 1.0\n' in text


async def test_health_is_told_from_readiness(watched: Watched) -> None:
    assert (await watched.get("/healthz"))[0] == 200
    status, _, text = await watched.get("/readyz")
    assert (status, text) == (503, "not serving yet, or not any more\n")
    watched.server.ready = True
    assert (await watched.get("/readyz"))[0] == 200


async def test_startup_is_readiness_and_what_else_is_waited_for(watched: Watched) -> None:
    assert (await watched.get("/startup"))[0] == 503
    watched.server.ready = True
    assert (await watched.get("/startup"))[0] == 200
    watched.server.waits_for = lambda: "not Ready: default/web"
    status, _, text = await watched.get("/startup")
    assert (status, text) == (503, "not Ready: default/web\n")
    assert (await watched.get("/readyz"))[0] == 200
    watched.server.waits_for = str
    assert (await watched.get("/startup"))[0] == 200


async def test_it_only_tells(watched: Watched) -> None:
    assert (await watched.get("/metrics", "POST"))[0] == 405
    assert (await watched.get("/"))[0] == 404


async def test_only_this_machine_is_told(watched: Watched) -> None:
    assert [address[0] for address in watched.server._runner.addresses] == ["127.0.0.1"]


async def test_others_are_told_where_it_is_said_so() -> None:
    server = StatusServer(Metrics())
    await server.start(0, ("127.0.0.1", "127.0.0.2"))
    try:
        assert [address[0] for address in server._runner.addresses] == ["127.0.0.1", "127.0.0.2"]
    finally:
        await server.close()


async def test_an_address_that_is_not_ours_is_named_with_the_remedy() -> None:
    with pytest.raises(StartupError, match=r"192\.0\.2\.1:.*--probe-address \(PROBE_ADDRESS\)"):
        await StatusServer(Metrics()).start(0, ("127.0.0.1", "192.0.2.1"))


async def test_a_port_that_is_taken_is_named_with_the_remedy(watched: Watched) -> None:
    port = watched.server.port
    with pytest.raises(StartupError, match=rf"127\.0\.0\.1:{port}.*in use.*--probe-port \(PROBE_PORT\)"):
        await StatusServer(Metrics()).start(port)
