"""ttRPC frames, without I/O: bytes in, frames out.

A frame is a header of 10 bytes and up to 4 MiB of data:

    bytes 0-3   data length, big-endian
    bytes 4-7   stream id, big-endian
    byte  8     frame type
    byte  9     flags, whose meaning depends on the type

A frame that announces more data is a fault of its stream, not of the connection: it is reported from its
header alone, its data is skipped, and what follows is read as if nothing had happened.

Source: containerd/ttrpc 1.2, PROTOCOL.md and channel.go.
"""

import asyncio
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from caa.errors import ResourceExhaustedError

HEADER_SIZE = 10
MAX_DATA = 4 * 1024 * 1024

_HEADER = struct.Struct(">IIBB")


class FrameType(IntEnum):
    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(IntFlag):
    """Flags of request and data frames; a unary request and every response have none."""

    REMOTE_CLOSED = 1
    """The sender sends no more data on this stream (request, data)."""
    REMOTE_OPEN = 2
    """The sender will send data on this stream (request)."""
    NO_DATA = 4
    """This frame carries no message, as opposed to a message of zero bytes (data)."""


class Frame(NamedTuple):
    """One whole frame. `type` and `flags` are plain numbers, since a peer may send ones unknown to us."""

    stream_id: int
    type: int
    flags: int
    data: bytes


class Oversized(NamedTuple):
    """The header of a frame whose `length` is above MAX_DATA; its data is never held in memory."""

    stream_id: int
    type: int
    flags: int
    length: int

    def encode_header(self) -> bytes:
        """The header as it was received, for passing the frame on."""
        return _HEADER.pack(self.length, self.stream_id, self.type, self.flags)


def encode_frame(frame: Frame) -> bytes:
    """Raises ResourceExhaustedError if the data is longer than MAX_DATA."""
    length = len(frame.data)
    if length > MAX_DATA:
        raise ResourceExhaustedError(
            f"a ttRPC message of {length} bytes does not fit into a frame: at most {MAX_DATA} bytes do"
        )
    return _HEADER.pack(length, frame.stream_id, frame.type, frame.flags) + frame.data


class FrameDecoder:
    """Turns received bytes, split in any way, into frames.

    Call `feed` with what was received, then take events until there is none, by `next_event` or by iterating.
    Holds at most one frame and what was fed last.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._to_skip = 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> Frame | Oversized | None:
        """The next frame, or None until more is fed. Oversized comes as soon as its header is complete."""
        if self._to_skip:
            skipped = min(self._to_skip, len(self._buffer))
            del self._buffer[:skipped]
            self._to_skip -= skipped
        if len(self._buffer) < HEADER_SIZE:
            return None
        length, stream_id, kind, flags = _HEADER.unpack_from(self._buffer)
        if length > MAX_DATA:
            del self._buffer[:HEADER_SIZE]
            self._to_skip = length
            return Oversized(stream_id, kind, flags, length)
        end = HEADER_SIZE + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            data = bytes(view[HEADER_SIZE:end])
        del self._buffer[:end]
        return Frame(stream_id, kind, flags, data)

    def __iter__(self) -> Iterator[Frame | Oversized]:
        while (event := self.next_event()) is not None:
            yield event


async def read_frame(reader: asyncio.StreamReader) -> Frame | Oversized | None:
    """One frame from `reader`, or None if the peer closed the connection between two frames.

    For whoever passes frames on. After Oversized, the frame's `length` bytes of data are still to be read
    from `reader`, by the caller, who can pass them on in pieces.

    Raises asyncio.IncompleteReadError if the connection ends within a frame.
    """
    try:
        header = await reader.readexactly(HEADER_SIZE)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    length, stream_id, kind, flags = _HEADER.unpack(header)
    if length > MAX_DATA:
        return Oversized(stream_id, kind, flags, length)
    return Frame(stream_id, kind, flags, await reader.readexactly(length))
