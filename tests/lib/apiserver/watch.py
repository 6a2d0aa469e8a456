"""A watch: the changes of the objects that a client asked for, as they happen."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from copy import deepcopy
from typing import Any

from apiserver.errors import StatusError, expired
from apiserver.resources import Object, Resource
from apiserver.selectors import Selector
from apiserver.store import Event, Store


class Watch:
    """`selects` decides what exists for the client: what begins to match is ADDED, what ceases to DELETED."""

    def __init__(
        self, store: Store, resource: Resource, namespace: str, selects: Selector, *, bookmarks: bool
    ) -> None:
        self._store = store
        self._resource = resource
        self._namespace = namespace
        self._selects = selects
        self._has_bookmarks = bookmarks
        self._coming: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def bookmark(self) -> None:
        """Tell the client how far it has come, if it asked to be told."""
        if self._has_bookmarks:
            self._send("BOOKMARK", self._mark())

    def expire(self) -> None:
        """End the stream with an ERROR: the client has to list again."""
        self._send("ERROR", expired("The resourceVersion for the provided watch is too old.").body)
        self.close()

    def close(self) -> None:
        """End the stream, as a server does that wants rid of it: no error, just the end."""
        self._closed = True
        self._wake.set()

    def time_out(self) -> None:
        """End the stream when the time is up that the client asked for: with a last bookmark."""
        self.bookmark()
        self.close()

    async def events(self, version: int | None) -> AsyncGenerator[dict[str, Any]]:
        """From a version on; None: what is there now, as ADDED, and then all that follows. A version that
        is forgotten gives an ERROR, and nothing more."""
        try:
            self._begin(version)
        except StatusError as error:
            yield {"type": "ERROR", "object": error.body}
            return
        self._store.listeners.add(self._see)
        try:
            while True:
                while self._coming:
                    yield self._coming.popleft()
                if self._closed:
                    return
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._store.listeners.discard(self._see)

    def _begin(self, version: int | None) -> None:
        if version is None:
            for obj in self._store.find(self._resource, self._namespace, self._selects):
                self._send("ADDED", obj)
        else:
            for event in self._store.since(version):
                self._see(event)

    def _see(self, event: Event) -> None:
        if event.resource != self._resource:
            return
        was, now = self._matches(event.old), self._matches(event.new)
        if now:
            self._send("MODIFIED" if was else "ADDED", event.new)
        elif was:
            # The last of what the client knew, with the version at which it ended for it.
            gone = deepcopy(event.old)
            assert gone is not None
            gone["metadata"]["resourceVersion"] = str(event.version)
            self._send("DELETED", gone)

    def _send(self, type_: str, obj: Object | None) -> None:
        self._coming.append({"type": type_, "object": obj})
        self._wake.set()

    def _matches(self, obj: Object | None) -> bool:
        return (
            obj is not None
            and self._namespace in ("", obj["metadata"].get("namespace"))
            and self._selects(obj)
        )

    def _mark(self) -> Object:
        return {
            "kind": self._resource.kind,
            "apiVersion": self._resource.api_version,
            "metadata": {"resourceVersion": str(self._store.version), "creationTimestamp": None},
        }
