"""The cloud's end of `caa.fakecloud.guest`: the process that VMs are forked from, and a VM's init."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

_ANSWER_SECONDS = 60.0  # a busy machine that has to import everything first takes a few


class GuestError(Exception):
    """A VM's first process did not come up."""


class Guest:
    """A running VM: its pid 1, with whose end everything in it has ended."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd

    async def wait(self) -> None:
        """Until it has ended."""
        await _readable(self._pidfd)

    async def kill(self) -> None:
        """End it, and return when all of its processes are gone. To be called once."""
        await _kill(self._pidfd)


class Zygote:
    """Starts the process. It ends with this one, and its VMs with it, however that happens."""

    def __init__(self, imports: Sequence[str]) -> None:
        """`imports` are names of modules, or `module:name`, that are imported once for all VMs."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "caa.fakecloud.guest", str(theirs.fileno()), *imports],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C is the cloud's, which then powers its VMs off
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._one_order = asyncio.Lock()  # the socket takes ten (net.unix.max_dgram_qlen), then it blocks

    async def fork(self, hostname: str, programs: Sequence[Sequence[str]], netns: int, console: int) -> Guest:
        """Start a VM in the namespace `netns`; what its programs print goes to `console`.

        Raises GuestError. Failed or cancelled, it leaves no VM behind.
        """
        order = json.dumps({"hostname": hostname, "programs": programs}).encode()
        async with self._one_order:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                with theirs:
                    try:
                        socket.send_fds(self._control, [order], [netns, console, theirs.fileno()])
                    except OSError as error:
                        raise GuestError(
                            f"the process that pod VMs are forked from is gone: {error}"
                        ) from None
                return await _answer(ours)

    async def close(self) -> None:
        """End the process, and what is left of its VMs."""
        self._control.close()
        await _kill(self._pidfd)
        self._process.wait()


def _environment() -> dict[str, str]:
    """What a VM knows of this process's environment: where programs are, and none of its secrets."""
    environment = {
        name: text for name, text in os.environ.items() if name == "PATH" or name.startswith("PYTHON")
    }
    return environment | {"HOME": "/root", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


async def _answer(init: socket.socket) -> Guest:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await _readable(init.fileno())
    except TimeoutError:
        raise GuestError(f"no answer from its init within {_ANSWER_SECONDS:g} s") from None
    answer, descriptors, _flags, _address = socket.recv_fds(init, 16, 1)
    if not answer:
        raise GuestError("its init ended before it was ready")
    with suppress(BrokenPipeError):  # it ended meanwhile, as `Guest.wait` tells
        # Until it hears this, the init runs nothing; if the socket is closed instead, it ends.
        init.send(b"\n")
    return Guest(descriptors[0])


async def _kill(pidfd: int) -> None:
    """Returns when the process has ended; closes the pidfd."""
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await _readable(pidfd)
    finally:
        os.close(pidfd)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    # An Event, not a Future: the loop may call again before the waiter runs.
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
