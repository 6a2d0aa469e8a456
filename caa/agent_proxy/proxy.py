"""The worker's end of a pod's agent connection: a socket for the shim, and the way to the pod VM."""

import asyncio
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from caa.agent_proxy import create_container
from caa.agent_proxy.connection import Connection
from caa.agent_proxy.dial import Forwarder, connect
from caa.agent_proxy.passthrough import CreateContainer
from caa.agent_proxy.pipe import Pipe
from caa.agent_proxy.relay import Relay
from caa.unix_socket import SocketFile, listen

_REDIAL_SECONDS = 30.0
"""How long a shim's new connection waits for its forwarder: as long as a shim's health check waits."""


class AgentProxy:
    """Passes a shim's calls to the agent of one pod VM. `connect` and `listen` in any order, then `close`."""

    def __init__(self, socket_path: Path, forwarder: Forwarder, log: FilteringBoundLogger) -> None:
        self._socket_path = socket_path
        self._forwarder = forwarder
        self._log = log
        self._relay = Relay(self._dial, self._on_create, log)
        self._first: Connection | None = None
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None

    async def connect(self, timeout: float) -> None:
        """Reach the forwarder within `timeout` seconds. The shim's first connection gets this one.

        Raises what caa.agent_proxy.connect does.
        """
        self._first = await connect(self._forwarder, timeout=timeout)

    async def listen(self) -> None:
        """Raises FailedPreconditionError if the socket can't be made there."""
        listening, self._file = listen(self._socket_path)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._relay.accept, sock=listening
            )
        except BaseException:
            listening.close()
            raise

    @property
    def in_use(self) -> bool:
        """Whether a shim is connected."""
        return self._relay.in_use

    async def close(self) -> None:
        """Stop listening, drop the connections, remove the socket. Any number of times, at any point."""
        if self._server is not None:
            self._server.close()
        if self._file is not None:
            self._file.remove()
        await self._relay.close()
        if self._first is not None:
            self._first.abort()
            await asyncio.wait((self._first.lost,))
        if self._server is not None:
            await self._server.wait_closed()

    async def _dial(self) -> Connection:
        first, self._first = self._first, None
        if first is not None:
            if not first.lost.done():
                return first
            self._log.info(
                "the first connection to the forwarder was lost while unused",
                reason=str(first.lost.result() or ""),
            )
        return await connect(self._forwarder, timeout=_REDIAL_SECONDS)

    def _on_create(self, pipe: Pipe, create: CreateContainer) -> None:
        if not create_container.pulls_image_in_guest(create.request):
            self._log.warning(
                "the container's image is not pulled in the pod VM, and files of this node don't reach it:"
                " set up the nydus snapshotter for the runtime class",
                container=create.request.container_id,
            )
        changed = create_container.rewrite(create.request, create_container.DIRECT_VOLUMES)
        self._log.debug("CreateContainer", **create_container.describe(create.request))
        pipe.pass_on(create, changed=changed)
