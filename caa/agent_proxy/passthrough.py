"""Where frames begin in the bytes that pass through, and the one kind of request that is opened. No I/O.

A ttRPC decoder would cut the stream into frames and put every one together again. Here bytes stay as they are
received: a stream is followed just closely enough to know where its frames begin. That is what it takes

- to find the requests of `grpc.AgentService/CreateContainer`, the only ones that are ever held until they are
  complete (`RequestScanner`), and
- to put an answer of our own between two frames of the agent's (`ResponseTracker`).

Frames of any length and type pass, those over ttRPC's limit too: refusing them is the receiver's part, and
its answer passes as any other.
"""

import struct

from google.protobuf.message import DecodeError

from caa.errors import CaaError
from caa.proto import agent_pb2, ttrpc_pb2
from caa.ttrpc import HEADER_SIZE, MAX_DATA, Frame, FrameType, encode_frame

_HEADER = struct.Struct(">IIBB")  # data length, stream id, type, flags

SERVICE = "grpc.AgentService"
METHOD = "CreateContainer"

_SERVICE_TAG, _METHOD_TAG = 0x0A, 0x12
_NAMES = b"".join(
    bytes([tag, len(name)]) + name.encode() for tag, name in ((_SERVICE_TAG, SERVICE), (_METHOD_TAG, METHOD))
)
"""How a CreateContainer request begins: protobuf's writers emit fields in the order of their numbers."""

_LONGEST_MESSAGE = 16 * 1024
"""Characters of an error that a client is told: what it sent may be quoted in there."""

_PEEK = 64
"""Bytes of a request's data that are looked at before it is passed on."""


class CreateContainer:
    """A CreateContainer request on its way: change `request`, and `encode` gives the changed frame.

    Stream id, flags, timeout, metadata and every field that is not declared in proto/ stay as they came.
    """

    def __init__(
        self, frame: Frame, call: ttrpc_pb2.Request, request: agent_pb2.CreateContainerRequest
    ) -> None:
        self.frame = frame
        self.call = call
        self.request = request

    def encode(self) -> bytes:
        """Raises ResourceExhaustedError if the frame has become longer than ttRPC allows."""
        self.call.payload = self.request.SerializeToString()
        return encode_frame(self.frame._replace(data=self.call.SerializeToString()))


class Undecodable(bytes):
    """A frame, to be passed on as it is, that looked like a CreateContainer but does not decode as one."""


class RequestScanner:
    """Follows the client's bytes, and takes the CreateContainer requests out of them.

    Holds back less than a header and `_PEEK` bytes, or one CreateContainer frame (at most 4 MiB).
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._wanted = 0  # how long `_held` must get before it is looked at again
        self._passing = 0  # data that is still to come of a frame whose beginning was passed on

    def feed(self, data: bytes) -> list[bytes | CreateContainer]:
        """What to send on, in order: bytes as they are, and opened requests."""
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                return []
            data = bytes(self._held)
            self._held.clear()
        pieces: list[bytes | CreateContainer] = []
        sent = 0  # all before this offset is in `pieces`
        at = self._pass(data, 0, self._passing)
        while at < len(data):
            wanted, frame_size, is_create = _look_at(data, at)
            if len(data) - at < wanted:
                self._held += data[at:]
                self._wanted = wanted
                break
            if is_create:
                if at > sent:
                    pieces.append(data[sent:at])
                pieces.append(_open(data[at : at + frame_size]))
                sent = at + frame_size
            at = self._pass(data, at, frame_size)
        if at > sent:
            pieces.append(data[sent:at])
        return pieces

    def _pass(self, data: bytes, at: int, length: int) -> int:
        end = min(at + length, len(data))
        self._passing = at + length - end
        return end


def _look_at(data: bytes, at: int) -> tuple[int, int, bool]:
    """Of the frame at `at`: bytes needed before it can go on, its size, and whether it is to be opened."""
    if len(data) - at < HEADER_SIZE:
        return HEADER_SIZE, 0, False
    length, _, kind, _ = _HEADER.unpack_from(data, at)
    size = HEADER_SIZE + length
    if kind != FrameType.REQUEST or length > MAX_DATA:
        return HEADER_SIZE, size, False
    peek = min(size, HEADER_SIZE + _PEEK)
    if len(data) - at < peek:
        return peek, size, False
    is_create = _may_be_create_container(data[at + HEADER_SIZE : at + peek])
    return (size if is_create else peek), size, is_create


def _may_be_create_container(start: bytes) -> bool:
    """False for what begins, as writers do, with other names. In doubt a request is opened to see."""
    if len(start) < 2:
        return False
    method_at = 2 + start[1]
    usual_order = (
        start[0] == _SERVICE_TAG and start[1] < 0x80 and start[method_at : method_at + 1] in (b"", b"\x12")
    )
    return start.startswith(_NAMES) if usual_order else True


def _open(frame: bytes) -> bytes | CreateContainer:
    _, stream_id, kind, flags = _HEADER.unpack_from(frame)
    data = frame[HEADER_SIZE:]
    try:
        call = ttrpc_pb2.Request.FromString(data)
        if (call.service, call.method) != (SERVICE, METHOD):
            return frame
        request = agent_pb2.CreateContainerRequest.FromString(call.payload)
    except DecodeError:
        return Undecodable(frame)
    return CreateContainer(Frame(stream_id, kind, flags, data), call, request)


class ResponseTracker:
    """Follows the agent's bytes, and knows where between its frames another one can be put."""

    def __init__(self) -> None:
        self._header = b""
        self._missing = 0

    @property
    def between_frames(self) -> bool:
        return not self._missing and not self._header

    def feed(self, data: bytes) -> int | None:
        """The first offset in `data` at which a frame begins or could begin; None if there is none."""
        at = min(self._missing, len(data))
        self._missing -= at
        first = at if not self._missing and not self._header else None
        while at < len(data):
            taken = data[at : at + HEADER_SIZE - len(self._header)]
            self._header += taken
            at += len(taken)
            if len(self._header) < HEADER_SIZE:
                break
            length = _HEADER.unpack(self._header)[0]
            self._header = b""
            end = min(at + length, len(data))
            self._missing = at + length - end
            at = end
            if first is None and not self._missing:
                first = at
        return first


def error_response(stream_id: int, error: CaaError) -> bytes:
    """The frame that answers the request of this stream with an error's code and message."""
    status = ttrpc_pb2.Status(code=error.code, message=str(error)[:_LONGEST_MESSAGE])
    response = ttrpc_pb2.Response(status=status)
    return encode_frame(Frame(stream_id, FrameType.RESPONSE, 0, response.SerializeToString()))
