"""The pod's network from the worker to the pod VM: what the CNI plugin made in the pod's namespace is read
(`read_pod_network`) into a `PodNetwork`, and each side makes its end of a VXLAN tunnel from that:
`set_up_worker` ties the pod's interface to it, `set_up_pod` gives it the pod's address and routes. Planning
is pure and apart from the netlink calls; those run in threads and are undone if their caller is cancelled.
`probe_kernel` tells whether this machine can do all that.
"""

from caa.tunnel.inspection import WorkerOptions, read_pod_network
from caa.tunnel.model import Neighbor, PodNetwork, Route
from caa.tunnel.netlink import NetlinkError
from caa.tunnel.pod import set_up_pod, tear_down_pod
from caa.tunnel.probe import KernelFeature, free_vnis, probe_kernel, worker_address
from caa.tunnel.worker import set_up_worker, tear_down_worker

__all__ = [
    "KernelFeature",
    "Neighbor",
    "NetlinkError",
    "PodNetwork",
    "Route",
    "WorkerOptions",
    "free_vnis",
    "probe_kernel",
    "read_pod_network",
    "set_up_pod",
    "set_up_worker",
    "tear_down_pod",
    "tear_down_worker",
    "worker_address",
]
