"""Fuzzes ttRPC: mutated sessions against the codec, and against a live server.

    python tests/fuzz/ttrpc_frames.py --seconds 20
    python tests/fuzz/ttrpc_frames.py --seed 7 --first 1234 --examples 1     # that one input again

An input is a session of well-formed frames whose bytes were then flipped, cut, repeated and overwritten. For
each:

- the decoder gives the same frames for two random splits of the bytes, and those that a simple decoder gives,
  which has no regard for speed and memory;
- a server that reads the bytes and then the end of the connection stops serving it, raises and logs no error,
  and leaves no handler running;
- it then still answers a call on another connection.

The first input that breaks one of these is printed, with how to make it again; the exit status is 1.
"""

import argparse
import asyncio
import random
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.wrappers_pb2 import DESCRIPTOR as WRAPPERS
from google.protobuf.wrappers_pb2 import BytesValue

from caa.proto import ttrpc_pb2
from caa.ttrpc import MAX_DATA, CallContext, Client, Flag, Frame, FrameDecoder, FrameType, Oversized, Server
from caa.ttrpc import encode_frame as encode

PATIENCE = 20  # seconds that the server may take for one input
METHODS = ("Echo", "Wait", "Count", "Sum", "Chat")


class Target:
    def __init__(self) -> None:
        self.running = 0

    async def Echo(self, request: BytesValue, context: CallContext) -> BytesValue:  # noqa: N802  # the RPC's name
        return request

    async def Wait(self, request: BytesValue, context: CallContext) -> BytesValue:  # noqa: N802  # as above
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
        return request

    async def Count(self, request: BytesValue, context: CallContext) -> AsyncIterator[BytesValue]:  # noqa: N802  # as above
        self.running += 1
        try:
            for i in range(len(request.value)):
                yield BytesValue(value=bytes([i % 256]))
        finally:
            self.running -= 1

    async def Sum(self, request: AsyncIterator[BytesValue], context: CallContext) -> BytesValue:  # noqa: N802  # as above
        return BytesValue(value=b"".join([message.value async for message in request]))

    async def Chat(  # noqa: N802  # as above
        self, request: AsyncIterator[BytesValue], context: CallContext
    ) -> AsyncIterator[BytesValue]:
        async for message in request:
            yield message


def declare_service() -> ServiceDescriptor:
    kind = ".google.protobuf.BytesValue"
    file = FileDescriptorProto(name="fuzz.proto", package="fuzz", syntax="proto3", dependency=[WRAPPERS.name])
    service = file.service.add(name="Target")
    for name in METHODS:
        service.method.add(
            name=name,
            input_type=kind,
            output_type=kind,
            client_streaming=name in ("Sum", "Chat"),
            server_streaming=name in ("Count", "Chat"),
        )
    Default().AddSerializedFile(file.SerializeToString())
    return Default().FindServiceByName("fuzz.Target")


# Inputs


def make_input(rng: random.Random) -> bytes:
    session = bytearray(b"".join(make_frame(rng, i) for i in range(rng.randint(1, 12))))
    for _ in range(rng.choice([0, 0, 1, 2, 5, 20])):
        mutate(session, rng)
    return bytes(session)


def make_frame(rng: random.Random, turn: int) -> bytes:
    stream_id = rng.choice([2 * turn + 1] * 6 + [1, 3, rng.randrange(20), rng.randrange(2**32)])
    match rng.randrange(10):
        case 0:
            return encode(
                Frame(stream_id, rng.randrange(256), rng.randrange(256), rng.randbytes(rng.randrange(30)))
            )
        case 1:
            length = MAX_DATA + rng.randint(1, 100)
            data = b"\xff" * (length if rng.random() < 0.1 else 9)  # mostly cut short, for speed
            return Oversized(stream_id, rng.randint(1, 3), 0, length).encode_header() + data
        case 2 | 3 | 4:
            flags = rng.choice([0, 0, Flag.REMOTE_CLOSED, Flag.NO_DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA])
            data = BytesValue(value=rng.randbytes(rng.randrange(10))).SerializeToString()
            return encode(Frame(rng.choice([stream_id, max(1, stream_id - 2)]), FrameType.DATA, flags, data))
        case _:
            request = ttrpc_pb2.Request(
                service=rng.choice(["fuzz.Target"] * 9 + ["fuzz.Other"]),
                method=rng.choice(METHODS),
                payload=BytesValue(value=rng.randbytes(rng.choice([0, 3, 3000]))).SerializeToString(),
                timeout_nano=rng.choice([0, 0, 0, -1, 1, 10**6, 10**10]),
                metadata=[ttrpc_pb2.KeyValue(key="k", value="v")] * rng.randrange(3),
            )
            flags = rng.choice(
                [0, Flag.REMOTE_CLOSED, Flag.REMOTE_OPEN, Flag.REMOTE_OPEN, rng.randrange(256)]
            )
            return encode(Frame(stream_id, FrameType.REQUEST, flags, request.SerializeToString()))


def mutate(session: bytearray, rng: random.Random) -> None:
    if not session:
        return
    start = rng.randrange(min(len(session), 5000))
    end = min(len(session), start + rng.choice([1, 1, 4, 10, 100]))
    match rng.randrange(5):
        case 0:
            session[start] ^= 1 << rng.randrange(8)
        case 1:
            del session[start:end]
        case 2:
            session[start:start] = session[start:end]
        case 3:
            session[start:end] = rng.randbytes(end - start)
        case 4:
            session[start:end] = rng.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack(">I", MAX_DATA + 1)]
            )


# Properties


def decode_simply(data: bytes) -> list[Frame | Oversized]:
    events: list[Frame | Oversized] = []
    start = 0
    while start + 10 <= len(data):
        length, stream_id, kind, flags = struct.unpack_from(">IIBB", data, start)
        end = start + 10 + length
        if length > MAX_DATA:
            events.append(Oversized(stream_id, kind, flags, length))
        elif end <= len(data):
            events.append(Frame(stream_id, kind, flags, data[start + 10 : end]))
        else:
            break
        start = end
    return events


def check_codec(data: bytes, rng: random.Random) -> None:
    expected = decode_simply(data)
    for _ in range(2):
        decoder = FrameDecoder()
        events: list[Frame | Oversized] = []
        longest = rng.choice([1, 11, 5000, 2**20]) if len(data) < 10_000 else 2**20
        position = 0
        while position < len(data):
            size = rng.randint(1, longest)
            decoder.feed(data[position : position + size])
            events += decoder
            position += size
        assert events == expected, f"decoded {events}, not {expected}"


async def connect(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Task[None]]:
    near, far = socket.socketpair()
    serving = asyncio.create_task(server.serve(*await asyncio.open_unix_connection(sock=far)))
    return *await asyncio.open_unix_connection(sock=near), serving


async def check_server(data: bytes, server: Server, target: Target) -> None:
    reader, writer, serving = await connect(server)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        await reader.read(-1)
        await serving
    writer.close()
    await writer.wait_closed()
    assert target.running == 0, f"{target.running} handlers were left running"

    reader, writer, serving = await connect(server)
    async with asyncio.timeout(PATIENCE), Client(reader, writer) as client:
        sent = BytesValue(value=b"probe")
        assert await client.call("fuzz.Target", "Echo", sent, BytesValue) == sent
    await serving


async def fuzz(options: argparse.Namespace) -> int:
    target, server = Target(), Server()
    server.register(declare_service(), target)
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    def complain(_: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if level != "debug":
            complaints.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.format_exc_info, complain])
    stop_at = time.monotonic() + options.seconds if options.seconds else float("inf")
    number = options.first
    while time.monotonic() < stop_at and number - options.first != options.examples:
        rng = random.Random(f"{options.seed} {number}")
        data = make_input(rng)
        try:
            check_codec(data, rng)
            await check_server(data, server, target)
            assert not complaints, f"complaints: {complaints}"
        except Exception as error:  # noqa: BLE001  # any at all is what is looked for
            print(f"input {data.hex()}\n{type(error).__name__}: {error}", file=sys.stderr)
            print(
                f"again: {sys.argv[0]} --seed {options.seed} --first {number} --examples 1", file=sys.stderr
            )
            return 1
        number += 1
    print(f"{number - options.first} inputs, none of which broke anything (seed {options.seed})")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the ttRPC codec and server.")
    parser.add_argument("--seconds", type=float, default=0, help="stop after this long (0: never)")
    parser.add_argument("--examples", type=int, default=-1, help="stop after so many inputs (-1: never)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    options = parser.parse_args()
    return asyncio.run(fuzz(options))


if __name__ == "__main__":
    sys.exit(main())
