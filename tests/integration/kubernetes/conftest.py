"""A cluster for each test: the API server, with one node, and the ways to it.

`server` and `cluster` are that and the daemon's view of it, with the rights that the daemon asks for and no
others.
`anywhere` is what a real cluster offers too: with CAA_TEST_KUBECONFIG its tests run against that one.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from apiserver import ApiServer, ServiceAccountFolder
from lightkube import AsyncClient, KubeConfig
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Node

from caa.kubernetes import RIGHTS, Cluster, join
from caa.sandbox import Journal

NODE = "worker-1"
ACCOUNT = "system:serviceaccount:confidential-containers-system:cloud-api-adaptor"
RULES = [
    {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]} for right in RIGHTS
]


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as api:
        api.add_node("worker-1")
        yield api


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path) -> Path:
    """For a user who may do everything."""
    return api.kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def service_account(api: ApiServer, tmp_path: Path) -> ServiceAccountFolder:
    """The daemon's folder, as its pod has it. What it may do is what the test adds to `api.rbac`."""
    return api.service_account_folder(tmp_path / "serviceaccount")


@pytest.fixture
def server(api: ApiServer) -> ApiServer:
    api.rbac.grant(ACCOUNT, RULES)
    return api


@pytest.fixture
async def cluster(server: ApiServer, service_account: ServiceAccountFolder) -> AsyncIterator[Cluster]:
    cluster = join({"NODE_NAME": NODE, **server.environment}, service_account.path)
    yield cluster
    await cluster.close()


@dataclass
class Anywhere:
    """A cluster of either kind, as its administrator sees it, and as the daemon does."""

    admin: AsyncClient
    cluster: Cluster
    node: str
    namespace: str


@pytest.fixture
async def anywhere(kubeconfig: Path, cluster: Cluster) -> AsyncIterator[Anywhere]:
    real = os.environ.get("CAA_TEST_KUBECONFIG")
    admin = AsyncClient(config=KubeConfig.from_file(real or kubeconfig), trust_env=False)
    namespace = f"caat-{uuid.uuid4().hex[:8]}"
    await admin.create(Namespace(metadata=ObjectMeta(name=namespace)))
    try:
        if real:
            node, *_ = [str(node.metadata and node.metadata.name) async for node in admin.list(Node)]
            joined = join({"NODE_NAME": node, "KUBECONFIG": real})
            yield Anywhere(admin, joined, node, namespace)
            await joined.close()
        else:
            yield Anywhere(admin, cluster, NODE, namespace)
    finally:
        await admin.delete(Namespace, namespace)
        await admin.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "state") as journal:
        yield journal
