"""ttRPC, the small RPC protocol of containerd and Kata: protobuf messages in frames over a stream socket.

`frames` is the codec and does no I/O; `server` and `client` speak the protocol over asyncio streams, be they
unix sockets or TLS; `services` joins a protobuf service to the object that implements it, whatever protocol
carries the calls. Compatible with containerd/ttrpc 1.2 and the Rust ttrpc crate.
"""

from caa.ttrpc.client import Client, ClientStream, ConnectionClosedError
from caa.ttrpc.frames import (
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
from caa.ttrpc.server import Server
from caa.ttrpc.services import CallContext, Handler, Method, bind, methods
from caa.ttrpc.status import RpcError

__all__ = [
    "HEADER_SIZE",
    "MAX_DATA",
    "CallContext",
    "Client",
    "ClientStream",
    "ConnectionClosedError",
    "Flag",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "Handler",
    "Method",
    "Oversized",
    "RpcError",
    "Server",
    "bind",
    "encode_frame",
    "methods",
    "read_frame",
]
