"""The remote-hypervisor service: what a Kata shim asks of the daemon, and how it is done.

`annotations` reads a request, `lifecycle` does what creates, starts and removes a sandbox, `podvm_files`
makes what goes into its VM, `peer_pods` tells the cluster of it, `service` is the API, and `ttrpc_face` and
`grpc_face` carry it.
"""

from caa.hypervisor.grpc_face import GrpcFace
from caa.hypervisor.lifecycle import Lifecycle, NodeOptions, PullSecrets, StepObserver
from caa.hypervisor.peer_pods import PeerPods
from caa.hypervisor.podvm_files import PodVmFiles
from caa.hypervisor.service import HypervisorService, PodVmInfoService
from caa.hypervisor.ttrpc_face import TtrpcFace

__all__ = [
    "GrpcFace",
    "HypervisorService",
    "Lifecycle",
    "NodeOptions",
    "PeerPods",
    "PodVmFiles",
    "PodVmInfoService",
    "PullSecrets",
    "StepObserver",
    "TtrpcFace",
]
