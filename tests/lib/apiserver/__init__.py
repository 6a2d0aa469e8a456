"""A Kubernetes API server for tests: strict where the real one is strict, and broken to order.

It is in the test's own process, on a port of its own, with a store in memory, a CA and tokens of its own.
What clients see is meant to be what kube-apiserver would show them: statuses and their words, versions,
patches and their content types, finalizers, watches, rights. What it does not know it refuses: server-side
apply, dry runs, protobuf. It imports nothing of the programs that are tested with it, and no Kubernetes
client, so that it can't share their mistakes.

    async with ApiServer() as api:
        pod = api.add_pod("nginx", node="worker-1")
        api.rbac.add(*manifests)
        api.faults.add(Fault(verb="create", resource="peerpods", status=503, times=3))
        folder = api.service_account_folder(tmp_path / "account")
"""

from apiserver.calls import Call
from apiserver.faults import Fault, Faults
from apiserver.front import Request
from apiserver.rbac import Rbac, User
from apiserver.resources import PEER_POD_CRD, Object
from apiserver.server import ADMIN, ApiServer, ServiceAccountFolder, listen_on_loopback
from apiserver.store import Store

__all__ = [
    "ADMIN",
    "PEER_POD_CRD",
    "ApiServer",
    "Call",
    "Fault",
    "Faults",
    "Object",
    "Rbac",
    "Request",
    "ServiceAccountFolder",
    "Store",
    "User",
    "listen_on_loopback",
]
