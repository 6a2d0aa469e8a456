"""What the daemon may do in the cluster: the calls that it makes and no others.

Each call to the API server names its right, and only those below exist. A test compares the manifests'
ClusterRole with this table.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind of resource, in the words of RBAC."""

    verb: str
    resource: str
    """Plural; with its subresource, such as nodes/status."""
    group: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


GET_POD = Right("get", "pods")
"""For its pull secrets and its uid."""
LIST_PODS = Right("list", "pods")
"""For the startup probe."""
GET_SECRET = Right("get", "secrets")
GET_SERVICE_ACCOUNT = Right("get", "serviceaccounts")
GET_NODE = Right("get", "nodes")
PATCH_NODE = Right("patch", "nodes")
"""For the annotation that says whose the capacity is."""
PATCH_NODE_STATUS = Right("patch", "nodes/status")
CREATE_PEER_POD = Right("create", "peerpods", "confidentialcontainers.org")
GET_PEER_POD = Right("get", "peerpods", "confidentialcontainers.org")
PATCH_PEER_POD = Right("patch", "peerpods", "confidentialcontainers.org")
"""For the removal of the finalizer."""

RIGHTS = (
    GET_POD,
    LIST_PODS,
    GET_SECRET,
    GET_SERVICE_ACCOUNT,
    GET_NODE,
    PATCH_NODE,
    PATCH_NODE_STATUS,
    CREATE_PEER_POD,
    GET_PEER_POD,
    PATCH_PEER_POD,
)
"""All that the daemon needs, everywhere in the cluster: a pod may be in any namespace."""
