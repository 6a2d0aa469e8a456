"""Names and form of PeerPod objects."""

import re

import pytest

from caa.kubernetes import object_name
from caa.kubernetes.peer_pod import manifest


@pytest.mark.parametrize("pod", ["web", "web-0", "a.b", "x" * 253, "x" * 237 + "-" + "y" * 15])
def test_object_name_is_the_pods_and_a_name_that_kubernetes_takes(pod: str) -> None:
    name = object_name(pod)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name)
    assert len(name) <= 253
    beginning, _, ending = name.rpartition("-resource-")
    assert pod.startswith(beginning)
    assert len(ending) == 5
    assert not re.search(r"[-.]-resource", name)


def test_object_names_differ() -> None:
    assert len({object_name("web") for _ in range(100)}) == 100


def test_manifest_is_owned_by_the_pod_and_held_by_the_finalizer() -> None:
    assert manifest("team", "web-resource-abcde", "web", "uid-1", "i-1", "sandbox-1") == {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPod",
        "metadata": {
            "name": "web-resource-abcde",
            "namespace": "team",
            "annotations": {"caa.peerpods/sandbox": "sandbox-1"},
            "finalizers": ["peer.pod/finalizer"],
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": "web",
                    "uid": "uid-1",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {"cloudProvider": "alibabacloud", "instanceID": "i-1"},
    }
