"""The remote-hypervisor service: what a Kata shim asks of the daemon, and how it is done.

`annotations` reads a request, `lifecycle` does what creates, starts and removes a sandbox, `podvm_files`
makes what goes into its VM, `service` is the API, and `ttrpc_face` and `grpc_face` carry it.
"""

from caa.hypervisor.grpc_face import GrpcFace
from caa.hypervisor.lifecycle import Lifecycle, NodeOptions, StepObserver
from caa.hypervisor.podvm_files import PodVmFiles
from caa.hypervisor.service import HypervisorService, PodVmInfoService
from caa.hypervisor.ttrpc_face import TtrpcFace

__all__ = [
    "GrpcFace",
    "HypervisorService",
    "Lifecycle",
    "NodeOptions",
    "PodVmFiles",
    "PodVmInfoService",
    "StepObserver",
    "TtrpcFace",
]
