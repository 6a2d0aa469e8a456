"""What the API server says of one claim, pod or node at this moment.

That something does not exist is believed only if the API server itself says so of that very object. Any other
404, of a proxy or of an API that is not served, is no answer.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from lightkube import ApiError, AsyncClient
from lightkube.generic_resource import GenericNamespacedResource, create_namespaced_resource
from lightkube.resources.core_v1 import Node, Pod

from caa.errors import NotFoundError, UnavailableError
from caa.kubernetes import GROUP, KIND, PLURAL, VERSION, Api, Right
from caa.reaper import claims, rights
from caa.reaper.claims import Claim
from caa.reaper.verdicts import NodeSeen, PodSeen

T = TypeVar("T")

PeerPod: type[GenericNamespacedResource] = create_namespaced_resource(GROUP, VERSION, KIND, PLURAL)

_MIRROR = "kubernetes.io/config.mirror"


class Looks:
    """All of these read what is, not what a cache has, and raise what `Api.call` does."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def claim(self, namespace: str, name: str) -> Claim | None:
        found = await self._one(
            rights.GET_PEER_POD,
            lambda client: client.get(PeerPod, name, namespace=namespace),
            name,
            namespace,
        )
        return None if found is None else claims.read(found)

    async def pod(self, namespace: str, name: str) -> PodSeen | None:
        found = await self._one(
            rights.GET_POD, lambda client: client.get(Pod, name, namespace=namespace), name, namespace
        )
        if found is None:
            return None
        if found.metadata is None or found.spec is None or not found.metadata.uid:
            raise UnavailableError(f"pod {namespace}/{name}: the API server's answer is not whole")
        return PodSeen(
            uid=found.metadata.uid,
            node=found.spec.nodeName or "",
            deleting=found.metadata.deletionTimestamp is not None,
            grace=float(found.metadata.deletionGracePeriodSeconds or 0),
            static=_MIRROR in (found.metadata.annotations or {}),
        )

    async def node(self, name: str) -> NodeSeen | None:
        found = await self._one(rights.GET_NODE, lambda client: client.get(Node, name), name)
        if found is None:
            return None
        conditions = (found.status and found.status.conditions) or ()
        ready = next((each for each in conditions if each.type == "Ready"), None)
        if ready is None or found.metadata is None:
            raise UnavailableError(f"node {name}: the API server's answer does not tell whether it is ready")
        return NodeSeen(ready.status == "True", (found.metadata.uid, str(ready.lastTransitionTime)))

    async def _one(
        self, right: Right, ask: Callable[[AsyncClient], Awaitable[T]], name: str, namespace: str = ""
    ) -> T | None:
        async def asked(client: AsyncClient) -> T | None:
            try:
                return await ask(client)
            except ApiError as error:
                if _does_not_exist(error, right.resource, name):
                    return None
                raise

        try:
            return await self._api.call(right, asked, namespace=namespace)
        except NotFoundError as error:
            raise UnavailableError(f"whether {name} exists is not known: {error}") from None


def _does_not_exist(error: ApiError, plural: str, name: str) -> bool:
    status: Any = error.status
    details = status.details
    return bool(
        status.code == 404
        and status.reason == "NotFound"
        and details
        and (details.kind, details.name) == (plural, name)
    )
