"""Network namespaces, opened by path, and sockets that belong to them.

A socket belongs for ever to the namespace in which the thread that opened it was at that moment. So a
short-lived thread enters the namespace, opens the socket and ends, and nothing has to find its way back. No
process is forked: forking one that runs gRPC's threads is unsafe, and takes longer than setting up a whole
tunnel.
"""

import ctypes
import fcntl
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pyroute2 import netns as pyroute2_netns

from caa.errors import InternalError, NotFoundError, PermissionDeniedError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)


class Namespace:
    """An open network namespace: it lives at least until it is closed, whatever becomes of its path."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        """For messages."""
        self.fd = fd

    @classmethod
    def open(cls, path: str | None) -> Self:
        """Open the namespace at `path`; None is the one that the calling thread is in.

        Raises NotFoundError if there is none, which includes a file that is no network namespace: that is
        what `/run/netns/x` is for a moment before its namespace is mounted there and after it has gone.
        """
        if path is None:
            return cls("this process's network namespace", _open("/proc/thread-self/ns/net"))
        fd = _open(path)
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != _CLONE_NEWNET:
            os.close(fd)
            raise NotFoundError(f"no network namespace at {path}: there is something else")
        return cls(path, fd)

    @classmethod
    def open_if_there(cls, path: str) -> Self | None:
        """As `open`, for whoever undoes things: with the namespace has gone what was in it."""
        try:
            return cls.open(path)
        except NotFoundError:
            return None

    @classmethod
    def open_or_create(cls, path: str) -> Self:
        """Open the namespace at `path`; make one as `ip netns add` does if there is none.

        Raises PermissionDeniedError or InternalError if it can't be made.
        """
        if there := cls.open_if_there(path):
            return there

        def create() -> None:
            # pyroute2 would mount whatever it finds there on itself, and leave that behind.
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            # pyroute2's `create` forks; its `attach` mounts the namespace of any task.
            pyroute2_netns.attach(path, threading.get_native_id())

        try:
            _in_own_thread(create)
        except PermissionError as error:
            raise PermissionDeniedError(
                f"can't make the network namespace {path}: {error}; CAP_SYS_ADMIN is needed"
            ) from error
        except OSError as error:
            raise InternalError(f"can't make the network namespace {path}: {error}") from error
        return cls.open(path)

    @classmethod
    def make_nameless(cls, name: str) -> Self:
        """A new namespace that only this process can find, and that ends with it. `name` is for messages.

        Raises PermissionDeniedError or InternalError if it can't be made.
        """

        def create() -> int:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            return _open("/proc/thread-self/ns/net")

        try:
            return cls(name, _in_own_thread(create))
        except PermissionError as error:
            raise PermissionDeniedError(f"can't make {name}: {error}; CAP_SYS_ADMIN is needed") from error
        except OSError as error:
            raise InternalError(f"can't make {name}: {error}") from error

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` in a thread of its own that is in this namespace, and wait for it."""

        def inside() -> T:
            pyroute2_netns.setns(self.fd)
            return function()

        return _in_own_thread(inside)

    def open_netlink(self, protocol: int) -> socket.socket:
        """A bound netlink socket of `protocol` (NETLINK_ROUTE, NETLINK_NETFILTER) that belongs to this
        namespace.

        Raises PermissionDeniedError if this process may not enter the namespace, OSError if the kernel lacks
        the protocol.
        """

        def create() -> socket.socket:
            return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)

        try:
            opened = self.run(create)
        except PermissionError as error:
            raise PermissionDeniedError(
                f"may not enter the network namespace {self.name}: {error}; CAP_SYS_ADMIN is needed"
            ) from error
        opened.bind((0, 0))
        return opened

    def is_same_as(self, other: "Namespace") -> bool:
        return os.path.samestat(os.fstat(self.fd), os.fstat(other.fd))

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: str) -> int:
    try:
        # The path is a caller's: neither a FIFO nor a terminal may hold up or take over the daemon.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no network namespace at {path}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise InternalError(f"can't open the network namespace {path}: {error}") from error


def _in_own_thread(function: Callable[[], T]) -> T:
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again by result()
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    return outcome.result()
