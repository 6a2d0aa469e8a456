"""Named network namespaces, as `ip netns` keeps them, and netlink inside of them.

A thread that joins a namespace stays there. So whatever has to happen inside one happens in a thread of
its own, which ends with it (`apart`), and never in one of a pool.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute

from caa.fakecloud import syscalls

T = TypeVar("T")

FOLDER = Path("/run/netns")


def _thread(work: Callable[[], T]) -> Future[T]:
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        return pool.submit(work)
    finally:
        pool.shutdown(wait=False)


def apart_now(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, and wait for it here."""
    return _thread(work).result()


async def apart(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own.

    When cancelled, this still waits for its end, because what is still being done can't be undone. So
    `work` must be short.
    """
    future = asyncio.wrap_future(_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled from future.exception()
    return future.result()


@contextmanager
def netlink(netns: int) -> Iterator[IPRoute]:
    """Netlink in the namespace of this descriptor. It moves the thread there: call it `apart`."""
    syscalls.setns(netns, syscalls.CLONE_NEWNET)
    with IPRoute() as link:
        yield link


class Namespace:
    """A network namespace that lives until it is removed, whoever is in it. It has no IPv6."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fd: int | None = None

    @classmethod
    async def create(cls, name: str) -> "Namespace":
        """Failed or cancelled, it leaves nothing behind.

        Raises FileExistsError if there is one of that name.
        """
        namespace = cls(name)
        try:
            await apart(namespace._create)
        except BaseException:
            await namespace.remove()
            raise
        return namespace

    def _create(self) -> None:
        _share_folder()
        path = FOLDER / self.name
        path.touch(mode=0o444, exist_ok=False)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            with suppress(FileNotFoundError):  # a kernel without IPv6
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            syscalls.mount("/proc/thread-self/ns/net", path, flags=syscalls.MS_BIND)
            self._fd = os.open(path, os.O_RDONLY)
        except BaseException:
            discard(self.name)
            raise

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise RuntimeError(f"network namespace {self.name} is closed")
        return self._fd

    async def remove(self) -> None:
        """Take its name away: it ends with the last process, socket and descriptor that is in it."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            await apart(lambda: discard(self.name))


def discard(name: str) -> None:
    """Remove the namespace of that name, if there is one, at whatever point its making had stopped."""
    path = FOLDER / name
    try:
        syscalls.detach(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted, or not even a file
            raise
    path.unlink(missing_ok=True)


def _share_folder() -> None:
    """Make the folder a mount that shares its mounts, as `ip netns` does: only so does a namespace that is
    removed here go away in every mount namespace.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    fd = os.open(FOLDER, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            syscalls.mount("", FOLDER, flags=syscalls.MS_SHARED | syscalls.MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            syscalls.mount(FOLDER, FOLDER, flags=syscalls.MS_BIND | syscalls.MS_REC)
            syscalls.mount("", FOLDER, flags=syscalls.MS_SHARED | syscalls.MS_REC)
    finally:
        os.close(fd)
