import asyncio
from typing import Any

import aiohttp
import pytest
from apiserver import ApiServer, Fault, listen_on_loopback

NODE = "/api/v1/nodes/worker-1"
SECRETS = "/api/v1/namespaces/default/secrets"


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "InternalError"), (503, "ServiceUnavailable"), (410, "Expired")]
)
async def test_errors(api: ApiServer, client: Any, status: int, reason: str) -> None:
    api.faults.add(Fault(verb="get", resource="nodes", status=status, times=2))
    assert (await client.call("GET", "/api/v1/nodes")).status == 200
    for _ in range(2):
        answer = await client.call("GET", NODE)
        assert (answer.status, answer.json["reason"], answer.json["code"]) == (status, reason, status)
    assert (await client.call("GET", NODE)).status == 200
    assert list(api.faults) == []


async def test_too_many_requests(api: ApiServer, client: Any) -> None:
    api.faults.add(Fault(status=429, headers={"Retry-After": "7"}, times=None))
    for _ in range(3):
        answer = await client.call("GET", NODE)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert answer.text == "Too many requests, please try again later."
    api.faults.clear()
    assert (await client.call("GET", NODE)).status == 200


async def test_answer_that_is_lost_after_the_effect(api: ApiServer, client: Any) -> None:
    api.faults.add(Fault(verb="create", resource="secrets", answer="drop", after_effect=True))
    with pytest.raises(aiohttp.ClientError):
        await client.call("POST", SECRETS, {"metadata": {"name": "it"}})
    assert (await client.call("POST", SECRETS, {"metadata": {"name": "it"}})).json[
        "reason"
    ] == "AlreadyExists"


async def test_call_that_is_lost_before_the_effect(api: ApiServer, client: Any) -> None:
    api.faults.add(Fault(verb="create", resource="secrets", answer="drop"))
    with pytest.raises(aiohttp.ClientError):
        await client.call("POST", SECRETS, {"metadata": {"name": "it"}})
    assert api.objects("Secret") == []
    assert api.requests[-1].status == 0


async def test_broken_answers(api: ApiServer, client: Any) -> None:
    api.faults.add(Fault(resource="nodes", answer="cut"))
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.call("GET", NODE)
    api.faults.add(Fault(resource="nodes", answer="garbage"))
    answer = await client.call("GET", NODE)
    assert answer.status == 200
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json  # noqa: B018  the property is what fails
    api.faults.add(Fault(verb="watch", answer="cut"))
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.call("GET", "/api/v1/nodes?watch=1")


async def test_no_answer(api: ApiServer, client: Any) -> None:
    api.faults.add(Fault(resource="nodes", name="worker-1", answer="hang"))
    with pytest.raises(TimeoutError):
        await client.call("GET", NODE, timeout=aiohttp.ClientTimeout(0.2))
    assert (await client.call("GET", NODE)).status == 200
    assert [request.status for request in api.requests] == [0, 200]


async def test_slow_answer(api: ApiServer, client: Any) -> None:
    api.faults.add(Fault(resource="nodes", delay=0.2))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await client.call("GET", NODE)).status == 200
    assert loop.time() - began >= 0.2


async def test_going_and_coming_back(api: ApiServer, client: Any, eventually: Any) -> None:
    url = api.url
    await client.call("POST", SECRETS, {"metadata": {"name": "it"}})
    api.faults.add(Fault(answer="hang"))
    waiting = asyncio.create_task(client.call("GET", NODE))
    await eventually(lambda: api.count("get", "nodes"))
    await api.stop()
    with pytest.raises(aiohttp.ClientError):
        await waiting
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.call("GET", NODE)
    await api.start()
    assert api.url == url
    assert (await client.call("GET", f"{SECRETS}/it")).status == 200


async def test_without_tls_on_a_socket_that_is_handed_in() -> None:
    ports = []

    def listen(port: int) -> Any:
        ports.append(port)
        return listen_on_loopback(port)

    async with ApiServer(listen=listen, tls=False) as api, aiohttp.ClientSession() as session:
        assert api.url.startswith("http://127.0.0.1:")
        await api.stop()
        await api.start()
        async with session.get(f"{api.url}/version") as answer:
            assert answer.status == 200
    assert ports[0] == 0
    assert ports[1] == int(api.environment["KUBERNETES_SERVICE_PORT"])
