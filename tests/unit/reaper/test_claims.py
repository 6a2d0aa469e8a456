from typing import Any

import pytest

from caa.errors import UnavailableError
from caa.kubernetes import SANDBOX_ANNOTATION
from caa.reaper import claims

POD = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "pod-1", "controller": True}


def peer_pod(**metadata: Any) -> dict[str, Any]:
    """As the Go daemon makes it."""
    return {
        "apiVersion": "confidentialcontainers.org/v1alpha1",
        "kind": "PeerPod",
        "metadata": {
            "name": "web-resource-x4k2p",
            "namespace": "shop",
            "uid": "object-1",
            "resourceVersion": "7",
            "finalizers": ["peer.pod/finalizer"],
            "ownerReferences": [POD],
            **metadata,
        },
        "spec": {"cloudProvider": "alibabacloud", "instanceID": "i-2ze0123456789abcdefg"},
    }


def test_the_go_daemons_objects_are_read() -> None:
    claim = claims.read(peer_pod())
    assert (claim.pod, claim.pod_uid, claim.instance) == ("web", "pod-1", "i-2ze0123456789abcdefg")
    assert claim.held
    assert not claim.deleting
    assert claim.sandbox == ""


def test_what_the_object_tells_beyond_that() -> None:
    claim = claims.read(
        peer_pod(
            deletionTimestamp="2025-01-01T12:00:00Z",
            annotations={SANDBOX_ANNOTATION: "ab" * 32},
            finalizers=["foregroundDeletion", "peer.pod/finalizer"],
        )
    )
    assert claim.deleting
    assert claim.held
    assert claim.sandbox == "ab" * 32
    assert not claims.read(peer_pod(finalizers=["somebody.else/finalizer"])).held


@pytest.mark.parametrize(
    "owners",
    [
        None,
        [],
        [POD, POD | {"name": "other", "uid": "pod-2"}],
        [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d-1"}],
        [{"apiVersion": "evil/v1", "kind": "Pod", "name": "web", "uid": "d-1"}],
    ],
)
def test_the_owner_is_one_pod_or_unknown(owners: Any) -> None:
    claim = claims.read(peer_pod(ownerReferences=owners))
    assert (claim.pod, claim.pod_uid) == ("", "")


def test_what_is_no_sandbox_is_no_mark() -> None:
    assert claims.read(peer_pod(annotations={SANDBOX_ANNOTATION: "a b c d e f g"})).sandbox == ""


@pytest.mark.parametrize("found", [{}, {"metadata": {}}, {"metadata": None}, {"metadata": []}])
def test_half_an_object_is_no_object(found: Any) -> None:
    with pytest.raises(UnavailableError, match="not whole"):
        claims.read(found)


def test_an_object_without_a_spec_has_no_instance() -> None:
    found = peer_pod()
    del found["spec"]
    assert claims.read(found).instance == ""
