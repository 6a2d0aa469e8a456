"""The codec: every split of the bytes gives the same frames, and nothing makes it fail."""

import asyncio
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caa.errors import Code, ResourceExhaustedError
from caa.ttrpc import (
    HEADER_SIZE,
    MAX_DATA,
    Flag,
    Frame,
    FrameDecoder,
    FrameType,
    Oversized,
    encode_frame,
    read_frame,
)

BYTE = st.integers(0, 2**8 - 1)
frames = st.builds(Frame, st.integers(0, 2**32 - 1), BYTE, BYTE, st.binary(max_size=60))
oversized = st.builds(
    Oversized, st.integers(0, 2**32 - 1), BYTE, BYTE, st.integers(MAX_DATA + 1, MAX_DATA + 1000)
)


def encode(event: Frame | Oversized) -> bytes:
    if isinstance(event, Oversized):
        return event.encode_header() + bytes(event.length)
    return encode_frame(event)


def decode(pieces: list[bytes]) -> list[Frame | Oversized]:
    decoder = FrameDecoder()
    events: list[Frame | Oversized] = []
    for piece in pieces:
        decoder.feed(piece)
        events += decoder
    return events


def test_layout() -> None:
    frame = Frame(0x01020305, FrameType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b"xyz")
    assert encode_frame(frame) == bytes.fromhex("00000003 01020305 03 05") + b"xyz"


@settings(deadline=None)
@given(frames)
def test_decoding_undoes_encoding(frame: Frame) -> None:
    assert decode([encode_frame(frame)]) == [frame]


@settings(deadline=None)
@given(st.data(), st.lists(frames, max_size=8))
def test_any_split_gives_the_same_frames(data: st.DataObject, sent: list[Frame]) -> None:
    stream = b"".join(map(encode_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(pieces) == sent


@settings(deadline=None)
@given(st.lists(st.one_of(frames, oversized), max_size=4), st.sampled_from([1000, 65536, 2**24]))
def test_oversized_frames_are_reported_and_skipped(sent: list[Frame | Oversized], size: int) -> None:
    stream = b"".join(map(encode, sent))
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert decode(pieces) == sent


def test_an_oversized_frame_is_reported_before_its_data_and_never_held() -> None:
    decoder = FrameDecoder()
    header = Oversized(1, FrameType.REQUEST, 0, 2**32 - 1)
    decoder.feed(header.encode_header())
    assert decoder.next_event() == header
    for _ in range(1000):
        decoder.feed(bytes(4096))
        assert decoder.next_event() is None
        assert len(decoder._buffer) == 0


def test_the_largest_frame() -> None:
    frame = Frame(1, FrameType.REQUEST, 0, b"x" * MAX_DATA)
    assert decode([encode_frame(frame)]) == [frame]
    with pytest.raises(ResourceExhaustedError, match=f"{MAX_DATA + 1} bytes") as caught:
        encode_frame(frame._replace(data=b"x" * (MAX_DATA + 1)))
    assert caught.value.code == Code.RESOURCE_EXHAUSTED


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200)))
def test_garbage_is_read_as_frames_or_waits_for_more(pieces: list[bytes]) -> None:
    """What was decoded is a prefix of what came in, and what is left is less than a frame."""
    events = decode(pieces)
    stream = b"".join(pieces)
    position = 0
    for event in events:
        length, *rest = struct.unpack_from(">IIBB", stream, position)
        assert event[:3] == tuple(rest)
        if isinstance(event, Frame):
            assert event.data == stream[position + HEADER_SIZE :][:length]
        else:
            assert event.length == length > MAX_DATA
        position += HEADER_SIZE + length
    left = stream[position:]
    if len(left) >= HEADER_SIZE:
        (length,) = struct.unpack_from(">I", left)
        assert len(left) - HEADER_SIZE < length <= MAX_DATA


def reader_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def test_read_frame_gives_frames_and_then_none() -> None:
    sent = [Frame(1, FrameType.REQUEST, 0, b"a"), Frame(1, FrameType.DATA, Flag.NO_DATA, b"")]
    reader = reader_of(b"".join(map(encode_frame, sent)))
    assert [await read_frame(reader), await read_frame(reader)] == sent
    assert await read_frame(reader) is None


async def test_read_frame_leaves_the_data_of_an_oversized_frame_to_its_caller() -> None:
    header = Oversized(3, FrameType.DATA, 1, MAX_DATA + 1)
    after = Frame(5, FrameType.REQUEST, 0, b"b")
    reader = reader_of(encode(header) + encode_frame(after))
    assert await read_frame(reader) == header
    assert await reader.readexactly(header.length) == bytes(header.length)
    assert await read_frame(reader) == after


@pytest.mark.parametrize("kept", [1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1])
async def test_read_frame_raises_for_a_frame_that_is_cut_off(kept: int) -> None:
    frame = encode_frame(Frame(1, FrameType.REQUEST, 0, b"ab"))
    with pytest.raises(asyncio.IncompleteReadError):
        await read_frame(reader_of(frame[:kept]))
