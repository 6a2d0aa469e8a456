"""What is reaped, and what never is."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from apiserver import Fault

from caa.fakecloud import Fault as CloudFault

World = Any
Until = Callable[[Callable[[], object], str], Awaitable[None]]
Rounds = Callable[[int], Awaitable[None]]


async def test_a_pod_that_is_gone_and_whose_daemon_is_too(world: World, until: Until) -> None:
    pod, lost = await world.pod("lost")
    _, kept = await world.pod("kept")
    world.reap()
    await until(lambda: world.leader, "a leader")
    world.api.remove_pod(pod)
    await until(lambda: "lost" not in world.claims, "the object to go")
    assert world.instances == {kept}
    assert lost not in world.instances
    assert world.claims == {"kept": True}


async def test_another_pod_of_the_same_name_is_another_pod(world: World, until: Until) -> None:
    """As a StatefulSet makes it on another node."""
    first, old = await world.pod("db-0")
    world.api.remove_pod(first)
    _, new = await world.pod("db-0")
    world.reap()
    await until(lambda: world.instances == {new}, "the old VM to go")
    assert world.claims == {"db-0": True}
    assert old not in world.instances


async def test_a_node_that_was_removed_with_pods_that_nobody_ends(world: World, until: Until) -> None:
    pod, _ = await world.pod("lost")
    world.evict(pod)
    world.api.remove_node("worker-1")
    world.reap()
    await until(lambda: not world.instances, "the VM to go")
    await until(lambda: world.claims == {"lost": False}, "the finalizer to go")


async def test_a_node_that_is_not_ready_and_stays_so(world: World, until: Until) -> None:
    ending, _ = await world.pod("ending")
    _, running = await world.pod("running")
    world.api.set_node_ready("worker-1", "Unknown")
    world.evict(ending)
    world.reap()
    await until(lambda: world.instances == {running}, "one VM to go")
    assert world.claims["running"]


async def test_a_node_that_is_ready_sees_to_it_itself(world: World, rounds: Rounds) -> None:
    pod, instance = await world.pod("ending")
    world.evict(pod)
    world.api.store.delete(
        world.api._resource("PeerPod"), "shop", world.api.objects("PeerPod")[0]["metadata"]["name"]
    )
    world.reap(grace="10ms", node_grace="10ms")
    await rounds(5)
    assert world.instances == {instance}
    assert world.asked_to_delete == []


async def test_an_object_that_is_deleted_while_its_pod_runs(world: World, rounds: Rounds) -> None:
    """By a person, with kubectl: that is no reason to kill the pod."""
    _, instance = await world.pod("web")
    world.api.store.delete(
        world.api._resource("PeerPod"), "shop", world.api.objects("PeerPod")[0]["metadata"]["name"]
    )
    world.reap(grace="10ms")
    await rounds(5)
    assert world.instances == {instance}
    assert world.claims == {"web": True}


async def test_a_daemon_that_was_first(world: World, until: Until) -> None:
    """An instance that is not there any more is as good as deleted."""
    _, kept = await world.pod("kept")
    pod, instance = await world.pod("lost")
    world.cloud.instances.delete(instance, force=True)
    world.api.remove_pod(pod)
    world.reap()
    await until(lambda: "lost" not in world.claims, "the object to go")
    assert world.instances == {kept}


async def test_another_cloud_and_what_is_no_instance(world: World, until: Until, rounds: Rounds) -> None:
    instance = await world.vm("aws")
    for name, cloud, claimed in (("aws", "aws", instance), ("odd", "alibabacloud", "i-0;rm -rf")):
        pod = world.api.add_pod(name, namespace="shop", node="worker-1")
        world.claim(pod, claimed, cloud=cloud)
        world.api.remove_pod(pod)
    lost, _ = await world.pod("lost")
    world.api.remove_pod(lost)
    world.reap(grace="10ms")
    await until(lambda: "lost" not in world.claims, "the one that is sound to go")
    assert world.claims == {"aws": True, "odd": True}
    assert instance in world.instances


@pytest.mark.parametrize("cloud", [(), ("ecs:DescribeInstances",)], ids=["names", "tags"], indirect=True)
async def test_somebody_elses_instance(world: World, until: Until) -> None:
    """A PeerPod object that a user wrote, about the VM of another one's pod."""
    _, victim = await world.pod("bank")
    pod = world.api.add_pod("evil", namespace="shop", node="worker-1")
    world.claim(pod, victim)
    world.api.remove_pod(pod)
    world.api.remove_pod(world.api.object("Pod", "bank", "shop"))
    world.reap(grace="10ms")
    await until(lambda: "bank" not in world.claims, "the VM of the pod that it is named after to go")
    assert world.asked_to_delete == ["ok"]


async def test_an_instance_that_is_not_named_after_the_pod(world: World, until: Until) -> None:
    other = await world.vm("database")
    pod = world.api.add_pod("evil", namespace="shop", node="worker-1")
    world.claim(pod, other)
    world.api.remove_pod(pod)
    world.reap(grace="10ms")
    await until(lambda: len(world.cloud.calls.of("DescribeInstanceAttribute")) >= 2, "a look at the instance")
    assert world.instances == {other}
    assert world.asked_to_delete == []
    assert world.claims == {"evil": True}


async def test_the_wrong_region(world: World, until: Until, caplog: pytest.LogCaptureFixture) -> None:
    """Where no instance of the cluster is found, that one is not found says nothing."""
    for each in range(3):
        pod = world.api.add_pod(f"runs-{each}", namespace="shop", node="worker-1")
        world.claim(pod, f"i-2zeelsewhere00000000{each}")
    pod = world.api.add_pod("lost", namespace="shop", node="worker-1")
    world.claim(pod, "i-2zeelsewhere000000009")
    world.api.remove_pod(pod)
    world.reap(grace="10ms")
    await until(lambda: len(world.cloud.calls.of("DescribeInstanceAttribute")) >= 4, "samples to be taken")
    assert world.claims["lost"]


async def test_all_that_belongs_to_the_sandbox_goes_too(world: World, until: Until) -> None:
    pod, _ = await world.pod("lost", USE_PUBLIC_IP="true", EXTERNAL_NETWORK_VIA_PODVM="true")
    assert list(world.cloud.eips)
    (sandbox,) = (each.tags["caa-sandbox"] for each in world.cloud.instances)
    found = world.api.objects("PeerPod")[0]["metadata"]

    def annotate(there: Any) -> Any:
        there["metadata"]["annotations"] = {"caa.peerpods/sandbox": sandbox}
        return there

    world.api.store.update(world.api._resource("PeerPod"), "shop", found["name"], annotate)
    world.api.remove_pod(pod)
    world.reap()
    await until(lambda: not world.claims, "the object to go")
    await until(lambda: not world.cloud.leftovers(), "all that was marked to go")


async def test_dry_run(world: World, until: Until) -> None:
    pod, instance = await world.pod("lost")
    world.api.remove_pod(pod)
    world.reap(dry_run="true", grace="10ms")
    await until(lambda: len(world.cloud.calls.of("DescribeInstanceAttribute")) >= 3, "several rounds")
    assert world.instances == {instance}
    assert world.claims == {"lost": True}
    assert world.api.count("patch") == 0


async def test_too_many_at_once(world: World, rounds: Rounds, until: Until) -> None:
    for each in range(12):
        pod = world.api.add_pod(f"lost-{each}", namespace="shop", node="worker-1")
        world.claim(pod, f"i-2zegone00000000000{each:02}")
        world.api.remove_pod(pod)
    reaper = world.reap(grace="10ms")
    await rounds(60)
    assert all(world.claims.values())
    assert world.cloud.calls.of("DescribeInstanceAttribute") == []
    await world.end(reaper)
    world.reap(grace="10ms", max_share="100", per_minute="100")
    await until(lambda: not world.claims, "all to go, once an operator allows it")


@pytest.mark.parametrize(
    ("verb", "spoilt"),
    [
        ("get", [{"status": 500}, {"answer": "cut"}]),
        ("list", [{"status": 503}, {"answer": "cut"}]),
        ("watch", [{"status": 500}, {"answer": "garbage"}]),
    ],
)
async def test_spoiled_answers_delay_and_do_no_harm(
    world: World, until: Until, verb: str, spoilt: list[dict[str, Any]]
) -> None:
    _, kept = await world.pod("kept")
    pod, _ = await world.pod("lost")
    world.api.remove_pod(pod)
    for fault in spoilt:
        for resource in ("pods", "peerpods", "leases"):
            world.api.faults.add(Fault(verb=verb, resource=resource, **fault))
    world.reap()
    await until(lambda: world.instances == {kept}, "the lost one's VM to go")
    assert world.claims["kept"]


async def test_no_answer_is_not_no_pod(world: World, rounds: Rounds, until: Until) -> None:
    """A 404 that is not the API server's word about that pod: of a proxy, or of an API that is not served."""
    _, instance = await world.pod("web")
    found = world.api.objects("PeerPod")[0]["metadata"]
    world.api.store.delete(world.api._resource("PeerPod"), "shop", found["name"])
    world.api.faults.add(Fault(verb="get", resource="pods", status=404, times=None))
    world.reap(grace="10ms")
    await rounds(5)
    assert world.instances == {instance}


async def test_somebody_else_changes_the_object_meanwhile(world: World, until: Until) -> None:
    pod, _ = await world.pod("lost")
    world.api.faults.add(Fault(verb="patch", resource="peerpods", status=409, times=2))
    world.api.remove_pod(pod)
    world.reap()
    await until(lambda: not world.claims, "the object to go")
    assert world.asked_to_delete == ["ok"]


async def test_a_cloud_that_refuses_is_asked_again(world: World, until: Until) -> None:
    pod, instance = await world.pod("lost")
    world.cloud.faults.add(CloudFault(action="DeleteInstance", code="Forbidden.RAM"))
    world.api.remove_pod(pod)
    world.reap()
    await until(lambda: world.asked_to_delete, "a first try")
    assert world.instances == {instance}
    assert world.claims == {"lost": True}
