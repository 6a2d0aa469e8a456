"""A client that people use, unmodified: what it makes of the server is what it makes of a real one."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer, Fault, User
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Node, Pod
from lightkube.types import PatchType

PeerPod = create_namespaced_resource("confidentialcontainers.org", "v1alpha1", "PeerPod", "peerpods")


@pytest.fixture
async def kube(api: ApiServer, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    config = KubeConfig.from_file(api.kubeconfig(tmp_path / "kubeconfig"))
    async with AsyncClient(config=config, trust_env=False) as client:
        yield client


async def test_objects(kube: AsyncClient) -> None:
    patch = [{"op": "add", "path": "/status/capacity/kata.peerpods.io~1vm", "value": "10"}]
    node: Any = await kube.patch(Node.Status, "worker-1", patch, patch_type=PatchType.JSON)
    assert node.status.capacity["kata.peerpods.io/vm"] == "10"
    labelled: Any = await kube.patch(Node, "worker-1", {"metadata": {"labels": {"a": "b"}}})
    assert labelled.metadata.labels["kubernetes.io/hostname"] == "worker-1"
    made = await kube.create(PeerPod(metadata=ObjectMeta(name="it"), spec={"instanceID": "i-1"}))
    assert made.spec["instanceID"] == "i-1"
    patch_of_list = {"metadata": {"finalizers": ["a.b/c"]}}
    with pytest.raises(ApiError) as refused:
        await kube.patch(PeerPod, "it", patch_of_list, patch_type=PatchType.STRATEGIC)
    assert refused.value.status.code == 415
    await kube.patch(PeerPod, "it", patch_of_list, patch_type=PatchType.MERGE)
    await kube.delete(PeerPod, "it")
    kept: Any = await kube.get(PeerPod, "it")
    assert kept.metadata.deletionTimestamp


async def test_pages(api: ApiServer, kube: AsyncClient) -> None:
    for index in range(5):
        api.add_pod(f"pod-{index}", node="worker-1" if index else "")
    listed: Any = kube.list(Pod, chunk_size=2, fields={"spec.nodeName": "worker-1"})
    assert [pod.metadata.name async for pod in listed] == [f"pod-{index}" for index in range(1, 5)]
    assert api.count("list", "pods") == 2


async def test_lease(kube: AsyncClient) -> None:
    now = dt.datetime.now(dt.UTC).replace(microsecond=5)
    spec = LeaseSpec(holderIdentity="a", leaseDurationSeconds=15, renewTime=now)
    lease: Any = await kube.create(Lease(metadata=ObjectMeta(name="it"), spec=spec))
    assert lease.spec.renewTime == now
    await kube.replace(lease)
    lease.spec.holderIdentity = "b"
    await kube.replace(lease)
    with pytest.raises(ApiError) as stale:
        await kube.replace(lease)
    assert (stale.value.status.code, stale.value.status.reason) == (409, "Conflict")


async def test_watch(api: ApiServer, kube: AsyncClient) -> None:
    pod = api.add_pod("nginx")
    watch: Any = aiter(kube.watch(Pod, server_timeout=1))
    assert (await anext(watch))[0] == "ADDED"
    api.set_ready(pod)
    type_, found = await anext(watch)
    assert (type_, found.status.phase) == ("MODIFIED", "Running")
    api.expire_versions(of_open_watches=True)
    with pytest.raises(ApiError) as gone:
        await anext(watch)
    assert gone.value.status.code == 410


async def test_rights_and_tokens(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in api.environment.items():
        monkeypatch.setenv(name, value)
    folder = api.service_account_folder(tmp_path / "account", namespace="system", name="daemon")
    config = KubeConfig.from_service_account(folder.path)
    async with AsyncClient(config=config, trust_env=False) as client:
        with pytest.raises(ApiError) as refused:
            await client.get(Node, "worker-1")
        assert refused.value.status.reason == "Forbidden"
        user = User.service_account("system", "daemon").name
        api.rbac.grant(user, [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}])
        await client.get(Node, "worker-1")
        folder.rotate()
        await client.get(Node, "worker-1")
    assert 401 in [request.status for request in api.requests]


async def test_error_without_json(api: ApiServer, kube: AsyncClient) -> None:
    api.faults.add(Fault(status=429, times=None))
    with pytest.raises(Exception, match="429") as refused:
        await kube.get(Node, "worker-1")
    assert not isinstance(refused.value, ApiError)
