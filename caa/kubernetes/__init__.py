"""The cluster that this node is part of: capacity, PeerPod objects, pull secrets, whether pods are Ready.

All of it is optional to a pod: the API server may be slow, away, or refuse a right, and pods come and go all
the same. So what is asked while a pod waits has 2 s, all else happens in the background, and a cause of
trouble is told once when it begins and once when it is over. Outside a cluster the client is not even loaded.

It is built on lightkube: maintained and typed, with asyncio, generic resources, watches and every type of
patch as the API has them; it reads a replaced token again. kubernetes-asyncio is generated code that takes
four times as long to import, and kr8s puts objects of its own before the patches that matter here.
"""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from caa.kubernetes.capacity import Capacity
from caa.kubernetes.complaints import Complaints
from caa.kubernetes.errors import NoPeerPodsError, NotSentError
from caa.kubernetes.peer_pod import (
    FINALIZER,
    GROUP,
    KIND,
    PLURAL,
    SANDBOX_ANNOTATION,
    VERSION,
    object_name,
)
from caa.kubernetes.rights import RIGHTS, Right
from caa.kubernetes.startup import Startup

if TYPE_CHECKING:
    from caa.kubernetes.api import Api
    from caa.kubernetes.cluster import Cluster

__all__ = [
    "FINALIZER",
    "GROUP",
    "KIND",
    "PLURAL",
    "RIGHTS",
    "SANDBOX_ANNOTATION",
    "SERVICE_ACCOUNT",
    "VERSION",
    "Api",
    "Capacity",
    "Cluster",
    "Complaints",
    "NoPeerPodsError",
    "NotSentError",
    "Right",
    "Startup",
    "connect",
    "in_cluster",
    "join",
    "object_name",
]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts a pod's token, its CA and its namespace."""


def in_cluster(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> bool:
    """Whether this process runs for a node (NODE_NAME) of a cluster that it has access to: by a service
    account, or by KUBECONFIG.
    """
    if not environ.get("NODE_NAME"):
        return False
    return _mounted(environ, service_account) or bool(environ.get("KUBECONFIG"))


def connect(environ: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT) -> "Api":
    """The API server of the service account or, without one, of KUBECONFIG. Asks nothing yet: what can't be
    read or reached is an error of the calls.
    """
    from caa.kubernetes.api import Api, by_kubeconfig, by_service_account  # noqa: PLC0415  only in a cluster

    if _mounted(environ, service_account):
        return Api(by_service_account(environ, service_account))
    return Api(by_kubeconfig(Path(environ["KUBECONFIG"])))


def join(environ: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT) -> "Cluster":
    """The cluster, as the node NODE_NAME sees it."""
    from caa.kubernetes.cluster import Cluster  # noqa: PLC0415  as above

    return Cluster(connect(environ, service_account), environ["NODE_NAME"])


def __getattr__(name: str) -> object:
    """The classes that need lightkube, when they are asked for."""
    if name in ("Api", "Cluster"):
        return getattr(import_module(f"{__name__}.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _mounted(environ: Mapping[str, str], service_account: Path) -> bool:
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (service_account / "token").is_file()
