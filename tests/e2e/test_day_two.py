"""A day in the life of a cluster: twenty pods, an upgrade, an API server that goes away, a lost node.

At the end the cluster, the journals and the cloud tell the same story, which is that nothing is left. The
daemons and the reaper have the rights that `deploy/` gives them, and no others.
"""

import asyncio
import contextlib
import os
import socket
import sqlite3
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml
from apiserver import ApiServer, Object, User
from pyroute2.netns import setns

from caa.demo import Child, Stage, WorkerNode
from caa.errors import CaaError
from caa.fakecloud import NETNS_FOLDER, FakeCloudSettings, LocalCloud
from caa.polling import growing, poll

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

DEPLOY = Path(__file__).parents[2] / "deploy" / "kustomize"
NAMESPACE = "confidential-containers-system"
LIMIT = "16"
CAPACITY = "kata.peerpods.io/vm"
ON_THE_FIRST, ON_THE_SECOND = 15, 5


class ClusterNode(Stage):
    """A node whose daemon is a member of the cluster."""

    def __init__(
        self, name: str, worker: WorkerNode, cloud: LocalCloud, folder: Path, api: ApiServer
    ) -> None:
        super().__init__(worker, cloud, folder)
        self.name = name
        self._api = api
        folder.mkdir()
        account = User.service_account(NAMESPACE, "cloud-api-adaptor")
        self._kubeconfig = api.kubeconfig(folder / "kubeconfig", account)

    @property
    def environ(self) -> Mapping[str, str]:
        return {
            **super().environ,
            "NODE_NAME": self.name,
            "POD_UID": str(uuid.uuid4()),  # each daemon's pod has its own
            "KUBECONFIG": str(self._kubeconfig),
            "PEERPODS_LIMIT_PER_NODE": LIMIT,
        }

    @property
    def capacity(self) -> str | None:
        node = self._api.object("Node", self.name, "")
        assert node
        found: str | None = node["status"]["capacity"].get(CAPACITY)
        return found

    @property
    def journal_rows(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as journal:
            return [row[0] for row in journal.execute("SELECT id FROM sandboxes")]


class Pod:
    """A pod as kubelet and shim see it."""

    def __init__(self, node: ClusterNode, name: str, api: ApiServer) -> None:
        self.name = name
        self.node = node
        self.shim = node.shim()
        self._api = api
        self.object: Object = api.add_pod(name, node=node.name, runtime_class="kata-remote")

    async def start(self) -> None:
        netns, _ = await self.node.worker.add_pod(self.name)
        await self.shim.create_vm(pod=self.name, namespace="default", netns=netns)
        await self.shim.start_vm()
        self._api.set_ready(self.object)

    async def stop(self) -> None:
        await self.shim.stop_vm()
        await self.node.worker.remove_pod(self.name)
        self._api.remove_pod(self.object)


def listen_in(netns: Path, address: str) -> Callable[[int], socket.socket]:
    def listen(port: int) -> socket.socket:
        made: Future[socket.socket] = Future()

        def inside() -> None:
            try:
                setns(str(netns))
                made.set_result(socket.create_server((address, port), backlog=128))
            except BaseException as error:  # noqa: BLE001  result() raises it again
                made.set_exception(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return made.result()

    return listen


class Cluster:
    def __init__(self, api: ApiServer, cloud: LocalCloud, nodes: tuple[ClusterNode, ClusterNode]) -> None:
        self.api = api
        self.cloud = cloud
        self.nodes = nodes

    @property
    def objects(self) -> dict[str, str]:
        """PeerPod objects that are not on their way out: the pod and the instance of each."""
        return {
            each["metadata"]["ownerReferences"][0]["name"]: each["spec"]["instanceID"]
            for each in self.api.objects("PeerPod")
            if "deletionTimestamp" not in each["metadata"]
        }

    async def agrees(self, what: str, true: Callable[[], bool]) -> None:
        async def ask() -> tuple[bool | None, str]:
            seen = f"objects {self.api.objects('PeerPod')}, cloud {self.cloud.leftovers()}"
            return true() or None, seen

        await poll(ask, what=what, pauses=growing(0.05, longest=0.3), timeout=60)

    def is_told(self, pods: list[Pod]) -> bool:
        """Whether cluster and cloud have these pods, and no others."""
        objects = self.objects
        return objects.keys() == {pod.name for pod in pods} and sorted(objects.values()) == sorted(
            instance.id for instance in self.cloud.instances
        )


@pytest.fixture
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    name = f"caat-{os.getpid()}-{uuid.uuid4().hex[:4]}"
    folder = tmp_path_factory.mktemp("d")
    async with WorkerNode.up(f"{name}-a") as first, WorkerNode.up(f"{name}-b") as second:
        settings = FakeCloudSettings(
            dir=folder / "cloud",
            boot="netns",
            workers=(first.netns.name, second.netns.name),
            vpc_name=f"{name}-vpc",
        )
        async with LocalCloud(settings) as cloud:
            gateway = str(settings.vpc_cidr.broadcast_address - 2)
            async with ApiServer(listen=listen_in(NETNS_FOLDER / settings.vpc_name, gateway)) as api:
                api.add_namespace(NAMESPACE)
                for manifest in ("base/rbac.yaml", "components/reaper/rbac.yaml"):
                    api.rbac.add(*yaml.safe_load_all((DEPLOY / manifest).read_text()))
                nodes = []
                for worker, number in ((first, 1), (second, 2)):
                    api.add_node(f"worker-{number}")
                    nodes.append(ClusterNode(f"worker-{number}", worker, cloud, folder / str(number), api))
                yield Cluster(api, cloud, (nodes[0], nodes[1]))


@contextlib.asynccontextmanager
async def reaping(cluster: Cluster, folder: Path) -> AsyncIterator[Child]:
    node = cluster.nodes[0]
    account = User.service_account(NAMESPACE, "cloud-api-adaptor-reaper")
    environ = {
        **cluster.cloud.environment,
        "KUBECONFIG": str(cluster.api.kubeconfig(folder / "reaper", account)),
        "POD_NAMESPACE": NAMESPACE,
        "REAPER_GRACE": "1s",
        "REAPER_PER_MINUTE": "100",
        "PROBE_PORT": "0",
        "LOG_FORMAT": "json",
    }
    script = Path(__file__).with_name("quick_reaper.py")
    command = (sys.executable, str(script))
    async with Child.running(
        command, folder / "reaper.log", environ=environ, netns=node.worker.netns
    ) as child:
        yield child


async def test_a_day(cluster: Cluster, tmp_path: Path) -> None:
    api, (first, second) = cluster.api, cluster.nodes
    async with contextlib.AsyncExitStack() as daemons:
        old = await daemons.enter_async_context(first.daemon())
        lost = await daemons.enter_async_context(second.daemon())

        # Twenty pods come.
        pods = [Pod(first, f"web-{number}", api) for number in range(ON_THE_FIRST)]
        strangers = [Pod(second, f"job-{number}", api) for number in range(ON_THE_SECOND)]
        await asyncio.gather(*(pod.start() for pod in pods + strangers))
        await cluster.agrees("twenty pods to be known", lambda: cluster.is_told(pods + strangers))
        assert (first.capacity, second.capacity) == (LIMIT, LIMIT)

        # The first node's daemon is upgraded, while pods run and while others are being made.
        late = [Pod(first, f"late-{number}", api) for number in range(3)]
        starts = [asyncio.create_task(pod.start()) for pod in late]
        await cluster.agrees(
            "one to be launched", lambda: len(list(cluster.cloud.instances)) > len(pods + strangers)
        )
        assert await old.end() == 0
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, (CaaError, OSError)) for outcome in outcomes)
        assert first.capacity is None
        new = await daemons.enter_async_context(first.daemon())
        made = [pod for pod, outcome in zip(late, outcomes, strict=True) if outcome is None]
        for pod in late:
            if pod not in made:
                await pod.stop()  # as its kubelet does, before it tries anew
        pods += made
        await cluster.agrees("what was half made to be gone", lambda: cluster.is_told(pods + strangers))
        await cluster.agrees("capacity to be back", lambda: first.capacity == LIMIT)
        for pod in (pods[0], pods[-1]):
            await first.worker.ping(first.worker.address_of(pod.name), timeout=10)

        # The API server is away; pods come and go all the same.
        await api.stop()
        going, pods = pods[:3], pods[3:]
        for pod in going:
            await pod.shim.stop_vm()
            await first.worker.remove_pod(pod.name)
        coming = Pod(first, "meanwhile", api)
        await coming.start()
        pods.append(coming)
        await api.start()
        for pod in going:
            api.remove_pod(pod.object)
        await cluster.agrees("what was missed to be caught up", lambda: cluster.is_told(pods + strangers))

        # The second node is lost, with its daemon and its journal.
        lost.process.kill()
        for pod in strangers:
            await pod.shim.close()
        api.remove_node(second.name)
        api.remove_pods_of(second.name)
        async with reaping(cluster, tmp_path) as reaper:
            await cluster.agrees("the lost node's VMs to be reaped", lambda: cluster.is_told(pods))
            assert await reaper.end() == 0

        # The day ends.
        await asyncio.gather(*(pod.stop() for pod in pods))
        await cluster.agrees("the cloud to be empty", lambda: not cluster.cloud.leftovers())
        await cluster.agrees("no object to be left", lambda: not api.objects("PeerPod"))
        await cluster.agrees("the journal to be empty", lambda: not first.journal_rows)
        assert await new.end() == 0
        assert first.capacity is None
    assert [path.name for path in first.pods_dir.glob("*")] == []
    assert await first.worker.nft_tables() == []
