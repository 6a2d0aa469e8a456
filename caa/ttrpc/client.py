"""The client's end of ttRPC.

There is no way to tell a ttRPC server that a call is no longer wanted: a caller that gives up simply stops
waiting, and an answer that comes later is discarded. A timeout is sent along, so the server gives up too.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from caa.errors import Code, UnavailableError
from caa.proto import ttrpc_pb2
from caa.ttrpc import transport
from caa.ttrpc.frames import Flag, Frame, FrameDecoder, FrameType, Oversized, encode_frame
from caa.ttrpc.inbox import Inbox
from caa.ttrpc.status import RpcError, raise_for_status

M = TypeVar("M", bound=Message)
T = TypeVar("T")
Event = Frame | Oversized

MAX_STREAM_ID = 2**32 - 1
LONGEST_TIMEOUT = 2**62  # nanoseconds: 146 years, and below the end of int64 when rounded up as a float


class ConnectionClosedError(UnavailableError):
    """The connection ended, by either side, before the call was answered."""


class Client:
    """Any number of concurrent calls over one connection, which it owns. To be closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection = _Connection(reader, writer)

    @classmethod
    async def connect_unix(cls, path: str | Path) -> Self:
        """Raises OSError if nobody listens there."""
        return cls(*await asyncio.open_unix_connection(path))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Calls that still wait raise ConnectionClosedError."""
        await self._connection.close()

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_type: type[M],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> M:
        """Make a unary call and wait for its answer, for at most `timeout` seconds.

        Raises RpcError for a status that is not OK and past the deadline, ConnectionClosedError, and
        ResourceExhaustedError for a request that does not fit into a frame.
        """
        what = f"{service}/{method}"
        data = _encode_request(service, method, request, timeout, metadata)
        inbox: Inbox[Event] = Inbox()
        try:
            async with asyncio.timeout(timeout):
                stream_id = await self._connection.open(what, data, 0, inbox)
                try:
                    event = await inbox.get()
                finally:
                    self._connection.forget(stream_id)
        except TimeoutError:
            raise _too_late(what) from None
        return _decode_response(what, event, response_type)

    def stream(
        self,
        service: str,
        method: str,
        request: Message | None,
        response_type: type[M],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> "ClientStream[M]":
        """A streaming call, to be entered with `async with`.

        With a `request` the server streams its answers to that; with None the client streams too, by `send`.
        `timeout` is for the stream as a whole. A server can't see that a stream was left early, so one that
        may be left needs a timeout. Everything here and on the stream raises what `call` does.
        """
        return ClientStream(
            self._connection,
            f"{service}/{method}",
            _encode_request(service, method, request, timeout, metadata),
            response_type,
            timeout=timeout,
            may_send=request is None,
        )


class ClientStream(Generic[M]):
    """One streaming call, made by Client.stream. Read by one task, written by the same or another.

    Iterate over it for the answers of a server that streams; await `response` for the one answer of a server
    that does not.
    """

    def __init__(
        self,
        connection: "_Connection",
        what: str,
        request: bytes,
        response_type: type[M],
        *,
        timeout: float | None,
        may_send: bool,
    ) -> None:
        self._connection = connection
        self._what = what
        self._request = request
        self._response_type = response_type
        self._deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        self._inbox: Inbox[Event] = Inbox()
        self._id = 0
        self._may_send = may_send

    async def __aenter__(self) -> Self:
        flags = Flag.REMOTE_OPEN if self._may_send else Flag.REMOTE_CLOSED
        self._id = await self._in_time(self._connection.open(self._what, self._request, flags, self._inbox))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.forget(self._id)
        self._inbox.abandon()

    async def send(self, message: Message) -> None:
        await self._send(0, message.SerializeToString())

    async def close_send(self) -> None:
        """Tell the server that nothing more is sent."""
        await self._send(Flag.REMOTE_CLOSED | Flag.NO_DATA, b"")
        self._may_send = False

    async def _send(self, flags: int, data: bytes) -> None:
        if not self._may_send:
            raise ValueError(f"{self._what}: nothing can be sent on a stream whose sending side is closed")
        frame = encode_frame(Frame(self._id, FrameType.DATA, flags, data))
        await self._in_time(self._connection.send(self._what, frame))

    async def response(self) -> M:
        """The answer to a stream that only the client sends messages on."""
        return _decode_response(self._what, await self._in_time(self._inbox.get()), self._response_type)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        while (event := await self._in_time(self._inbox.get())) is not None:
            if isinstance(event, Frame) and event.type == FrameType.DATA:
                if not event.flags & Flag.NO_DATA:
                    return _decode(self._what, event.data, self._response_type)
            elif payload := _payload(self._what, event):  # an empty one only ends the stream
                return _decode(self._what, payload, self._response_type)
        raise StopAsyncIteration

    async def _in_time(self, step: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await step
        except TimeoutError:
            raise _too_late(self._what) from None


class _Connection:
    """Sends frames, and sorts what arrives into the inboxes of the streams that wait for it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()
        self._inboxes: dict[int, Inbox[Event]] = {}
        self._next_id = 1
        self._end: str | None = None
        self._reading = asyncio.create_task(self._read())

    async def open(self, what: str, data: bytes, flags: int, inbox: Inbox[Event]) -> int:
        """Start a stream with a request of `data`, and return its id."""
        # Stream ids must reach the server in order, so one is taken only when its request is written at once.
        async with self._sending:
            stream_id = self._next_id
            if stream_id > MAX_STREAM_ID:
                raise ConnectionClosedError(f"{what}: this connection has no stream ids left: open another")
            frame = encode_frame(Frame(stream_id, FrameType.REQUEST, flags, data))
            self._next_id += 2
            self._inboxes[stream_id] = inbox
            try:
                await self._write(what, frame)
            except BaseException:
                self.forget(stream_id)
                raise
        return stream_id

    async def send(self, what: str, frame: bytes) -> None:
        async with self._sending:
            await self._write(what, frame)

    async def _write(self, what: str, frame: bytes) -> None:
        if self._end is not None:
            raise ConnectionClosedError(f"{what}: the ttRPC connection is closed: {self._end}")
        try:
            await transport.send(self._writer, frame)
        except OSError as error:
            raise ConnectionClosedError(f"{what}: the ttRPC connection is closed: {error}") from error

    def forget(self, stream_id: int) -> None:
        """What still arrives for this stream is discarded."""
        self._inboxes.pop(stream_id, None)

    async def close(self) -> None:
        if self._end is None:
            self._end = "by this client"
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await transport.close(self._writer)

    async def _read(self) -> None:
        decoder = FrameDecoder()
        end = "by the server"
        try:
            while data := await self._reader.read(transport.READ_SIZE):
                decoder.feed(data)
                for event in decoder:
                    await self._receive(event)
        except OSError as error:
            end = str(error)
        finally:
            if self._end is None:
                self._end = end
            for inbox in self._inboxes.values():
                inbox.close(
                    ConnectionClosedError(f"the ttRPC connection was closed during the call: {self._end}")
                )
            self._inboxes.clear()

    async def _receive(self, event: Event) -> None:
        inbox = self._inboxes.get(event.stream_id)
        if inbox is None or event.type not in (FrameType.RESPONSE, FrameType.DATA):
            return
        size = len(event.data) if isinstance(event, Frame) else 0
        failure = None
        try:
            await inbox.put(event, size)
        except TimeoutError:
            failure = RpcError(Code.RESOURCE_EXHAUSTED, "messages arrive faster than they are read")
        last = event.type == FrameType.RESPONSE or event.flags & Flag.REMOTE_CLOSED
        if last or failure or isinstance(event, Oversized):
            inbox.close(failure)
            self.forget(event.stream_id)


def _encode_request(
    service: str,
    method: str,
    request: Message | None,
    timeout: float | None,
    metadata: Mapping[str, str] | None,
) -> bytes:
    message = ttrpc_pb2.Request(service=service, method=method)
    if request is not None:
        message.payload = request.SerializeToString()
    if timeout is not None:
        if timeout <= 0:
            raise _too_late(f"{service}/{method}")
        message.timeout_nano = max(1, int(min(timeout * 1e9, LONGEST_TIMEOUT)))
    for key, value in (metadata or {}).items():
        message.metadata.add(key=key, value=value)
    return message.SerializeToString()


def _decode_response(what: str, event: Event | None, response_type: type[M]) -> M:
    if event is None or event.type != FrameType.RESPONSE:
        raise RpcError(
            Code.INTERNAL, f"{what}: the server streams, or has ended, where a response is expected"
        )
    return _decode(what, _payload(what, event), response_type)


def _payload(what: str, event: Event) -> bytes:
    """What a response frame carries. Raises RpcError for its status."""
    if isinstance(event, Oversized):
        raise RpcError(
            Code.RESOURCE_EXHAUSTED,
            f"{what}: an answer of {event.length} bytes is longer than a ttRPC frame may be",
        )
    response = _decode(what, event.data, ttrpc_pb2.Response)
    raise_for_status(response)
    return response.payload


def _decode(what: str, data: bytes, kind: type[M]) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise RpcError(
            Code.INTERNAL, f"{what}: the answer does not decode as {kind.DESCRIPTOR.full_name}: {error}"
        ) from error


def _too_late(what: str) -> RpcError:
    return RpcError(Code.DEADLINE_EXCEEDED, f"{what}: no answer before the deadline")
