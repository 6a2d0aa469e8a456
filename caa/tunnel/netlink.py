"""A netlink socket in one namespace: requests to the kernel, and its answers or its refusal.

The kernel answers a netlink request inside the very system call that sends it (and continues a dump inside
the one that receives), so nothing here waits: all answers are there as soon as `send` returns.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from pyroute2.netlink import NLMSG_DONE, NLMSG_ERROR

from caa.errors import InternalError
from caa.tunnel.netns import Namespace

_HEADER = struct.Struct("=IHHII")
_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11


class NetlinkError(InternalError):
    """The kernel refused a request. `number` is its errno."""

    def __init__(self, doing: str, number: int, detail: str = "") -> None:
        super().__init__(f"{doing}: {os.strerror(number)}" + (f" ({detail})" if detail else ""))
        self.number = number


@contextmanager
def already(*numbers: int) -> Iterator[None]:
    """For a step that may have been done already: the kernel's refusal with one of `numbers` is fine."""
    try:
        yield
    except NetlinkError as error:
        if error.number not in numbers:
            raise


class Message(NamedTuple):
    kind: int
    flags: int
    raw: bytes
    """With the header."""


class Netlink:
    """A netlink socket in one namespace, and what every family of netlink has in common."""

    def __init__(self, namespace: Namespace, protocol: int) -> None:
        self.where = namespace.name
        self._socket = namespace.open_netlink(protocol)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)

    def exchange(self, request: bytes, doing: str) -> list[Message]:
        """Send one or several messages, and return the answers without acknowledgements.

        Each must ask for an acknowledgement or a dump. Raises NetlinkError for the first that is refused.
        """
        self._socket.send(request)
        answers: list[Message] = []
        refusal: NetlinkError | None = None
        ended = False
        while True:
            try:
                received = self._socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for message in _split(received):
                if message.flags & _NLM_F_DUMP_INTR and message.kind != NLMSG_ERROR:
                    refusal = refusal or NetlinkError(
                        f"{doing} in {self.where}", errno.EINTR, "it changed while it was read"
                    )
                if message.kind in (NLMSG_ERROR, NLMSG_DONE):
                    ended = True
                    refusal = refusal or _refusal(message, f"{doing} in {self.where}")
                else:
                    answers.append(message)
        if refusal is not None:
            raise refusal
        if not ended:
            raise NetlinkError(f"{doing} in {self.where}", errno.EPROTO, "the kernel's answer has no end")
        return answers

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _split(received: bytes) -> Iterator[Message]:
    offset = 0
    while offset + _HEADER.size <= len(received):
        length, kind, flags, _, _ = _HEADER.unpack_from(received, offset)
        yield Message(kind, flags, received[offset : offset + length])
        offset += (length + 3) & ~3


def _refusal(message: Message, doing: str) -> NetlinkError | None:
    number = -struct.unpack_from("=i", message.raw, 16)[0] if len(message.raw) >= 20 else 0
    if number <= 0:
        return None
    detail = ""
    if message.flags & _NLM_F_ACK_TLVS and message.kind == NLMSG_ERROR:
        # The refused request follows, or only its header, and then attributes that explain the refusal.
        offset = 20 + (16 if message.flags & _NLM_F_CAPPED else struct.unpack_from("=I", message.raw, 20)[0])
        while offset + 4 <= len(message.raw):
            length, kind = struct.unpack_from("=HH", message.raw, offset)
            if kind == _NLMSGERR_ATTR_MSG:
                detail = message.raw[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
            offset += max(4, (length + 3) & ~3)
    return NetlinkError(doing, number, detail)
