"""What the API server serves: kinds of objects, their places and their manners.

The built-in ones are those that this project's programs may touch. Custom ones come from
CustomResourceDefinition objects in the store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object, as its JSON says it."""


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    has_status: bool = False
    """/status is served."""
    fields: tuple[str, ...] = ()
    """Field selectors beside metadata.name and metadata.namespace."""
    unconditional_update: bool = True
    """PUT without a resourceVersion overwrites whatever is there."""
    create_on_update: bool = False
    """PUT makes what isn't there."""
    counts_generations: bool = False
    returns_deleted: bool = False
    """DELETE answers with the object, where others answer with a Status."""
    schema: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)
    """A custom resource's openAPIV3Schema."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As messages name it: `pods`, `leases.coordination.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def is_custom(self) -> bool:
        return self.schema is not None


NAMESPACES = Resource(
    "", "v1", "namespaces", "Namespace", namespaced=False, has_status=True, fields=("status.phase",)
)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False, has_status=True, fields=("spec.unschedulable",))
PODS = Resource(
    "",
    "v1",
    "pods",
    "Pod",
    has_status=True,
    fields=(
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    counts_generations=True,
    returns_deleted=True,
)
SECRETS = Resource("", "v1", "secrets", "Secret", fields=("type",))
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", returns_deleted=True)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS = Resource(
    "",
    "v1",
    "events",
    "Event",
    fields=("involvedObject.kind", "involvedObject.name", "involvedObject.uid", "reason", "type"),
    create_on_update=True,
)
LEASES = Resource(
    "coordination.k8s.io", "v1", "leases", "Lease", unconditional_update=False, create_on_update=True
)
CRDS = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
    has_status=True,
    unconditional_update=False,
    counts_generations=True,
)
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
"""Answered, never stored."""

BUILT_IN = (NAMESPACES, NODES, PODS, SECRETS, SERVICE_ACCOUNTS, CONFIG_MAPS, EVENTS, LEASES, CRDS)

PEER_POD_CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "peerpods.confidentialcontainers.org"},
    "spec": {
        "group": "confidentialcontainers.org",
        "names": {"kind": "PeerPod", "listKind": "PeerPodList", "plural": "peerpods", "singular": "peerpod"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "apiVersion": {"type": "string"},
                            "kind": {"type": "string"},
                            "metadata": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "cloudProvider": {"type": "string"},
                                    "instanceID": {"type": "string"},
                                },
                            },
                            "status": {"type": "object", "properties": {"cleand": {"type": "boolean"}}},
                        },
                    }
                },
            }
        ],
    },
}
"""PeerPod as clusters that run cloud-api-adaptor have it (`cleand` is spelt so there)."""


def defined_by(crd: Object) -> Resource:
    """The resource that a CustomResourceDefinition adds. Only its storage version is served here."""
    spec = crd["spec"]
    version = next(each for each in spec["versions"] if each.get("storage"))
    return Resource(
        spec["group"],
        version["name"],
        spec["names"]["plural"],
        spec["names"]["kind"],
        namespaced=spec["scope"] == "Namespaced",
        has_status="status" in version.get("subresources", {}),
        unconditional_update=False,
        counts_generations=True,
        schema=version["schema"]["openAPIV3Schema"],
    )


def value_at(document: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path, or None."""
    found: Any = document
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
