"""The server's end of ttRPC.

What ends a stream, and what its client then sees:

    its handler returns                           the response; a closing data frame where the server streams
    its handler raises                            a status: see caa.ttrpc.status
    its deadline passes                           DEADLINE_EXCEEDED; the handler is cancelled
    the client breaks a rule on it                a status as below; its handler, if it has one, is cancelled
    the connection ends                           nothing; the handler is cancelled and its cleanup awaited

    an even stream id                             INVALID_ARGUMENT
    a request whose id is not above all before    INVALID_ARGUMENT
    a request or message that does not decode     INVALID_ARGUMENT
    data where the client may not send any        INVALID_ARGUMENT
    no such service or method                     UNIMPLEMENTED
    a frame of more than 4 MiB, either way        RESOURCE_EXHAUSTED
    more than `max_requests` at once              RESOURCE_EXHAUSTED
    data that the handler is too slow to take     RESOURCE_EXHAUSTED
    a request while the server shuts down         UNAVAILABLE

Nothing that a client sends or a handler does ends the connection. Frames of unknown type are ignored: later
versions of the protocol may have more.

Backpressure: one frame is written at a time, and a client that does not read its answers is not read from.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from caa.errors import (
    CaaError,
    Code,
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from caa.proto import ttrpc_pb2
from caa.ttrpc import transport
from caa.ttrpc.frames import Flag, Frame, FrameDecoder, FrameType, Oversized, encode_frame
from caa.ttrpc.inbox import Inbox
from caa.ttrpc.services import CallContext, Handler, Method, bind
from caa.ttrpc.status import RpcError, encode_status

log = structlog.get_logger(__name__)

MAX_REQUESTS = 10_000

Services = dict[str, dict[str, tuple[Method, Handler]]]


class Server:
    """Serves any number of connections, over streams of any kind.

    `max_requests` bounds the requests that run at once on one connection. To be generous: callers of the Kata
    agent's API keep several waiting for each container's whole life.
    """

    def __init__(self, *, max_requests: int = MAX_REQUESTS) -> None:
        self._services: Services = {}
        self._max_requests = max_requests
        self._connections: set[_Connection] = set()
        self._closing = False

    def register(self, service: ServiceDescriptor, implementation: object) -> None:
        """Answer the calls of `service` with the methods of `implementation`: see caa.ttrpc.services.

        Raises TypeError if it has none of them, ValueError if the service is registered already.
        """
        if service.full_name in self._services:
            raise ValueError(f"the service {service.full_name} is registered already")
        self._services[service.full_name] = bind(service, implementation)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends; fits asyncio.start_server and its siblings.

        Returns, or is cancelled, only when every handler of the connection has finished its cleanup.
        """
        if self._closing:
            await transport.close(writer)
            return
        connection = _Connection(self._services, self._max_requests, reader, writer)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def close(self, grace: float) -> None:
        """Refuse new requests and connections, let running requests end, and close all connections.

        Requests that still run after `grace` seconds are cancelled. Close the listeners before.
        """
        self._closing = True
        async with asyncio.TaskGroup() as tasks:
            for connection in self._connections:
                tasks.create_task(connection.close(grace))


class _ConnectionLostError(Exception):
    """A frame can't be written: there is nobody left to tell anything."""


@dataclass(eq=False, slots=True)
class _Call:
    """A request that runs, and its stream."""

    stream_id: int
    method: Method
    handler: Handler
    payload: bytes
    context: CallContext
    inbox: Inbox[bytes]
    remote_open: bool
    """Whether the client may still send data."""


class _Connection:
    def __init__(
        self,
        services: Services,
        max_requests: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._services = services
        self._max_requests = max_requests
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()
        self._group = asyncio.TaskGroup()
        self._reading: asyncio.Task[None]
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[int, tuple[_Call, asyncio.Task[None]]] = {}  # those without an answer yet
        self._last_id = 0
        self._closing = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        try:
            async with self._group:
                self._reading = self._group.create_task(self._read())
                await asyncio.wait([self._reading])
                for task in self._tasks:
                    task.cancel()
        finally:
            try:
                await transport.close(self._writer)
            finally:
                self._ended.set()

    async def close(self, grace: float) -> None:
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        self._reading.cancel()
        await self._ended.wait()

    # What arrives

    async def _read(self) -> None:
        decoder = FrameDecoder()
        try:
            while data := await self._reader.read(transport.READ_SIZE):
                decoder.feed(data)
                for event in decoder:
                    await self._receive(event)
                await self._writer.drain()
        except (OSError, _ConnectionLostError) as error:
            log.debug("ttrpc connection lost", error=str(error))

    async def _receive(self, event: Frame | Oversized) -> None:
        try:
            if isinstance(event, Oversized):
                raise ResourceExhaustedError(f"a frame of {event.length} bytes is longer than ttRPC allows")
            if event.type == FrameType.REQUEST:
                await self._receive_request(event)
            elif event.type == FrameType.DATA:
                await self._receive_data(event)
        except CaaError as error:
            await self._refuse(event.stream_id, error)

    async def _receive_request(self, frame: Frame) -> None:
        stream_id = frame.stream_id
        if stream_id % 2 == 0:
            raise InvalidArgumentError(f"stream id {stream_id} is even: a client's ids are odd")
        if stream_id <= self._last_id:
            raise InvalidArgumentError(f"stream id {stream_id} is not above the last one, {self._last_id}")
        self._last_id = stream_id
        if self._closing:
            raise UnavailableError("the server is shutting down")
        if len(self._tasks) >= self._max_requests:
            raise ResourceExhaustedError(
                f"{self._max_requests} requests are running on this connection already"
            )
        try:
            request = ttrpc_pb2.Request.FromString(frame.data)
        except DecodeError as error:
            raise InvalidArgumentError(f"the frame does not decode as ttrpc.Request: {error}") from error
        if request.service not in self._services:
            raise RpcError(Code.UNIMPLEMENTED, f"service {request.service!r} is not served here")
        if request.method not in self._services[request.service]:
            raise RpcError(
                Code.UNIMPLEMENTED, f"service {request.service} has no method {request.method!r} here"
            )

        method, handler = self._services[request.service][request.method]
        call = _Call(
            stream_id=stream_id,
            method=method,
            handler=handler,
            payload=request.payload,
            context=_context(request),
            inbox=Inbox(),
            remote_open=method.client_streaming and bool(frame.flags & Flag.REMOTE_OPEN),
        )
        if method.client_streaming and request.payload:
            # The first message may come with the request, if it is not empty: that would look like none.
            await call.inbox.put(request.payload, len(request.payload))
        if not call.remote_open:
            call.inbox.close()
        task = self._group.create_task(self._run(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._streams[stream_id] = call, task

    async def _receive_data(self, frame: Frame) -> None:
        call, _ = self._streams.get(frame.stream_id, (None, None))
        if call is None or not call.remote_open:
            raise InvalidArgumentError(f"stream {frame.stream_id} is not open for data")
        if not frame.flags & Flag.NO_DATA:
            try:
                await call.inbox.put(frame.data, len(frame.data))
            except TimeoutError:
                raise ResourceExhaustedError(
                    f"{call.method}: data arrives faster than it is handled"
                ) from None
        if frame.flags & Flag.REMOTE_CLOSED:
            call.remote_open = False
            call.inbox.close()

    async def _refuse(self, stream_id: int, error: CaaError) -> None:
        _, task = self._streams.pop(stream_id, (None, None))
        if task is not None:
            task.cancel()
        await self._send(_status_frame(stream_id, error))

    # What is answered

    async def _run(self, call: _Call) -> None:
        """The task of one request. Raises nothing, except when it is cancelled."""
        try:
            last = await self._answer(call)
            if self._streams.pop(call.stream_id, None) is not None:
                await self._send(last)
        except _ConnectionLostError:
            pass  # the reading side sees that too, and ends the connection
        finally:
            self._streams.pop(call.stream_id, None)
            call.inbox.abandon()

    async def _answer(self, call: _Call) -> bytes:
        """The last frame of the call's stream."""
        deadline = call.context.deadline
        limit = asyncio.timeout_at(deadline)
        try:
            if deadline is None or deadline > asyncio.get_running_loop().time():
                async with limit:
                    last = await self._perform(call)
                if not limit.expired():
                    return last
        except _ConnectionLostError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = RpcError(
                Code.CANCELLED, f"{call.method}: something that the handler waited for was cancelled"
            )
            return _status_frame(call.stream_id, error)
        except Exception as error:
            ours = isinstance(error, CaaError) or (limit.expired() and isinstance(error, TimeoutError))
            if not ours:
                log.exception("ttrpc handler failed", method=str(call.method))
            if not limit.expired():
                return _status_frame(call.stream_id, error)
        return _status_frame(
            call.stream_id, DeadlineExceededError(f"{call.method}: the call's deadline has passed")
        )

    async def _perform(self, call: _Call) -> bytes:
        method = call.method
        request = _Messages(call) if method.client_streaming else _decode(method, call.payload)
        if not method.server_streaming:
            payload = _encode(method, await call.handler(request, call.context))
            response = ttrpc_pb2.Response(payload=payload).SerializeToString()
            return encode_frame(Frame(call.stream_id, FrameType.RESPONSE, 0, response))
        async with aclosing(call.handler(request, call.context)) as responses:
            async for message in responses:
                payload = _encode(method, message)
                await self._send(encode_frame(Frame(call.stream_id, FrameType.DATA, 0, payload)))
        return encode_frame(Frame(call.stream_id, FrameType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b""))

    async def _send(self, frame: bytes) -> None:
        try:
            async with self._sending:
                await transport.send(self._writer, frame)
        except OSError as error:
            raise _ConnectionLostError(str(error)) from error


class _Messages:
    """What a client streams, as its handler reads it."""

    def __init__(self, call: _Call) -> None:
        self._method = call.method
        self._inbox = call.inbox

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        data = await self._inbox.get()
        if data is None:
            raise StopAsyncIteration
        return _decode(self._method, data)


def _context(request: ttrpc_pb2.Request) -> CallContext:
    metadata: dict[str, list[str]] = {}
    for pair in request.metadata:
        metadata.setdefault(pair.key.lower(), []).append(pair.value)
    deadline = None
    if request.timeout_nano:
        deadline = asyncio.get_running_loop().time() + request.timeout_nano / 1e9
    return CallContext(metadata, deadline)


def _decode(method: Method, data: bytes) -> Message:
    try:
        return method.request_class.FromString(data)
    except DecodeError as error:
        kind = method.request_class.DESCRIPTOR.full_name
        raise InvalidArgumentError(f"{method}: the message does not decode as {kind}: {error}") from error


def _encode(method: Method, response: object) -> bytes:
    if not isinstance(response, method.response_class):
        raise TypeError(f"{method} gave {type(response).__name__}, not {method.response_class.__name__}")
    return response.SerializeToString()


def _status_frame(stream_id: int, error: Exception) -> bytes:
    return encode_frame(Frame(stream_id, FrameType.RESPONSE, 0, encode_status(error)))
