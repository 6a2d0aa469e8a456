"""PeerPod objects: which instance a pod has, told to the cluster, so that it can be found without its node.

apiVersion: confidentialcontainers.org/v1alpha1, kind: PeerPod, in the pod's namespace
metadata: owned by the Pod, and held by a finalizer until the instance is deleted
spec: {cloudProvider, instanceID}
"""

import secrets
from typing import Any

GROUP = "confidentialcontainers.org"
VERSION = "v1alpha1"
KIND = "PeerPod"
PLURAL = "peerpods"
FINALIZER = "peer.pod/finalizer"
SANDBOX_ANNOTATION = "caa.peerpods/sandbox"
"""The id by which the cloud's marks name what belongs to an instance: with it, whoever cleans up after a lost
node finds interfaces and addresses too."""
CLOUD_PROVIDER = "alibabacloud"

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Of generated names in Kubernetes: no vowels, and nothing that looks like another."""
_LONGEST_NAME = 253


def object_name(pod: str) -> str:
    """A new name for a pod's object, "<pod>-resource-<5 random>". It is chosen before the object is made, so
    that the journal knows it by then."""
    ending = "-resource-" + "".join(secrets.choice(_ALPHABET) for _ in range(5))
    return pod[: _LONGEST_NAME - len(ending)].rstrip("-.") + ending


def manifest(namespace: str, name: str, pod: str, uid: str, instance_id: str, sandbox: str) -> dict[str, Any]:
    """The object. When the pod that has `uid` is gone, the cluster marks the object as deleted, and the
    finalizer keeps it until the instance is gone too.
    """
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {SANDBOX_ANNOTATION: sandbox},
            "finalizers": [FINALIZER],
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": pod,
                    "uid": uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {"cloudProvider": CLOUD_PROVIDER, "instanceID": instance_id},
    }
