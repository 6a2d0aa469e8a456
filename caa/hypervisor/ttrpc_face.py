"""The services over ttRPC, for Kata shims."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

from caa.ttrpc import Server
from caa.unix_socket import listen


class TtrpcFace:
    """A ttRPC server on a unix socket."""

    def __init__(self, services: Sequence[tuple[ServiceDescriptor, object]]) -> None:
        self._server = Server()
        for service, implementation in services:
            self._server.register(service, implementation)

    async def start(self, path: Path) -> None:
        """Serve on the unix socket `path`. Raises as SocketFile does."""
        listening, self._file = listen(path)
        self._listener = await asyncio.start_unix_server(self._server.serve, sock=listening)

    async def close(self, grace: float) -> None:
        """Accept no more, and let calls in flight end, for at most `grace` seconds."""
        self._listener.close()
        self._file.remove()
        await self._server.close(grace)
