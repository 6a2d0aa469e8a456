"""What the daemon asks of its cluster, in the daemon's terms."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import structlog
from lightkube import ALL_NS, AsyncClient
from lightkube.generic_resource import GenericNamespacedResource, create_namespaced_resource
from lightkube.resources.core_v1 import Node, NodeStatus, Pod, Secret, ServiceAccount
from lightkube.types import PatchType

from caa.errors import (
    AbortedError,
    AlreadyExistsError,
    CaaError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from caa.kubernetes import peer_pod, pull_secrets, rights
from caa.kubernetes.api import Api
from caa.kubernetes.rights import Right
from caa.polling import growing, poll

T = TypeVar("T")
Kind = TypeVar("Kind", Pod, Secret, ServiceAccount)

_log = structlog.get_logger(__name__)

PATIENCE = 2.0
"""Seconds that a pod waits at most for what is optional."""

_CAPACITY = "kata.peerpods.io/vm"
_OWNER = "kata.peerpods.io/caa-owner"
_OWNER_POINTER = f"/metadata/annotations/{_OWNER.replace('/', '~1')}"
_CAPACITY_POINTER = f"/status/capacity/{_CAPACITY.replace('/', '~1')}"

_CONFLICTS = 5
"""Times that an object may be changed by others between our reading and our writing it."""

_PAGE = 200
"""Pods that are asked for at a time."""

PeerPod: type[GenericNamespacedResource] = create_namespaced_resource(
    peer_pod.GROUP, peer_pod.VERSION, peer_pod.KIND, peer_pod.PLURAL
)


class Cluster:
    """The cluster as one node sees it. Any task may call; must be closed."""

    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._node = node

    async def close(self) -> None:
        await self._api.close()

    # Pull secrets

    async def auth_json(self, namespace: str, pod: str) -> bytes | None:
        """The image pull secrets of a pod and of its service account as one auth.json; the pod's go first.
        None if there are none. Secrets that can't be had within PATIENCE, or can't be read, are left out.
        Raises nothing.
        """
        complaints = self._api.complaints
        shared: dict[str, pull_secrets.Auths] = {}
        own: dict[str, pull_secrets.Auths] = {}
        try:
            async with asyncio.timeout(PATIENCE):
                await self._read_secrets(namespace, pod, shared, own)
        except TimeoutError:
            reason = f"the API server did not tell within {PATIENCE:g} s"
        except CaaError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  a fault of ours must not stop a pod
            reason = type(error).__name__  # without its message, which may quote a secret
        else:
            reason = ""
            complaints.over("pull secrets", "pull secrets can be read again")
        if reason:
            complaints.about(
                "pull secrets",
                "pull secrets are left out: images that need them can't be pulled",
                error=reason,
            )
            _log.info("this pod lacks pull secrets", pod=f"{namespace}/{pod}", error=reason)
        return pull_secrets.join([*shared.values(), *own.values()])

    async def _read_secrets(
        self,
        namespace: str,
        pod: str,
        shared: dict[str, pull_secrets.Auths],
        own: dict[str, pull_secrets.Auths],
    ) -> None:
        """Put the secrets of the service account and of the pod into `shared` and `own` as they come."""
        spec = _part((await self._insist(rights.GET_POD, Pod, namespace, pod)).spec)
        own.update((name, {}) for name in _names(spec.imagePullSecrets)[: pull_secrets.MOST_SECRETS])
        async with asyncio.TaskGroup() as side_by_side:
            for name in own:
                side_by_side.create_task(self._read_secret(namespace, name, own))
            # Its secrets are often the pod's too: Kubernetes gives them to a pod that has none of its own.
            account = spec.serviceAccountName or "default"
            for name in await self._secrets_of_account(namespace, account):
                if name not in own and len(own) + len(shared) < pull_secrets.MOST_SECRETS:
                    shared[name] = {}
                    side_by_side.create_task(self._read_secret(namespace, name, shared))

    async def _secrets_of_account(self, namespace: str, name: str) -> list[str]:
        cause = f"service account {namespace}/{name}"
        try:
            account = await self._insist(rights.GET_SERVICE_ACCOUNT, ServiceAccount, namespace, name)
        except CaaError as error:
            self._api.complaints.about(
                cause, "the pull secrets of a service account are left out", account=name, error=str(error)
            )
            return []
        self._api.complaints.over(cause, "a service account can be read now", account=name)
        return _names(account.imagePullSecrets)

    async def _read_secret(self, namespace: str, name: str, into: dict[str, pull_secrets.Auths]) -> None:
        cause = f"pull secret {namespace}/{name}"
        try:
            secret = await self._insist(rights.GET_SECRET, Secret, namespace, name)
            into[name] = pull_secrets.read(secret.data or {})
        except CaaError as error:
            self._api.complaints.about(cause, "a pull secret is left out", secret=name, error=str(error))
        else:
            self._api.complaints.over(cause, "a pull secret can be read now", secret=name)

    async def _insist(self, right: Right, kind: type[Kind], namespace: str, name: str) -> Kind:
        """Get an object, in spite of trouble that passes: what a pod lacks now it lacks for ever."""

        async def ask() -> tuple[Kind | None, str]:
            try:
                return await self._api.call(
                    right, lambda client: client.get(kind, name, namespace=namespace), namespace=namespace
                ), ""
            except UnavailableError as error:
                return None, str(error)

        what = f"the API server to tell {right.resource} {namespace}/{name}"
        return await poll(ask, what=what, pauses=growing(0.1, 2.0, 0.5), timeout=PATIENCE)

    # PeerPod objects

    async def claim(
        self, namespace: str, pod: str, uid: str, name: str, instance_id: str, sandbox: str
    ) -> None:
        """Make the PeerPod object `name`, or find that it was made. An empty `uid` is looked up.

        Raises AlreadyExistsError if there is one of that name for something else, NotFoundError if the pod
        that is looked up is gone, and what `Api.call` raises.
        """
        if not uid:
            uid = await self._uid(namespace, pod)
        made = PeerPod.from_dict(peer_pod.manifest(namespace, name, pod, uid, instance_id, sandbox))
        try:
            await self._api.call(
                rights.CREATE_PEER_POD, lambda client: client.create(made), namespace=namespace
            )
        except AlreadyExistsError:
            if _instance(await self._peer_pod(namespace, name)) != instance_id:
                raise

    async def _uid(self, namespace: str, name: str) -> str:
        pod = await self._api.call(
            rights.GET_POD, lambda client: client.get(Pod, name, namespace=namespace), namespace=namespace
        )
        if _part(pod.spec).nodeName != self._node:
            raise NotFoundError(f"pod {namespace}/{name} is gone: there is a new one of that name elsewhere")
        return str(_part(pod.metadata).uid)

    async def disclaim(self, namespace: str, name: str, instance_id: str) -> bool:
        """Remove our finalizer from a PeerPod object, if it is that of `instance_id`. Whether there was such
        an object. Raises what `Api.call` does.
        """
        for _ in range(_CONFLICTS):
            try:
                found = await self._peer_pod(namespace, name)
            except NotFoundError:
                return False
            finalizers = found["metadata"].get("finalizers") or []
            if peer_pod.FINALIZER not in finalizers or _instance(found) != instance_id:
                return True
            # With its version in the patch it is refused if somebody has changed the object meanwhile.
            patch: dict[str, Any] = {
                "metadata": {
                    "resourceVersion": found["metadata"]["resourceVersion"],
                    "finalizers": [each for each in finalizers if each != peer_pod.FINALIZER],
                }
            }
            try:
                await self._patch_peer_pod(namespace, name, patch)
            except AbortedError:
                continue
            except NotFoundError:
                pass
            return True
        raise AbortedError(f"PeerPod {namespace}/{name} is changed by others again and again")

    async def _patch_peer_pod(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        await self._api.call(
            rights.PATCH_PEER_POD,
            lambda client: client.patch(
                PeerPod, name, patch, namespace=namespace, patch_type=PatchType.MERGE
            ),
            namespace=namespace,
        )

    async def _peer_pod(self, namespace: str, name: str) -> GenericNamespacedResource:
        return await self._api.call(
            rights.GET_PEER_POD,
            lambda client: client.get(PeerPod, name, namespace=namespace),
            namespace=namespace,
        )

    # Capacity

    async def advertise(self, limit: int, owner: str) -> None:
        """Say that this node takes `limit` pod VMs, and that `owner` says so. Raises what `Api.call` does."""
        await self._advertise(limit, owner, {})

    async def readvertise(self, limit: int, owner: str) -> bool:
        """Say so again if it was lost and nobody else says it. Whether it was."""
        node = await self._api.call(rights.GET_NODE, lambda client: client.get(Node, self._node))
        metadata, status = _part(node.metadata), _part(node.status)
        annotations, capacity = metadata.annotations or {}, status.capacity or {}
        if annotations.get(_OWNER, owner) != owner or str(capacity.get(_CAPACITY)) == str(limit):
            return False
        await self._advertise(limit, owner, {"resourceVersion": metadata.resourceVersion})
        return True

    async def _advertise(self, limit: int, owner: str, seen: Mapping[str, Any]) -> None:
        ours = [{"op": "test", "path": _OWNER_POINTER, "value": owner}]
        annotation = {"metadata": {**seen, "annotations": {_OWNER: owner}}}
        try:
            await self._api.call(
                rights.PATCH_NODE,
                lambda client: client.patch(Node, self._node, annotation, patch_type=PatchType.MERGE),
            )
        except PermissionDeniedError:
            ours = []  # then it can't be taken back at the end either; pods can come all the same
        await self._patch_status([*ours, {"op": "add", "path": _CAPACITY_POINTER, "value": str(limit)}])

    async def withdraw(self, owner: str) -> None:
        """Take the capacity back, in one step with the question whether it still is `owner`'s. Raises what
        `Api.call` does.
        """
        try:
            await self._patch_status(
                [
                    {"op": "test", "path": _OWNER_POINTER, "value": owner},
                    {"op": "remove", "path": _CAPACITY_POINTER},
                ]
            )
        except (FailedPreconditionError, NotFoundError) as error:
            _log.info("the node's capacity is not this daemon's any more", error=str(error))
        else:
            _log.info("capacity taken back")

    async def _patch_status(self, patch: list[dict[str, str]]) -> None:
        await self._api.call(
            rights.PATCH_NODE_STATUS,
            lambda client: client.patch(NodeStatus, self._node, patch, patch_type=PatchType.JSON),
        )

    # Pods of this node

    async def unready_pods(self, runtime_class: str) -> list[str]:
        """The pods of this node with that runtime class that are not Ready, as namespace/name; without those
        that have ended or are ending. Raises what `Api.call` does.
        """

        async def read(client: AsyncClient) -> list[Pod]:
            here = client.list(Pod, namespace=ALL_NS, fields={"spec.nodeName": self._node}, chunk_size=_PAGE)
            return [pod async for pod in here]

        return [
            f"{_part(pod.metadata).namespace}/{_part(pod.metadata).name}"
            for pod in await self._api.call(rights.LIST_PODS, read)
            if _part(pod.spec).runtimeClassName == runtime_class and not _over(pod) and not _ready(pod)
        ]


def _names(references: Sequence[Any] | None) -> list[str]:
    return list(dict.fromkeys(reference.name for reference in references or () if reference.name))


def _instance(found: GenericNamespacedResource) -> str:
    return str((found.get("spec") or {}).get("instanceID", ""))


def _over(pod: Pod) -> bool:
    return _part(pod.metadata).deletionTimestamp is not None or (
        pod.status is not None and pod.status.phase in ("Succeeded", "Failed")
    )


def _ready(pod: Pod) -> bool:
    conditions = (pod.status and pod.status.conditions) or ()
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def _part(value: T | None) -> T:
    """Of an object: the models call everything optional."""
    if value is None:
        raise UnavailableError("the API server's answer can't be read: an object is not whole")
    return value
