"""PeerPod objects in the background: whatever becomes of API server, instance, pod and daemon, in the end
there is an object for each instance, and a finalizer only where there is an instance.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from apiserver import ApiServer, Fault
from structlog.testing import capture_logs

from caa.hypervisor import PeerPods, peer_pods
from caa.kubernetes import Cluster
from caa.polling import growing, poll
from caa.sandbox import Journal, Sandbox, State

NODE = "worker-1"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_pods, "_pauses", lambda: growing(0.02, 1.5, 0.2))


def sandbox(name: str = "web", uid: str = "", slot: int = 0) -> Sandbox:
    return Sandbox(
        id=f"s-{name}",
        pod_name=name,
        pod_namespace="default",
        netns="/run/netns/x",
        name=f"podvm-{name}",
        slot=slot,
        boot_id="boot",
        state=State.STARTING,
        network={},
        holding={},
        instance_id=f"i-{name}",
        pod_uid=uid,
    )


class Node:
    """What `Lifecycle` does with the objects of its sandboxes."""

    def __init__(self, journal: Journal, objects: PeerPods) -> None:
        self.journal = journal
        self.objects = objects

    async def launched(self, sandbox: Sandbox) -> Sandbox:
        sandbox, owing = self.objects.claimed(sandbox)
        await self.journal.put(sandbox, owing)
        self.objects.settle(owing)
        return sandbox

    async def removed(self, sandbox: Sandbox) -> None:
        owing = self.objects.disclaimed(sandbox)
        await self.journal.forget(sandbox.id, owing)
        self.objects.settle(owing)

    async def owes(self, *kinds: str) -> None:
        async def look() -> tuple[bool | None, str]:
            debts = [debt.kind for debt in await self.journal.debts()]
            return sorted(debts) == sorted(kinds) or None, f"{debts}"

        await poll(look, what=f"debts {kinds}", pauses=growing(0.01, 1.3, 0.1), timeout=10)


@asynccontextmanager
async def running(journal: Journal, cluster: Cluster | None, grace: float = 0.0) -> AsyncIterator[Node]:
    objects = PeerPods(journal, cluster)
    await objects.recover()
    try:
        yield Node(journal, objects)
    finally:
        await objects.close(grace)


@pytest.fixture
async def node(journal: Journal, cluster: Cluster) -> AsyncIterator[Node]:
    async with running(journal, cluster) as node:
        yield node


def finalizers(server: ApiServer) -> dict[str, list[str]]:
    """By instance."""
    return {
        each["spec"]["instanceID"]: each["metadata"].get("finalizers", [])
        for each in server.objects("PeerPod")
    }


async def asked(server: ApiServer, verb: str, times: int = 1) -> None:
    async def look() -> tuple[bool | None, str]:
        seen = server.count(verb, "peerpods")
        return seen >= times or None, f"{seen}"

    await poll(look, what=f"{times} calls: {verb}", pauses=growing(0.01, 1.3, 0.1), timeout=10)


HELD = ["peer.pod/finalizer"]


async def test_object_of_a_pod_from_launch_to_removal(server: ApiServer, node: Node) -> None:
    pod = server.add_pod("web", node=NODE)
    launched = await node.launched(sandbox(uid=pod["metadata"]["uid"]))
    assert launched.peer_pod.startswith("web-resource-")
    await node.owes()
    assert finalizers(server) == {"i-web": HELD}
    await node.removed(launched)
    await node.owes()
    assert finalizers(server) == {"i-web": []}
    server.remove_pod(pod)
    server.store.collect()
    assert finalizers(server) == {}


async def test_uid_is_looked_up_where_the_shim_did_not_tell_it(server: ApiServer, node: Node) -> None:
    pod = server.add_pod("web", node=NODE)
    await node.launched(sandbox())
    await node.owes()
    [made] = server.objects("PeerPod")
    assert made["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]


async def test_neither_launch_nor_removal_waits(server: ApiServer, node: Node) -> None:
    server.faults.add(Fault(answer="hang", times=None))
    pod = server.add_pod("web", node=NODE)
    async with asyncio.timeout(1):
        launched = await node.launched(sandbox(uid=pod["metadata"]["uid"]))
        await asked(server, "create")
        await node.removed(launched)
    await node.owes("disclaim")


async def test_pods_come_and_go_while_the_api_server_is_away(server: ApiServer, node: Node) -> None:
    pods = [server.add_pod(name, node=NODE) for name in ("web", "db")]
    web, db = [
        await node.launched(sandbox(pod["metadata"]["name"], pod["metadata"]["uid"], slot))
        for slot, pod in enumerate(pods)
    ]
    await node.owes()
    with capture_logs() as told:
        await server.stop()
        await node.removed(web)
        lost = await node.launched(sandbox("lost", "uid", 2))
        await node.owes("claim", "disclaim")
        await node.removed(lost)  # its object could not be made: now it never must be
        await node.owes("disclaim", "disclaim")
        await server.start()
        await node.owes()
    assert finalizers(server) == {"i-web": [], "i-db": HELD}
    assert server.count("create", "peerpods") == 2
    assert [line["event"] for line in told if line["log_level"] == "warning"] == [
        "the API server can't be used: it is asked again"
    ]
    await node.removed(db)
    await node.owes()
    assert finalizers(server) == {"i-web": [], "i-db": []}


async def test_pod_is_gone_before_its_object_could_be_made(server: ApiServer, node: Node) -> None:
    """The object is made all the same: while there is an instance, it has to be found."""
    await server.stop()
    launched = await node.launched(sandbox(uid="of-a-pod-that-was"))
    await server.start()
    await node.owes()
    server.store.collect()
    [made] = server.objects("PeerPod")
    assert "deletionTimestamp" in made["metadata"]
    assert made["metadata"]["finalizers"] == HELD
    await node.removed(launched)
    await node.owes()
    assert server.objects("PeerPod") == []


@pytest.mark.parametrize("answer", ["drop", "cut", "garbage"])
async def test_answer_to_the_create_is_lost(server: ApiServer, node: Node, answer: Any) -> None:
    pod = server.add_pod("web", node=NODE)
    server.faults.add(Fault(verb="create", resource="peerpods", answer=answer, after_effect=True))
    await node.launched(sandbox(uid=pod["metadata"]["uid"]))
    await node.owes()
    assert finalizers(server) == {"i-web": HELD}


async def test_answer_to_the_create_is_lost_and_the_instance_goes(
    server: ApiServer, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The create may come into effect after the object was looked for in vain."""
    monkeypatch.setattr(peer_pods, "_SETTLED", 1.0)
    pod = server.add_pod("web", node=NODE)
    server.faults.add(Fault(verb="create", resource="peerpods", answer="drop", times=None))
    launched = await node.launched(sandbox(uid=pod["metadata"]["uid"]))
    await asked(server, "create")
    await node.removed(launched)
    await asked(server, "get", 2)  # not there, but that is no proof
    late = {"name": launched.peer_pod, "namespace": "default", "finalizers": HELD}
    server.add(
        {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPod",
            "metadata": late,
            "spec": {"cloudProvider": "alibabacloud", "instanceID": "i-web"},
        }
    )
    await node.owes()
    assert finalizers(server) == {"i-web": []}


async def test_create_that_never_takes_effect_is_not_waited_for_for_ever(
    server: ApiServer, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_pods, "_SETTLED", 0.3)
    server.faults.add(Fault(verb="create", resource="peerpods", answer="drop", times=None))
    launched = await node.launched(sandbox(uid="uid"))
    await asked(server, "create")
    await node.removed(launched)
    await node.owes()
    assert server.objects("PeerPod") == []


async def test_instance_goes_while_its_object_is_made(server: ApiServer, node: Node) -> None:
    pod = server.add_pod("web", node=NODE)
    server.faults.add(Fault(verb="create", resource="peerpods", delay=0.2))
    launched = await node.launched(sandbox(uid=pod["metadata"]["uid"]))
    await asked(server, "create")
    await node.removed(launched)
    await node.owes()
    assert finalizers(server) == {"i-web": []}


async def test_instance_goes_before_its_objects_turn_comes(server: ApiServer, node: Node) -> None:
    pods = [server.add_pod(f"web-{number}", node=NODE) for number in range(peer_pods._AT_ONCE + 1)]
    server.faults.add(Fault(verb="create", resource="peerpods", delay=0.2, times=None))
    *_, last = [
        await node.launched(sandbox(pod["metadata"]["name"], pod["metadata"]["uid"], number))
        for number, pod in enumerate(pods)
    ]
    await asked(server, "create", peer_pods._AT_ONCE)
    await node.removed(last)
    await node.owes()
    assert server.count("create", "peerpods") == peer_pods._AT_ONCE
    assert last.instance_id not in finalizers(server)


async def test_name_that_is_taken_is_given_up(server: ApiServer, node: Node) -> None:
    server.faults.add(Fault(resource="peerpods", status=503, times=1))
    launched = sandbox(uid="uid").learn(peer_pod="web-resource-aaaaa")
    server.add(
        {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPod",
            "metadata": {"name": "web-resource-aaaaa", "finalizers": HELD},
            "spec": {"cloudProvider": "alibabacloud", "instanceID": "i-of-another"},
        }
    )
    owing = peer_pods._debt(launched, "claim")
    await node.journal.put(launched, owing)
    node.objects.settle(owing)
    await node.owes()
    await node.removed(launched)
    await node.owes()
    assert finalizers(server) == {"i-of-another": HELD}


# Things that take a person


@pytest.mark.parametrize("hindrance", ["right", "CRD"])
async def test_what_takes_a_person_is_tried_seldom_until_it_is_done(
    server: ApiServer, node: Node, monkeypatch: pytest.MonkeyPatch, hindrance: str
) -> None:
    monkeypatch.setattr(peer_pods, "_SLOWLY", 0.3)
    if hindrance == "CRD":
        server.undefine_peer_pods()
    else:
        server.faults.add(Fault(resource="peerpods", status=403, times=None))
    pods = [server.add_pod(f"web-{number}", node=NODE) for number in range(3)]
    with capture_logs() as told:
        for number, pod in enumerate(pods):
            await node.launched(sandbox(pod["metadata"]["name"], pod["metadata"]["uid"], number))
        await asked(server, "create", 6)
    assert [line["log_level"] for line in told].count("warning") == 1
    server.faults.clear()
    if hindrance == "CRD":
        server.define_peer_pods()
    await node.owes()
    assert len(finalizers(server)) == 3


async def test_without_the_crd_nothing_is_owed_at_the_end(server: ApiServer, node: Node) -> None:
    server.undefine_peer_pods()
    launched = await node.launched(sandbox(uid="uid"))
    await asked(server, "create")
    await node.removed(launched)
    await node.owes()


# Many, and later


async def test_twenty_at_once_leave_the_api_server_room(server: ApiServer, node: Node) -> None:
    under_way: set[int] = set()
    most = 0
    claim = Cluster.claim

    async def counted(self: Cluster, *arguments: Any) -> None:
        nonlocal most
        mark = id(arguments)
        under_way.add(mark)
        most = max(most, len(under_way))
        try:
            await claim(self, *arguments)
        finally:
            under_way.discard(mark)

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(Cluster, "claim", counted)
        server.faults.add(Fault(verb="create", resource="peerpods", delay=0.02, times=None))
        pods = [server.add_pod(f"web-{number}", node=NODE) for number in range(20)]
        launched = [
            await node.launched(sandbox(pod["metadata"]["name"], pod["metadata"]["uid"], number))
            for number, pod in enumerate(pods)
        ]
        await node.owes()
    assert 1 < most <= peer_pods._AT_ONCE
    assert len(finalizers(server)) == 20
    for each in launched:
        await node.removed(each)
    await node.owes()
    assert set(map(tuple, finalizers(server).values())) == {()}


async def test_next_daemon_makes_up_for_what_this_one_missed(
    server: ApiServer, journal: Journal, cluster: Cluster
) -> None:
    pods = [server.add_pod(name, node=NODE) for name in ("web", "db", "new")]
    uids = [pod["metadata"]["uid"] for pod in pods]
    async with running(journal, cluster) as node:
        web = await node.launched(sandbox("web", uids[0]))
        await node.launched(sandbox("db", uids[1], 1))
        await node.owes()
        await server.stop()
        await node.removed(web)
        await node.launched(sandbox("new", uids[2], 2))
        await node.owes("claim", "disclaim")
    await server.start()
    async with running(journal, cluster) as node:
        await node.owes()
    assert finalizers(server) == {"i-web": [], "i-db": HELD, "i-new": HELD}


async def test_end_gives_what_is_new_a_chance(server: ApiServer, journal: Journal, cluster: Cluster) -> None:
    pod = server.add_pod("web", node=NODE)
    async with running(journal, cluster) as node:
        web = await node.launched(sandbox("web", pod["metadata"]["uid"]))
        await node.owes()
    async with running(journal, cluster, grace=10) as node:
        await node.removed(web)
    assert await journal.debts() == []
    assert finalizers(server) == {"i-web": []}


async def test_end_does_not_wait_for_an_api_server_that_is_away(
    server: ApiServer, journal: Journal, cluster: Cluster
) -> None:
    await server.stop()
    async with asyncio.timeout(5), running(journal, cluster, grace=10) as node:
        await node.launched(sandbox("web", "uid"))
    assert [debt.kind for debt in await journal.debts()] == ["claim"]


async def test_outside_of_a_cluster_there_are_no_objects_and_debts_are_kept(
    server: ApiServer, journal: Journal, cluster: Cluster
) -> None:
    pod = server.add_pod("web", node=NODE)
    async with running(journal, cluster) as node:
        web = await node.launched(sandbox("web", pod["metadata"]["uid"]))
        await node.owes()
    async with running(journal, None) as outside:
        other = await outside.launched(sandbox("other", slot=1))
        assert other.peer_pod == ""
        await outside.removed(other)
        await outside.removed(web)
        await outside.owes("disclaim")
    async with running(journal, cluster) as node:
        await node.owes()
    assert finalizers(server) == {"i-web": []}
