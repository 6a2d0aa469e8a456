"""All claims of the cluster, kept up to date by a watch.

What is kept serves to find whom to look at, never as a reason to delete anything: that is read afresh. So it
does no harm that it is old while the API server is away.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from http import HTTPStatus

import httpx2
import structlog
from lightkube import ALL_NS, ApiError, AsyncClient
from lightkube.generic_resource import GenericNamespacedResource

from caa.errors import AbortedError, CaaError, PermissionDeniedError, UnavailableError
from caa.kubernetes import Api
from caa.polling import growing
from caa.reaper import claims, rights
from caa.reaper.claims import Claim
from caa.reaper.looks import PeerPod

_log = structlog.get_logger(__name__)

_PAGE = 500
_LIST_TIMEOUT = 120.0
_WINDOW = 240.0
"""Seconds that a watch lasts: then it is asked for anew, from where it was. A connection that is dead without
anybody having said so is noticed by that."""


class _ExpiredError(AbortedError):
    """The changes since then are not known any more: list again."""


class Claims:
    """Iterate over it for those that are held. Filled by `follow`."""

    def __init__(self, api: Api) -> None:
        self.complete = False
        """All have been listed once."""
        self._api = api
        self._known: dict[tuple[str, str], Claim] = {}
        self._version = ""

    def __iter__(self) -> Iterator[Claim]:
        return iter([claim for claim in self._known.values() if claim.held])

    def drop(self, claim: Claim) -> None:
        """It is known to be over: the watch may tell later."""
        if self._known.get((claim.namespace, claim.name)) == claim:
            del self._known[claim.namespace, claim.name]

    async def follow(self) -> None:
        """Until cancelled."""
        pauses = growing(1.0, 2.0, 30.0)
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._api.call(rights.WATCH_PEER_PODS, self._watch, timeout=_WINDOW + 20)
                pauses = growing(1.0, 2.0, 30.0)
            except _ExpiredError:
                _log.info("the watch of PeerPod objects begins anew: it fell behind")
                self._version = ""
                await asyncio.sleep(next(pauses))
            except CaaError as error:
                _log.debug("the watch of PeerPod objects is broken", error=str(error))
                await asyncio.sleep(next(pauses))

    async def _list(self) -> None:
        async def read(client: AsyncClient) -> tuple[dict[tuple[str, str], Claim], str]:
            known = {}
            listing = client.list(PeerPod, namespace=ALL_NS, chunk_size=_PAGE)
            async for found in listing:
                claim = claims.read(found)
                known[claim.namespace, claim.name] = claim
            return known, listing.resourceVersion

        # All or nothing: half a list would have claims disappear.
        self._known, self._version = await self._api.call(rights.LIST_PEER_PODS, read, timeout=_LIST_TIMEOUT)
        self.complete = True
        _log.info("PeerPod objects listed", number=len(self._known))

    async def _watch(self, client: AsyncClient) -> None:
        changes = client.watch(
            PeerPod, namespace=ALL_NS, server_timeout=int(_WINDOW), resource_version=self._version
        )
        try:
            async with (
                asyncio.timeout(_WINDOW) as window,
                contextlib.aclosing(changes),  # type: ignore[type-var]  # a generator; annotated as less
            ):
                async for kind, found in changes:
                    self._learn(kind, found)
        except TimeoutError:
            if not window.expired():
                raise
        except httpx2.HTTPStatusError as error:
            # Told here, since its body was never read, or it came amid the watch and belongs to no answer.
            # lightkube leaves a streamed answer open that is an error.
            if error.response is not None:
                await error.response.aclose()
            code = error.status.code if isinstance(error, ApiError) else error.response.status_code
            if code in (HTTPStatus.GONE, HTTPStatus.NOT_FOUND):
                raise _ExpiredError from None
            if code == HTTPStatus.FORBIDDEN:
                raise PermissionDeniedError(
                    f"the API server does not grant “{rights.WATCH_PEER_PODS}”; add it to the service"
                    " account's ClusterRole"
                ) from None
            raise UnavailableError(f"the watch of PeerPod objects ended with status {code}") from None

    def _learn(self, kind: str, found: GenericNamespacedResource) -> None:
        claim = claims.read(found)
        if kind in ("ADDED", "MODIFIED"):
            self._known[claim.namespace, claim.name] = claim
        elif kind == "DELETED":
            self._known.pop((claim.namespace, claim.name), None)
        self._version = found["metadata"]["resourceVersion"]
