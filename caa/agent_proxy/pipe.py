"""A client's connection joined to a server's: frames pass as fast as the slower side takes them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from caa.agent_proxy.connection import Connection
from caa.agent_proxy.passthrough import (
    CreateContainer,
    RequestScanner,
    ResponseTracker,
    Undecodable,
    error_response,
)
from caa.errors import CaaError, InternalError, ResourceExhaustedError
from caa.ttrpc import encode_frame

OnCreate = Callable[["Pipe", CreateContainer], None]
"""Decides on a CreateContainer request, by calling the pipe's `pass_on`, `refuse` or `answer_later`."""

_FLUSH_SECONDS = 5.0
"""How long one side may take to read the rest after the other has ended."""

_LINGER_SECONDS = 10.0
"""How long a client that sends nothing more can wait for answers, where TLS can't pass just that on."""

_MOST_LATER = 16
"""Requests of one connection that are answered later at the same time: each may be 4 MiB."""


class Pipe:
    """Owns two connections. When one ends, what it sent is still delivered, and then the other ends too.

    It works in the event loop's callbacks, without a task for each direction to wake up for each frame.
    """

    def __init__(
        self, client: Connection, server: Connection, on_create: OnCreate, log: FilteringBoundLogger
    ) -> None:
        self._log = log
        self._client = client
        self._server = server
        self._on_create = on_create
        self._requests = RequestScanner()
        self._responses = ResponseTracker()
        self._answers: list[bytes] = []  # wait for the end of the frame that is being passed to the client
        self._tasks: set[asyncio.Task[None]] = set()
        self._linger: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Until both connections have ended. Cancelled, it drops them."""
        self._client.attach(self._from_client, self._client_ended, source=self._server)
        self._server.attach(self._from_server, self._server_ended, source=self._client)
        self._server.flow()
        self._client.flow()
        both = self._client.lost, self._server.lost
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not self._client.lost.done():
                self._log.warning(
                    "the agent's side ended the connection", reason=str(self._server.lost.result() or "")
                )
            self._client.close()
            self._server.close()
            await asyncio.wait(both, timeout=_FLUSH_SECONDS)
        finally:
            if self._linger is not None:
                self._linger.cancel()
            for task in self._tasks:
                task.cancel()
            self._client.abort()
            self._server.abort()
            await asyncio.wait(both, timeout=_FLUSH_SECONDS)
            if self._tasks:
                await asyncio.wait(self._tasks)

    # What can become of a CreateContainer request

    def pass_on(self, create: CreateContainer, *, changed: bool) -> None:
        """Send the request as it is now, or if not `changed` the very bytes that came.

        One that has outgrown a frame is answered with RESOURCE_EXHAUSTED.
        """
        try:
            self._server.write(create.encode() if changed else encode_frame(create.frame))
        except ResourceExhaustedError as error:
            self.refuse(create, error)

    def refuse(self, create: CreateContainer, error: CaaError) -> None:
        """Answer the request with an error; the server does not see it."""
        self._log.warning("CreateContainer refused", container=create.request.container_id, error=str(error))
        self._answer(error_response(create.frame.stream_id, error))

    def answer_later(self, create: CreateContainer, work: Callable[[], Coroutine[Any, Any, bytes]]) -> None:
        """Answer the request with the frame that `work` returns, or the CaaError that it raises.

        Meanwhile everything else goes on passing. `work` is cancelled if the pipe ends.
        """
        if len(self._tasks) >= _MOST_LATER:
            self.refuse(
                create, ResourceExhaustedError(f"{_MOST_LATER} CreateContainer requests wait already")
            )
            return
        task = asyncio.get_running_loop().create_task(self._answer_with(create, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_with(
        self, create: CreateContainer, work: Callable[[], Coroutine[Any, Any, bytes]]
    ) -> None:
        try:
            self._answer(await work())
        except CaaError as error:
            self.refuse(create, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the shim waits for an answer
            self._log.exception("CreateContainer failed", container=create.request.container_id)
            self.refuse(create, InternalError(f"CreateContainer failed: {error!r}"))

    # What arrives

    def _from_client(self, data: bytes) -> None:
        for piece in self._requests.feed(data):
            if isinstance(piece, CreateContainer):
                self._create(piece)
                continue
            if isinstance(piece, Undecodable):
                self._log.warning(
                    "a CreateContainer that does not decode is passed on as it is", bytes=len(piece)
                )
            self._server.write(piece)

    def _create(self, create: CreateContainer) -> None:
        try:
            self._on_create(self, create)
        except Exception as error:  # noqa: BLE001  it would end the connection, and with it the pod
            self._log.exception("CreateContainer failed", container=create.request.container_id)
            self.refuse(create, InternalError(f"CreateContainer failed: {error!r}"))

    def _client_ended(self) -> bool:
        if self._client.tls is not None or self._client.peer_is_gone():
            return False
        if not self._server.write_eof():
            self._linger = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._client.close)
        return True

    def _from_server(self, data: bytes) -> None:
        boundary = self._responses.feed(data)
        if self._answers and boundary is not None:
            self._client.write(data[:boundary])
            self._send_answers()
            data = data[boundary:]
        self._client.write(data)

    def _server_ended(self) -> bool:
        return False

    def _answer(self, frame: bytes) -> None:
        self._answers.append(frame)
        if self._responses.between_frames:
            self._send_answers()

    def _send_answers(self) -> None:
        self._client.write(b"".join(self._answers))
        self._answers.clear()
