"""The cluster around the objects: what kubelets, controllers and people do to it, in a call each."""

import base64
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from apiserver.resources import (
    CRDS,
    NAMESPACES,
    NODES,
    PEER_POD_CRD,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Object,
    Resource,
)
from apiserver.store import Store


class Scene:
    """Objects that come out are copies, as they are at that moment."""

    def __init__(self, store: Store) -> None:
        self.store = store
        for name in ("default", "kube-system"):
            self.add_namespace(name)

    def objects(self, kind: str, namespace: str = "") -> list[Object]:
        """All of a kind (`PeerPod`, `peerpods`), of one namespace or of all."""
        return deepcopy(self.store.find(self._resource(kind), namespace))

    def object(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        resource = self._resource(kind)
        return deepcopy(self.store.look_up(resource, namespace, name))

    def _resource(self, kind: str) -> Resource:
        for each in self.store.resources:
            if kind in (each.kind, each.plural):
                return each
        raise LookupError(f"there is no kind {kind} here")

    def add(self, manifest: Mapping[str, Any]) -> Object:
        """Create any object, with its status. Raises StatusError."""
        group = manifest["apiVersion"].rpartition("/")[0]
        resource = self.store.resource(group, manifest["kind"])
        if resource is None:
            raise LookupError(f"there is no kind {manifest['kind']} here")
        namespace = manifest["metadata"].get("namespace", "default") if resource.namespaced else ""
        created = self.store.create(resource, namespace, deepcopy(dict(manifest)))
        if resource.has_status and "status" in manifest:
            created = self._set_status(resource, created, manifest["status"])
        return deepcopy(created)

    def define_peer_pods(self) -> None:
        """Install the CRD."""
        self.add(PEER_POD_CRD)

    def undefine_peer_pods(self) -> None:
        """Remove the CRD, and all its objects with it."""
        self.store.delete(CRDS, "", PEER_POD_CRD["metadata"]["name"])
        self.store.collect()

    def add_namespace(self, name: str) -> Object:
        return self.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def add_node(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Object:
        """A ready node, as its kubelet describes it."""
        quantities = {"cpu": "4", "memory": "16Gi", "pods": "110"}
        return self.add(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {"kubernetes.io/hostname": name, **(labels or {})},
                    "annotations": dict(annotations or {}),
                },
                "status": {
                    "capacity": dict(quantities),
                    "allocatable": dict(quantities),
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
        )

    def set_node_ready(self, name: str, status: str = "True") -> None:
        """True, False or Unknown; the last is what a node becomes whose kubelet is not heard of."""
        node = self.store.get(NODES, "", name)
        self._set_status(NODES, node, {**node["status"], "conditions": [{"type": "Ready", "status": status}]})

    def remove_node(self, name: str) -> None:
        """Its pods stay, until `remove_pods_of`."""
        self.store.delete(NODES, "", name)

    def remove_pods_of(self, node: str) -> None:
        """As the pod collector does, some time after the node is gone."""
        for pod in self.objects("Pod"):
            if pod["spec"].get("nodeName") == node:
                self.remove_pod(pod)

    def add_pod(
        self,
        name: str,
        *,
        namespace: str = "default",
        node: str = "",
        runtime_class: str = "",
        service_account: str = "default",
        pull_secrets: Sequence[str] = (),
        annotations: Mapping[str, str] | None = None,
        finalizers: Sequence[str] = (),
    ) -> Object:
        """A pod that waits to be started. Its namespace and service account are made if they aren't there."""
        if self.object("Namespace", namespace) is None:
            self.add_namespace(namespace)
        if self.object("ServiceAccount", service_account, namespace) is None:
            self.add_service_account(service_account, namespace=namespace)
        spec: dict[str, Any] = {
            "containers": [{"name": "main", "image": "nginx"}],
            "serviceAccountName": service_account,
        }
        if node:
            spec["nodeName"] = node
        if runtime_class:
            spec["runtimeClassName"] = runtime_class
        if pull_secrets:
            spec["imagePullSecrets"] = [{"name": secret} for secret in pull_secrets]
        metadata = {
            "name": name,
            "namespace": namespace,
            "annotations": dict(annotations or {}),
            "finalizers": list(finalizers),
        }
        return self.add({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def set_ready(self, pod: Object, *, ready: bool = True) -> Object:
        """As its kubelet does once its containers run."""
        conditions = [
            {"type": "Ready", "status": str(ready)},
            {"type": "ContainersReady", "status": str(ready)},
        ]
        return self.set_pod_status(pod, {"phase": "Running", "conditions": conditions})

    def set_pod_status(self, pod: Object, status: Mapping[str, Any]) -> Object:
        metadata = pod["metadata"]
        there = self.store.get(PODS, metadata["namespace"], metadata["name"])
        return deepcopy(self._set_status(PODS, there, {**there["status"], **status}))

    def remove_pod(self, pod: Object) -> None:
        """As its kubelet does at the end, or a person with `--force`: without a grace period."""
        metadata = pod["metadata"]
        self.store.delete(PODS, metadata["namespace"], metadata["name"], {"gracePeriodSeconds": 0})

    def add_service_account(
        self, name: str, *, namespace: str = "default", pull_secrets: Sequence[str] = ()
    ) -> Object:
        """Made, or (`default` is there already) given its pull secrets."""
        secrets = [{"name": secret} for secret in pull_secrets]
        if self.object("ServiceAccount", name, namespace) is None:
            metadata = {"name": name, "namespace": namespace}
            return self.add(
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": metadata,
                    "imagePullSecrets": secrets,
                }
            )

        def change(obj: Object) -> Object:
            return obj | {"imagePullSecrets": secrets}

        return deepcopy(self.store.update(SERVICE_ACCOUNTS, namespace, name, change))

    def add_pull_secret(
        self,
        name: str,
        hosts: Mapping[str, Mapping[str, str]],
        *,
        namespace: str = "default",
        old: bool = False,
    ) -> Object:
        """Of type kubernetes.io/dockerconfigjson, or of the `old` kubernetes.io/dockercfg. `hosts` is what
        its `auths` has."""
        content: dict[str, Any]
        if old:
            key, type_, content = ".dockercfg", "kubernetes.io/dockercfg", dict(hosts)
        else:
            key, type_ = ".dockerconfigjson", "kubernetes.io/dockerconfigjson"
            content = {"auths": dict(hosts)}
        data = {key: base64.b64encode(json.dumps(content).encode()).decode()}
        metadata = {"name": name, "namespace": namespace}
        secret = {"apiVersion": "v1", "kind": SECRETS.kind, "metadata": metadata, "type": type_, "data": data}
        return self.add(secret)

    def collect_garbage(self) -> None:
        """At once; a server that runs does it by itself."""
        self.store.collect()

    def remove_namespace(self, name: str) -> None:
        """Begin to: it goes when all that is in it is gone."""
        self.store.delete(NAMESPACES, "", name)

    def _set_status(self, resource: Resource, obj: Object, status: Mapping[str, Any]) -> Object:
        metadata = obj["metadata"]

        def change(there: Object) -> Object:
            return there | {"status": deepcopy(dict(status))}

        return self.store.update(
            resource, metadata.get("namespace", ""), metadata["name"], change, subresource="status"
        )
