import json
from typing import Any

import aiohttp
import pytest
from apiserver import ApiServer

PODS = "/api/v1/namespaces/default/pods"


async def _next(watch: aiohttp.ClientResponse) -> tuple[str, Any]:
    """The type of the next event and its object; the end of the stream is an empty type."""
    line = await watch.content.readline()
    event: dict[str, Any] = json.loads(line) if line else {"type": "", "object": None}
    return event["type"], event["object"]


async def test_what_begins_and_ceases_to_match(api: ApiServer, client: Any) -> None:
    pod = api.add_pod("nginx", node="worker-1")
    api.add_pod("nginx", namespace="other", node="worker-1")
    selector = "fieldSelector=spec.nodeName=worker-1,status.phase=Running"
    async with client.open("GET", f"{PODS}?watch=true&{selector}") as watch:
        ready = api.set_ready(pod)
        assert await _next(watch) == ("ADDED", ready)
        ready = api.set_ready(pod, ready=False)
        assert await _next(watch) == ("MODIFIED", ready)
        failed = api.set_pod_status(pod, {"phase": "Failed"})
        type_, gone = await _next(watch)
        assert (type_, gone["status"]["phase"]) == ("DELETED", "Running")
        assert gone["metadata"]["resourceVersion"] == failed["metadata"]["resourceVersion"]


async def test_from_a_version_on(api: ApiServer, client: Any) -> None:
    first = api.add_pod("first")
    second = api.add_pod("second")
    version = first["metadata"]["resourceVersion"]
    async with client.open("GET", f"{PODS}?watch=true&resourceVersion={version}") as watch:
        assert await _next(watch) == ("ADDED", second)
        api.remove_pod(first)
        type_, gone = await _next(watch)
        assert (type_, gone["metadata"]["name"]) == ("DELETED", "first")
        assert int(gone["metadata"]["resourceVersion"]) > int(version)
    async with client.open("GET", f"{PODS}?watch=true&resourceVersion=0") as watch:
        assert await _next(watch) == ("ADDED", second)


async def test_version_that_is_forgotten(api: ApiServer, client: Any) -> None:
    version = api.add_pod("nginx")["metadata"]["resourceVersion"]
    async with client.open("GET", f"{PODS}?watch=true&resourceVersion={version}") as open_watch:
        api.expire_versions()
        async with client.open("GET", f"{PODS}?watch=true&resourceVersion={version}") as late_watch:
            assert late_watch.status == 200
            type_, status = await _next(late_watch)
            assert (type_, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
            assert status["message"].startswith(f"too old resource version: {version} (")
            assert await _next(late_watch) == ("", None)
        api.add_pod("later")
        assert (await _next(open_watch))[0] == "ADDED"
        api.expire_versions(of_open_watches=True)
        assert (await _next(open_watch))[1]["code"] == 410
        assert await _next(open_watch) == ("", None)


async def test_bookmarks(api: ApiServer, client: Any) -> None:
    query = "watch=true&resourceVersion=0&allowWatchBookmarks=true"
    async with (
        client.open("GET", f"{PODS}?{query}") as asked,
        client.open("GET", f"{PODS}?watch=true") as not_asked,
    ):
        api.add_node("worker-2")
        api.bookmark()
        type_, mark = await _next(asked)
        assert (type_, mark["kind"]) == ("BOOKMARK", "Pod")
        assert mark["metadata"]["resourceVersion"] == str(api.store.version)
        api.add_pod("nginx")
        assert (await _next(not_asked))[0] == "ADDED"


async def test_end_of_the_time_asked_for(api: ApiServer, client: Any, eventually: Any) -> None:
    async with client.open("GET", f"{PODS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=1") as watch:
        assert (await _next(watch))[0] == "BOOKMARK"
        assert await _next(watch) == ("", None)
    await eventually(lambda: not api.watching)


async def test_closed_on_demand(api: ApiServer, client: Any) -> None:
    async with client.open("GET", f"{PODS}?watch=true") as watch:
        api.add_pod("nginx")
        assert (await _next(watch))[0] == "ADDED"
        assert api.watching == 1
        api.close_watches()
        assert await _next(watch) == ("", None)


async def test_server_that_goes_cuts_it_off(api: ApiServer, client: Any) -> None:
    async with client.open("GET", f"{PODS}?watch=true") as watch:
        api.add_pod("nginx")
        await _next(watch)
        await api.stop()
        with pytest.raises(aiohttp.ClientError):
            await _next(watch)


async def test_client_that_goes_is_forgotten(api: ApiServer, client: Any, eventually: Any) -> None:
    async with client.open("GET", f"{PODS}?watch=true") as watch:
        assert api.watching == 1
        watch.close()
        await eventually(lambda: not api.watching)


async def test_streaming_lists_are_not_served(client: Any) -> None:
    answer = await client.call("GET", f"{PODS}?watch=true&sendInitialEvents=true")
    assert (answer.status, answer.json["reason"]) == (422, "Invalid")
