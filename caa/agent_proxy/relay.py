"""Gives each client connection a server connection of its own, and joins the two."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from caa.agent_proxy.connection import Connection
from caa.agent_proxy.pipe import OnCreate, Pipe
from caa.errors import CaaError


class Relay:
    """`accept` is a listener's protocol factory. `dial` makes a server connection; if it raises CaaError, the
    client's connection is closed.

    One client connection is one server connection, since stream ids must rise on each.
    """

    def __init__(
        self,
        dial: Callable[[], Coroutine[Any, Any, Connection]],
        on_create: OnCreate,
        log: FilteringBoundLogger,
    ) -> None:
        self._dial = dial
        self._on_create = on_create
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def in_use(self) -> bool:
        """Whether a client is connected."""
        return bool(self._tasks)

    def accept(self) -> Connection:
        return Connection(on_made=self._made)

    async def close(self) -> None:
        """Drop all connections, and whatever the listener still accepts."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _made(self, client: Connection) -> None:
        if self._closed:
            client.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not by the task itself, which does not run at all if it is cancelled at once.
        task.add_done_callback(lambda _: client.abort())

    async def _serve(self, client: Connection) -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop_dialling(_: object) -> None:
            task.cancel()

        client.lost.add_done_callback(stop_dialling)
        try:
            server = await self._dial()
            client.lost.remove_done_callback(stop_dialling)
            await Pipe(client, server, self._on_create, self._log).run()
        except CaaError as error:
            self._log.warning("a connection is closed, as the agent can't be reached", error=str(error))
