"""Capacity and startup: what a node shows in its cluster from the daemon's start to its end."""

import asyncio
from collections.abc import Callable

import pytest
from apiserver import ApiServer, Fault
from structlog.testing import capture_logs

from caa.kubernetes import Capacity, Cluster, Startup
from caa.polling import growing, poll

NODE = "worker-1"


def capacity(server: ApiServer) -> str | None:
    node = server.object("Node", NODE)
    assert node is not None
    found: str | None = node["status"]["capacity"].get("kata.peerpods.io/vm")
    return found


async def becomes(seen: Callable[[], object], expected: object) -> None:
    async def look() -> tuple[bool | None, str]:
        now = seen()
        return now == expected or None, repr(now)

    await poll(look, what=repr(expected), pauses=growing(0.01, 1.3, 0.1), timeout=10)


async def test_capacity_from_start_to_end(server: ApiServer, cluster: Cluster) -> None:
    shown = Capacity(cluster, 7, "me")
    shown.start()
    await becomes(lambda: capacity(server), "7")
    await shown.close()
    assert capacity(server) is None


async def test_no_capacity_with_a_negative_limit(server: ApiServer, cluster: Cluster) -> None:
    shown = Capacity(cluster, -1, "me")
    shown.start()
    await shown.close()
    assert server.requests == []


async def test_capacity_outlives_the_end_of_an_older_daemon(server: ApiServer, cluster: Cluster) -> None:
    old, new = Capacity(cluster, 7, "old"), Capacity(cluster, 8, "new")
    old.start()
    await becomes(lambda: capacity(server), "7")
    new.start()
    await becomes(lambda: capacity(server), "8")
    await old.close()
    assert capacity(server) == "8"
    await new.close()
    assert capacity(server) is None


async def test_capacity_waits_for_the_api_server(server: ApiServer, cluster: Cluster) -> None:
    await server.stop()
    shown = Capacity(cluster, 7, "me")
    shown.start()
    await asyncio.sleep(0)
    await server.start()
    await becomes(lambda: capacity(server), "7")
    await shown.close()


async def test_capacity_is_shown_again_on_a_node_that_was_made_anew(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caa.kubernetes.capacity._LOOK_AGAIN", 0.05)
    shown = Capacity(cluster, 7, "me")
    shown.start()
    await becomes(lambda: capacity(server), "7")
    server.remove_node(NODE)
    server.add_node(NODE)
    await becomes(lambda: capacity(server), "7")
    await shown.close()
    assert capacity(server) is None


async def test_without_the_right_to_annotate_capacity_is_shown_all_the_same(
    server: ApiServer, cluster: Cluster
) -> None:
    server.faults.add(Fault(verb="patch", resource="nodes", status=403, times=None))
    shown = Capacity(cluster, 7, "me")
    with capture_logs() as told:
        shown.start()
        await becomes(lambda: capacity(server), "7")
        await shown.close()
    assert capacity(server) == "7"  # nobody can tell whose it is
    assert [line["event"] for line in told if line["log_level"] == "warning"] == [told[0]["event"]]
    assert "“patch nodes”" in told[0]["error"]


async def test_end_does_not_wait_for_an_api_server_that_hangs(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caa.kubernetes.capacity._LAST_WORD", 0.1)
    shown = Capacity(cluster, 7, "me")
    shown.start()
    await becomes(lambda: capacity(server), "7")
    server.faults.add(Fault(answer="hang", times=None))
    async with asyncio.timeout(5):
        await shown.close()


async def test_startup_waits_until_all_pods_of_the_runtime_class_are_ready(
    server: ApiServer, cluster: Cluster
) -> None:
    ours = [server.add_pod(name, node=NODE, runtime_class="kata-remote") for name in ("a", "b")]
    server.add_pod("ordinary", node=NODE)
    server.add_pod("elsewhere", node="worker-2", runtime_class="kata-remote")
    ended = server.add_pod("ended", node=NODE, runtime_class="kata-remote")
    server.set_pod_status(ended, {"phase": "Succeeded"})
    assert await cluster.unready_pods("kata-remote") == ["default/a", "default/b"]
    startup = Startup(cluster, "kata-remote")
    assert startup.waits_for
    startup.start()
    await becomes(lambda: startup.waits_for, "not Ready: default/a, default/b")
    server.set_ready(ours[0])
    await becomes(lambda: startup.waits_for, "not Ready: default/b")
    server.set_ready(ours[1])
    await becomes(lambda: startup.waits_for, "")
    server.set_ready(ours[0], ready=False)  # that is not about startup any more
    asked = len(server.requests)
    await startup.close()
    assert startup.waits_for == ""
    assert len(server.requests) == asked


async def test_startup_is_not_held_up_for_ever(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caa.kubernetes.startup._LONGEST", 0.3)
    server.add_pod("ill", node=NODE, runtime_class="kata-remote")
    startup = Startup(cluster, "kata-remote")
    with capture_logs() as told:
        startup.start()
        await becomes(lambda: startup.waits_for, "")
    assert "default/ill" in told[-1]["error"]
    await startup.close()


async def test_startup_waits_for_an_api_server_that_is_away(server: ApiServer, cluster: Cluster) -> None:
    await server.stop()
    startup = Startup(cluster, "kata-remote")
    startup.start()
    await becomes(lambda: "can't connect" in startup.waits_for, expected=True)
    await server.start()
    await becomes(lambda: startup.waits_for, "")
    await startup.close()
