"""Who is to be reaped: the rules, without I/O.

    the claim                    its pod              the pod's node      verdict
    ───────────────────────────  ───────────────────  ──────────────────  ─────────────────────────────
    is not held                  any                  any                 spared: nothing is owed
    is another cloud's,          any                  any                 spared: it is not ours, or can't
    malformed, or without a pod                                           be told whose it is
    is sound                     is gone              any                 POD_GONE
                                 exists               any                 spared
                                 is being deleted     is ready            spared: its daemon sees to it
                                 is being deleted     does not exist      NODE_GONE
                                 is being deleted     is not ready        NODE_LOST

A pod is known by its uid: another one of the same name means that it is gone, except where that is a static
pod's mirror, which gets a new uid while the same pod runs on. A verdict alone kills nothing: its ground must
last (`patience`), many at once are not believed (`brake`), and all is asked again right before (`reaper`).
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from caa.podvm import instance_name
from caa.providers import InstanceLabels
from caa.reaper.claims import Claim

CLOUD = "alibabacloud"
"""As spec.cloudProvider names it."""

_INSTANCE_ID = re.compile(r"i-[0-9a-z]{8,40}")
_LONGEST_TAG = 128
"""Characters of a tag's value; a pod's name may be longer."""
_NAME_TAIL = 8
"""Characters of the sandbox's id at the end of an instance's name."""


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod of a claim's name. None in its place: there is none."""

    uid: str
    node: str
    deleting: bool
    grace: float = 0.0
    """Seconds that it was given to end."""
    static: bool = False
    """It mirrors a pod that the kubelet runs by itself."""


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node. None in its place: there is none."""

    ready: bool
    spell: Hashable = None
    """Differs between one time that it was not ready and another."""


class Ground(Enum):
    """Why an instance is nobody's any more. The values are for metrics and logs."""

    POD_GONE = "pod gone"
    NODE_GONE = "node gone"
    NODE_LOST = "node not ready"


@dataclass(frozen=True, slots=True)
class Case:
    """A claim to be reaped once its ground has lasted."""

    ground: Ground
    occasion: Hashable
    """The ground lasts as long as this stays the same."""
    wait: float
    """Seconds that it has to last."""


@dataclass(frozen=True, slots=True)
class Spared:
    why: str
    odd: bool = False
    """Nobody but an operator will ever see to it."""


@dataclass(frozen=True, slots=True)
class Graces:
    """In seconds."""

    pod: float
    """That a node's daemon is given to see to the end itself, from when the pod should be gone."""
    node: float
    """That a node may be not ready, with the pod due to be gone, and come back."""


def judge(claim: Claim, pod: PodSeen | None, node: NodeSeen | None, graces: Graces) -> Case | Spared:
    """By the table above. `node` is that of `pod`, and matters only where `needs_node` says so."""
    if spared := unfit(claim):
        return spared
    if pod is None or pod.uid != claim.pod_uid:
        if pod and pod.static:
            return Spared("its name is a static pod's, which may run on under another uid")
        return Case(Ground.POD_GONE, claim.pod_uid, graces.pod)
    if not needs_node(claim, pod):
        return Spared("its pod exists")
    return _judge_ending(pod, node, graces)


def _judge_ending(pod: PodSeen, node: NodeSeen | None, graces: Graces) -> Case | Spared:
    overdue = pod.grace + graces.pod
    if node is None:
        return Case(Ground.NODE_GONE, pod.node, overdue)
    if node.ready:
        return Spared("its pod is ending, on a node that is ready")
    return Case(Ground.NODE_LOST, (pod.node, node.spell), max(overdue, graces.node))


def unfit(claim: Claim) -> Spared | None:
    """Why a claim is none of ours, whatever has become of its pod."""
    if not claim.held:
        return Spared("nothing is owed")
    if claim.cloud != CLOUD:
        return Spared(f"it is of another cloud: {claim.cloud[:40]!r}")
    if not _INSTANCE_ID.fullmatch(claim.instance):
        return Spared(f"its instanceID is none: {claim.instance[:60]!r}", odd=True)
    if not claim.pod_uid:
        return Spared("it is owned by no Pod, or by others too: whether it is in use can't be told", odd=True)
    return None


def needs_node(claim: Claim, pod: PodSeen | None) -> bool:
    return pod is not None and pod.uid == claim.pod_uid and pod.deleting and bool(pod.node)


def not_its(claim: Claim, instance: InstanceLabels) -> str:
    """Why the instance is not the one that was made for the claim's pod; empty: it is.

    A PeerPod object is a user's to write, in their own namespace: it must not be a way to have somebody
    else's instance deleted. Both daemons, ours and the Go one, name instances alike: podvm-<pod>-<8 of the
    sandbox id>.
    """
    tags = instance.tags
    if "caa-sandbox" in tags:
        said = tags.get("caa-namespace", ""), tags.get("caa-pod", "")
        if said != (claim.namespace, claim.pod[:_LONGEST_TAG]):
            return f"its tags name the pod {'/'.join(said)}"
        if claim.sandbox and tags["caa-sandbox"] != claim.sandbox:
            return f"its tags name the sandbox {tags['caa-sandbox']}"
    tail = instance.name[-_NAME_TAIL:]
    if instance.name != instance_name(claim.pod, tail):
        return f"its name is {instance.name!r}, and not that of a VM of pod {claim.pod}"
    return ""
