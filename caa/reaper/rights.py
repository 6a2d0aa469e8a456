"""What the reaper may do in the cluster: the calls that it makes and no others."""

from caa.kubernetes import GROUP, PLURAL, Right

GET_PEER_POD = Right("get", PLURAL, GROUP)
LIST_PEER_PODS = Right("list", PLURAL, GROUP)
WATCH_PEER_PODS = Right("watch", PLURAL, GROUP)
PATCH_PEER_POD = Right("patch", PLURAL, GROUP)
"""For the removal of the finalizer."""
GET_POD = Right("get", "pods")
GET_NODE = Right("get", "nodes")

GET_LEASE = Right("get", "leases", "coordination.k8s.io")
CREATE_LEASE = Right("create", "leases", "coordination.k8s.io")
UPDATE_LEASE = Right("update", "leases", "coordination.k8s.io")

CLUSTER_RIGHTS = (GET_PEER_POD, LIST_PEER_PODS, WATCH_PEER_PODS, PATCH_PEER_POD, GET_POD, GET_NODE)
"""Everywhere in the cluster."""
OWN_RIGHTS = (GET_LEASE, CREATE_LEASE, UPDATE_LEASE)
"""In the reaper's own namespace."""
