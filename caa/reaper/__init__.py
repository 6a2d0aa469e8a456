"""Cleaning up after nodes that are gone for good, with their daemons and journals.

Every pod VM has a PeerPod object, which the cluster keeps until a finalizer is removed: by the node's
daemon, once the VM is deleted. `caa reaper` does it in the place of a daemon that does not: of several
reapers, the one that leads. It knows nothing but the cluster and the cloud, so the Go daemon's objects are as
good as ours.

    claims ─► verdicts ─► patience ─► brake ─► reaper         lease ─► leadership
    (objects, rules, how long, how many: without I/O)         (who acts)
"""

from caa.reaper.rights import CLUSTER_RIGHTS, OWN_RIGHTS
from caa.reaper.run import LEASE, run

__all__ = ["CLUSTER_RIGHTS", "LEASE", "OWN_RIGHTS", "run"]
