"""What new objects are given by the server's admission and by the controllers right behind it, or why not."""

from collections.abc import Callable
from copy import deepcopy

from apiserver import errors
from apiserver.resources import CRDS, NAMESPACES, PODS, SERVICE_ACCOUNTS, Object, Resource

LookUp = Callable[[Resource, str, str], Object | None]
"""An object by its kind, namespace and name."""


def admit(resource: Resource, obj: Object, look_up: LookUp) -> None:
    """Fill in, in place, what is filled in for everyone. Raises StatusError 403, or 404 for the namespace."""
    metadata = obj["metadata"]
    if resource.namespaced:
        _into_namespace(resource, metadata["namespace"], metadata.get("name", ""), look_up)
    if resource == PODS:
        _pod(obj, look_up)
    elif resource == NAMESPACES:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
        metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata.get("name", "")
    elif resource == CRDS:
        obj["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    elif resource.is_custom and resource.has_status:
        obj.pop("status", None)


def _into_namespace(resource: Resource, namespace: str, name: str, look_up: LookUp) -> None:
    found = look_up(NAMESPACES, "", namespace)
    if found is None:
        raise errors.not_found(NAMESPACES, namespace)
    if "deletionTimestamp" in found["metadata"]:
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        raise errors.forbidden(resource.group, resource.plural, name, why, cause="NamespaceTerminating")


def _pod(pod: Object, look_up: LookUp) -> None:
    metadata, spec = pod["metadata"], pod["spec"]
    name = spec.setdefault("serviceAccountName", "default")
    account = look_up(SERVICE_ACCOUNTS, metadata["namespace"], name)
    if account is None:
        where = f"{metadata['namespace']}/{name}"
        why = f'error looking up service account {where}: serviceaccount "{name}" not found'
        raise errors.forbidden("", PODS.plural, metadata.get("name", ""), why)
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = deepcopy(account["imagePullSecrets"])
    pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
