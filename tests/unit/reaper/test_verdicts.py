"""Who is to be reaped: the table, row by row, and then in any order of events."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from caa.podvm import instance_name
from caa.providers import InstanceLabels
from caa.reaper.claims import Claim
from caa.reaper.patience import Patience
from caa.reaper.verdicts import Case, Graces, Ground, NodeSeen, PodSeen, Spared, judge, not_its

GRACES = Graces(pod=300.0, node=1800.0)
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
ENDING = PodSeen("pod-1", "worker-1", deleting=True, grace=30.0)
READY = NodeSeen(ready=True)
LOST = NodeSeen(ready=False, spell="since noon")


@pytest.mark.parametrize(
    ("claim", "pod", "node", "ground", "wait"),
    [
        (CLAIM, None, None, Ground.POD_GONE, 300.0),
        (replace(CLAIM, deleting=False), None, READY, Ground.POD_GONE, 300.0),
        (CLAIM, replace(RUNNING, uid="pod-2"), READY, Ground.POD_GONE, 300.0),
        (CLAIM, ENDING, None, Ground.NODE_GONE, 330.0),
        (CLAIM, ENDING, LOST, Ground.NODE_LOST, 1800.0),
        (CLAIM, replace(ENDING, grace=3600.0), LOST, Ground.NODE_LOST, 3900.0),
    ],
)
def test_gone_for_good(
    claim: Claim, pod: PodSeen | None, node: NodeSeen | None, ground: Ground, wait: float
) -> None:
    verdict = judge(claim, pod, node, GRACES)
    assert isinstance(verdict, Case)
    assert (verdict.ground, verdict.wait) == (ground, wait)


@pytest.mark.parametrize(
    ("claim", "pod", "node"),
    [
        (CLAIM, RUNNING, READY),
        (CLAIM, RUNNING, LOST),
        (CLAIM, RUNNING, None),
        (CLAIM, ENDING, READY),
        (CLAIM, replace(ENDING, node=""), None),
        (CLAIM, PodSeen("pod-2", "worker-1", deleting=False, static=True), READY),
        (replace(CLAIM, held=False), None, None),
        (replace(CLAIM, cloud="aws"), None, None),
        (replace(CLAIM, cloud=""), None, None),
        (replace(CLAIM, instance=""), None, None),
        (replace(CLAIM, instance="i-0"), None, None),
        (replace(CLAIM, instance='i-2ze01234567"]'), None, None),
        (replace(CLAIM, pod="", pod_uid=""), None, None),
    ],
)
def test_spared(claim: Claim, pod: PodSeen | None, node: NodeSeen | None) -> None:
    assert isinstance(judge(claim, pod, node, GRACES), Spared)


SANDBOX = "0123456789abcdef" * 4
TAGS = {"caa-sandbox": SANDBOX, "caa-pod": "web", "caa-namespace": "shop", "caa-node": "worker-1"}
NAME = "podvm-web-01234567"


@pytest.mark.parametrize(
    ("claim", "labels", "is_its"),
    [
        (CLAIM, InstanceLabels(NAME, TAGS), True),
        (CLAIM, InstanceLabels(NAME, {}), True),
        (replace(CLAIM, sandbox=SANDBOX), InstanceLabels(NAME, TAGS), True),
        (replace(CLAIM, sandbox="f" * 64), InstanceLabels(NAME, TAGS), False),
        (CLAIM, InstanceLabels(NAME, TAGS | {"caa-namespace": "bank"}), False),
        (CLAIM, InstanceLabels(NAME, TAGS | {"caa-pod": "web-2"}), False),
        (CLAIM, InstanceLabels("podvm-db-01234567", {}), False),
        (CLAIM, InstanceLabels("podvm-web-1-01234567", {}), False),
        (CLAIM, InstanceLabels("the-database", {}), False),
        (CLAIM, InstanceLabels("", TAGS), False),
        (
            replace(CLAIM, pod="a-name-that-is.longer-than-" + "x" * 60),
            InstanceLabels(instance_name("a-name-that-is.longer-than-" + "x" * 60, SANDBOX), {}),
            True,
        ),
    ],
)
def test_an_instance_is_told_by_its_labels(claim: Claim, labels: InstanceLabels, is_its: bool) -> None:
    assert (not_its(claim, labels) == "") is is_its


class Cluster(RuleBasedStateMachine):
    """One claim, whose pod and node live through anything, and a reaper that looks now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pod: PodSeen | None = RUNNING
        self.node: NodeSeen | None = READY
        self.spells = 0
        self.patience = Patience(longest_step=30.0)
        self.watched = 0.0
        self.last_look: float | None = None
        self.ground: Ground | None = None
        self.ground_since = 0.0
        self.reaped_on: Ground | None = None

    @rule(seconds=st.sampled_from([1.0, 15.0, 30.0, 60.0, 600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def pod_is_to_end(self) -> None:
        if self.pod:
            self.pod = replace(self.pod, deleting=True, grace=30.0)
            self._note()

    @rule(another=st.booleans())
    def pod_is_gone(self, another: bool) -> None:
        self.pod = PodSeen("pod-2", "worker-1", deleting=False) if another else None
        self._note()

    @rule(state=st.sampled_from(["ready", "lost", "gone"]))
    def node_becomes(self, state: str) -> None:
        if state == "lost" and (self.node is None or self.node.ready):
            self.spells += 1
            self.node = NodeSeen(ready=False, spell=self.spells)
        elif state == "ready":
            self.node = READY
        elif state == "gone":
            self.node = None
        came_back = self.ground is Ground.NODE_GONE and self.node is not None
        self._note()
        if came_back:  # for at least as long as it takes to be seen
            self.reaper_looks(rounds=1, every=15.0)

    @rule()
    def reaper_begins_anew(self) -> None:
        self.patience = Patience(longest_step=30.0)
        self.last_look = None

    @rule(rounds=st.integers(1, 60), every=st.sampled_from([5.0, 15.0, 25.0]))
    def reaper_looks(self, rounds: int, every: float) -> None:
        for _ in range(rounds):
            self.now += every
            self.patience.looked(self.now)
            verdict = judge(CLAIM, self.pod, self.node, GRACES)
            if isinstance(verdict, Spared):
                self.patience.over(CLAIM.uid)
            elif self.patience.lasted(CLAIM.uid, verdict.occasion) >= verdict.wait:
                self._reap(verdict)

    def _reap(self, case: Case) -> None:
        pod_lives = self.pod is not None and self.pod.uid == CLAIM.pod_uid and not self.pod.deleting
        assert not pod_lives
        assert case.ground is self.ground
        assert self.now - self.ground_since >= case.wait

    def _note(self) -> None:
        """What is true, told apart from what was seen."""
        ground: Ground | None = None
        if self.pod is None or self.pod.uid != CLAIM.pod_uid:
            ground = Ground.POD_GONE
        elif self.pod.deleting and self.node is None:
            ground = Ground.NODE_GONE
        elif self.pod.deleting and self.node and not self.node.ready:
            ground = Ground.NODE_LOST
        if ground is not self.ground:
            self.ground, self.ground_since = ground, self.now

    @invariant()
    def a_gap_in_looking_is_no_evidence(self) -> None:
        if self.ground is None:
            assert isinstance(judge(CLAIM, self.pod, self.node, GRACES), Spared)


TestAnyOrderOfEvents = Cluster.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=60, stateful_step_count=30)


def test_what_lasts_is_reaped_in_the_end() -> None:
    patience = Patience(longest_step=30.0)
    verdict = judge(CLAIM, None, None, GRACES)
    assert isinstance(verdict, Case)
    lasted = 0.0
    for now in range(0, 316, 15):
        patience.looked(float(now))
        lasted = patience.lasted(CLAIM.uid, verdict.occasion)
    assert lasted == 315.0


def test_time_without_looks_does_not_count() -> None:
    patience = Patience(longest_step=30.0)
    patience.looked(0.0)
    assert patience.lasted("a", "gone") == 0.0
    patience.looked(100_000.0)
    assert patience.lasted("a", "gone") == 30.0
    patience.looked(99_000.0)
    assert patience.lasted("a", "gone") == 30.0, "a clock that jumps back"


def test_another_occasion_begins_anew_and_what_is_over_is_forgotten() -> None:
    patience = Patience(longest_step=100.0)
    for now in (0.0, 50.0):
        patience.looked(now)
        patience.lasted("a", "gone")
        patience.lasted("b", "gone")
    assert patience.lasted("a", "lost") == 0.0
    patience.over("b")
    assert patience.lasted("b", "gone") == 0.0
    patience.looked(60.0)
    patience.keep_only({"a"})
    assert (patience.lasted("a", "lost"), patience.lasted("b", "gone")) == (10.0, 0.0)
