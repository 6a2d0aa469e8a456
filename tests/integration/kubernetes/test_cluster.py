"""What the daemon does in a cluster, on one that behaves: the strict API server, or a real one."""

import base64
import json
from typing import Any

import httpx2
import pytest
from lightkube.models.core_v1 import Container, LocalObjectReference, PodSchedulingGate, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Node, Pod, Secret, ServiceAccount
from lightkube.types import PatchType

from caa.errors import AlreadyExistsError
from caa.kubernetes import object_name
from caa.kubernetes.cluster import PeerPod

CAPACITY, OWNER = "kata.peerpods.io/vm", "kata.peerpods.io/caa-owner"


async def add_pod(lab: Any, name: str, *pull_secrets: str, **spec: Any) -> Any:
    """One that no node will take."""
    return await lab.admin.create(
        Pod(
            metadata=ObjectMeta(name=name, namespace=lab.namespace),
            spec=PodSpec(
                containers=[Container(name="main", image="none")],
                schedulingGates=[PodSchedulingGate(name="caa.test/never")],
                imagePullSecrets=[LocalObjectReference(name=secret) for secret in pull_secrets],
                **spec,
            ),
        )
    )


async def test_object_of_a_pod_is_made_once_and_let_go(anywhere: Any) -> None:
    uid, name = (await add_pod(anywhere, "web")).metadata.uid, object_name("web")
    for _ in range(2):  # the second time as after an answer that was lost
        await anywhere.cluster.claim(anywhere.namespace, "web", uid, name, "i-1", "sandbox-1")
    made = await anywhere.admin.get(PeerPod, name, namespace=anywhere.namespace)
    assert made["spec"] == {"cloudProvider": "alibabacloud", "instanceID": "i-1"}
    assert made["metadata"]["finalizers"] == ["peer.pod/finalizer"]
    assert made["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "web",
            "uid": uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    for _ in range(2):
        assert await anywhere.cluster.disclaim(anywhere.namespace, name, "i-1")
    left = await anywhere.admin.get(PeerPod, name, namespace=anywhere.namespace)
    assert not left["metadata"].get("finalizers")


async def test_object_of_another_instance_is_left_alone(anywhere: Any) -> None:
    uid, name = (await add_pod(anywhere, "web")).metadata.uid, object_name("web")
    await anywhere.cluster.claim(anywhere.namespace, "web", uid, name, "i-1", "sandbox-1")
    with pytest.raises(AlreadyExistsError, match=name):
        await anywhere.cluster.claim(anywhere.namespace, "web", uid, name, "i-2", "sandbox-2")
    assert await anywhere.cluster.disclaim(anywhere.namespace, name, "i-2")
    found = await anywhere.admin.get(PeerPod, name, namespace=anywhere.namespace)
    assert found["metadata"]["finalizers"] == ["peer.pod/finalizer"]
    assert await anywhere.cluster.disclaim(anywhere.namespace, name, "i-1")


async def test_finalizers_of_others_stay(anywhere: Any) -> None:
    uid, name = (await add_pod(anywhere, "web")).metadata.uid, object_name("web")
    await anywhere.cluster.claim(anywhere.namespace, "web", uid, name, "i-1", "sandbox-1")
    for finalizers in (["a.example/b", "peer.pod/finalizer", "c.example/d"], []):
        patch = {"metadata": {"finalizers": finalizers}}
        await anywhere.admin.patch(
            PeerPod, name, patch, namespace=anywhere.namespace, patch_type=PatchType.MERGE
        )
        if finalizers:
            assert await anywhere.cluster.disclaim(anywhere.namespace, name, "i-1")
            found = await anywhere.admin.get(PeerPod, name, namespace=anywhere.namespace)
            assert found["metadata"]["finalizers"] == ["a.example/b", "c.example/d"]


async def test_object_that_is_not_there_need_not_be_let_go(anywhere: Any) -> None:
    assert not await anywhere.cluster.disclaim(anywhere.namespace, object_name("web"), "i-1")


async def test_capacity_belongs_to_the_daemon_that_said_so_last(anywhere: Any) -> None:
    async def capacity() -> tuple[str | None, str | None]:
        node = await anywhere.admin.get(Node, anywhere.node)
        return node.status.capacity.get(CAPACITY), (node.metadata.annotations or {}).get(OWNER)

    await anywhere.cluster.advertise(10, "old")
    assert await capacity() == ("10", "old")
    await anywhere.cluster.advertise(20, "new")
    await anywhere.cluster.withdraw("old")
    assert await capacity() == ("20", "new")
    assert not await anywhere.cluster.readvertise(10, "old")
    assert await capacity() == ("20", "new")
    for _ in range(2):
        await anywhere.cluster.withdraw("new")
        assert await capacity() == (None, "new")
    assert await anywhere.cluster.readvertise(20, "new")
    assert not await anywhere.cluster.readvertise(20, "new")
    await anywhere.cluster.withdraw("new")


async def test_pull_secrets_of_pod_and_service_account(anywhere: Any) -> None:
    async def add_secret(name: str, key: str, document: Any) -> None:
        kind = {".dockercfg": "dockercfg", ".dockerconfigjson": "dockerconfigjson"}[key]
        data = {key: base64.b64encode(json.dumps(document).encode()).decode()}
        metadata = ObjectMeta(name=name, namespace=anywhere.namespace)
        await anywhere.admin.create(Secret(metadata=metadata, type=f"kubernetes.io/{kind}", data=data))

    await add_secret("old", ".dockercfg", {"old.example": {"username": "u", "password": "p"}})
    await add_secret(
        "shared",
        ".dockerconfigjson",
        {"auths": {"both.example": {"auth": "c2hhcmVk"}, "shared.example": {"auth": "c2hhcmVk"}}},
    )
    await add_secret("own", ".dockerconfigjson", {"auths": {"both.example": {"auth": "b3du"}}})
    account = ServiceAccount(
        metadata=ObjectMeta(name="builder", namespace=anywhere.namespace),
        imagePullSecrets=[LocalObjectReference(name=name) for name in ("shared", "own", "old", "none")],
    )
    await anywhere.admin.create(account)
    await add_pod(anywhere, "web", "own", "lost", serviceAccountName="builder")
    document = await anywhere.cluster.auth_json(anywhere.namespace, "web")
    assert document is not None
    assert json.loads(document) == {
        "auths": {
            "both.example": {"auth": "b3du"},
            "old.example": {"auth": base64.b64encode(b"u:p").decode()},
            "shared.example": {"auth": "c2hhcmVk"},
        }
    }


async def test_pod_without_pull_secrets(anywhere: Any) -> None:
    await add_pod(anywhere, "web")
    assert await anywhere.cluster.auth_json(anywhere.namespace, "web") is None


async def test_the_api_server_was_asked_in_earnest(anywhere: Any) -> None:
    """Against an answer that says yes to everything, the tests above would prove nothing."""
    with pytest.raises(httpx2.HTTPStatusError, match=r"404|not found"):
        await anywhere.admin.get(PeerPod, "none", namespace=anywhere.namespace)
