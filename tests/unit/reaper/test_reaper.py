"""One round, with a cluster and a cloud that change while they are asked."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from caa.errors import UnavailableError
from caa.providers import InstanceLabels
from caa.reaper.brake import Brake
from caa.reaper.claims import Claim
from caa.reaper.metrics import ReaperMetrics
from caa.reaper.reaper import Reaper
from caa.reaper.verdicts import Graces, NodeSeen, PodSeen

CLAIM = Claim(
    namespace="shop",
    name="web-resource-abcde",
    uid="object-1",
    cloud="alibabacloud",
    instance="i-2ze0123456789abcdefg",
    held=True,
    deleting=True,
    pod="web",
    pod_uid="pod-1",
)
RUNNING = PodSeen("pod-1", "worker-1", deleting=False)


class Known:
    """Stands in for `Claims`."""

    complete = True

    def __init__(self, *claims: Claim) -> None:
        self.claims = list(claims)

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.claims)

    def drop(self, claim: Claim) -> None:
        self.claims.remove(claim)


class World:
    """Stands in for cluster and cloud. `meanwhile` happens while the cloud is asked about the instance."""

    def __init__(self) -> None:
        self.claim_there: Claim | None = CLAIM
        self.pod_there: PodSeen | None = None
        self.node_there: NodeSeen | None = NodeSeen(ready=True)
        self.labels_there: InstanceLabels | None = InstanceLabels("podvm-web-01234567", {})
        self.meanwhile: Callable[[], object] = lambda: None
        self.trouble = False
        self.deleted: list[str] = []
        self.disclaimed: list[str] = []

    async def claim(self, _namespace: str, _name: str) -> Claim | None:
        return self.claim_there

    async def pod(self, _namespace: str, _name: str) -> PodSeen | None:
        if self.trouble:
            raise UnavailableError("away")
        return self.pod_there

    async def node(self, _name: str) -> NodeSeen | None:
        return self.node_there

    async def labels(self, _instance: str) -> InstanceLabels | None:
        self.meanwhile()
        return self.labels_there

    async def reap(self, instance: str, _sandbox: str) -> None:
        self.deleted.append(instance)

    async def disclaim(self, _namespace: str, name: str, _instance: str) -> bool:
        self.disclaimed.append(name)
        return True


@pytest.fixture
def world() -> World:
    return World()


def reaper(world: World, *claims: Claim, may_act: Callable[[], bool] = lambda: True, **more: Any) -> Reaper:
    looks: Any = world
    known: Any = Known(*(claims or (CLAIM,)))
    options: dict[str, Any] = {"dry_run": False, "graces": Graces(pod=0.0, node=0.0), "every": 0.001} | more
    return Reaper(
        known,
        looks,
        world,
        world.disclaim,
        brake=Brake(per_minute=100, share=1.0, always=10),
        may_act=may_act,
        metrics=ReaperMetrics(CollectorRegistry()),
        **options,
    )


async def test_what_is_due_goes_with_its_finalizer(world: World) -> None:
    await reaper(world).round()
    assert (world.deleted, world.disclaimed) == ([CLAIM.instance], [CLAIM.name])


def change(what: str, value: object) -> Callable[[World], None]:
    return lambda world: setattr(world, what, value)


@pytest.mark.parametrize(
    "meanwhile",
    [
        change("pod_there", RUNNING),
        change("pod_there", PodSeen("pod-1", "worker-1", deleting=True)),
        change("pod_there", PodSeen("pod-9", "worker-1", deleting=False, static=True)),
        change("trouble", True),
        change("claim_there", None),
        change("claim_there", replace(CLAIM, held=False)),
        change("claim_there", replace(CLAIM, uid="object-2")),
        change("claim_there", replace(CLAIM, instance="i-2zeanother0000000000")),
        change("claim_there", replace(CLAIM, cloud="aws")),
        change("claim_there", replace(CLAIM, pod_uid="pod-2")),
    ],
)
async def test_what_changes_at_the_last_moment_is_seen(
    world: World, meanwhile: Callable[[World], None]
) -> None:
    world.meanwhile = lambda: meanwhile(world)
    await reaper(world).round()
    assert (world.deleted, world.disclaimed) == ([], [])


async def test_who_leads_no_more_does_not_act(world: World) -> None:
    await reaper(world, may_act=lambda: False).round()
    assert world.deleted == []


async def test_in_a_round_with_trouble_nothing_is_judged(world: World) -> None:
    world.trouble = True
    await reaper(world).round()
    assert world.deleted == []


async def test_an_instance_that_a_living_pod_claims_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a backup was restored."""
    other = replace(CLAIM, name="other", uid="object-2", pod="db", pod_uid="pod-2", deleting=False)
    seen = {"web": None, "db": PodSeen("pod-2", "worker-1", deleting=False)}

    async def pod(_namespace: str, name: str) -> PodSeen | None:
        return seen[name]

    monkeypatch.setattr(world, "pod", pod)
    await reaper(world, CLAIM, other).round()
    assert world.deleted == []


async def test_two_claims_to_one_instance_of_pods_that_are_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(CLAIM, name="other", uid="object-2")

    async def claim(_namespace: str, name: str) -> Claim | None:
        return CLAIM if name == CLAIM.name else other

    monkeypatch.setattr(world, "claim", claim)
    await reaper(world, CLAIM, other).round()
    assert sorted(world.disclaimed) == ["other", CLAIM.name]


async def test_a_failure_is_tried_again_later(world: World) -> None:
    world.labels_there = InstanceLabels("the-database", {})
    one = reaper(world, every=0.02)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1

    world.meanwhile = look
    for _ in range(5):
        await one.round()
    assert looks == 1
    world.labels_there = InstanceLabels("podvm-web-01234567", {})
    async with asyncio.timeout(5):
        while not world.deleted:
            await one.round()
            await asyncio.sleep(0.01)


async def test_it_waits_until_all_are_known(world: World) -> None:
    known: Any = Known(CLAIM)
    known.complete = False
    one = reaper(world)
    one._claims = known
    running = asyncio.create_task(one.run())
    await asyncio.sleep(0.02)
    assert world.deleted == []
    known.complete = True
    async with asyncio.timeout(5):
        while not world.disclaimed:
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
