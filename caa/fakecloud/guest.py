"""The processes of the pod VMs: one from which all are forked, and each VM's init (its pid 1).

An interpreter that has imported a pod VM's programs costs most of a second of CPU time, a fork of one some
milliseconds. So the first process imports, once; for each VM it forks an init, and that forks the VM's
programs. It has a single thread, always: that makes forking safe.

Here a function that forks goes on with its work in the parent, and returns in the child, up to `main`, with
what the child is to be. So a child runs with nothing of its parent on its stack.
"""

import fcntl
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caa.fakecloud import syscalls

_ORDER_LIMIT = 64 * 1024  # bytes
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
"""Seconds before a program that failed is started again; the second is RestartSec= of the image's units."""
_STEADY_SECONDS = 10.0
"""A program that has run for so long starts again with the first pause."""

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

Program = Sequence[str]
"""The words of a command."""


@dataclass(frozen=True)
class Order:
    """What a VM is to be."""

    hostname: str
    programs: Sequence[Program]
    """The first runs until it succeeds; then the others run side by side, each again if it fails."""
    netns: int
    console: int
    reply: socket.socket


def main() -> None:
    """`python -m caa.fakecloud.guest DESCRIPTOR NAME…`: the socket for orders, and what to import."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            traceback.print_exc()  # its program will fail too, and say so on each VM's console
    gc.collect()
    gc.freeze()  # so that the collector leaves these pages alone, and the forks share them
    order = take_orders(control)
    program = order and init(order)
    if program:
        run(program)


def take_orders(control: socket.socket) -> Order | None:
    """Fork an init for each order until the other end is closed; returns the order in the fork.

    An order is one packet: JSON with hostname and programs, and three descriptors: the network namespace,
    the console, and a socket for the init's reply.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the kernel reaps
    our_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
    ourselves = os.pidfd_open(os.getpid())
    while True:
        packet, descriptors, _flags, _address = socket.recv_fds(control, _ORDER_LIMIT, 3)
        if not packet:
            return None
        syscalls.unshare(syscalls.CLONE_NEWPID)
        if os.fork() == 0:
            control.close()
            os.close(our_pids)
            syscalls.die_with_parent(signal.SIGKILL)
            if select.select([ourselves], [], [], 0)[0]:
                os._exit(1)  # it had ended before that call
            os.close(ourselves)
            netns, console, reply = descriptors
            return Order(
                **json.loads(packet), netns=netns, console=console, reply=socket.socket(fileno=reply)
            )
        syscalls.setns(our_pids, syscalls.CLONE_NEWPID)
        for descriptor in descriptors:
            os.close(descriptor)


def init(order: Order) -> Program | None:
    """Be pid 1 of a VM; returns a program in each fork that is to run it.

    Replies with a pidfd of this process once the VM is ready for its programs; goes on when it is told to.
    When pid 1 ends, however it does, the kernel kills the VM's other processes.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    os.setsid()
    os.dup2(order.console, 1)
    os.dup2(order.console, 2)
    os.close(order.console)
    os.chdir("/")
    _call_process("init")

    syscalls.setns(order.netns, syscalls.CLONE_NEWNET)
    os.close(order.netns)
    _loopback_up()
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    socket.sethostname(order.hostname)
    _mount()
    _make_pod_namespace(Path("/run/netns/podns"))

    with order.reply as reply:
        ourselves = os.pidfd_open(os.getpid())
        socket.send_fds(reply, [b"ready"], [ourselves])
        os.close(ourselves)
        if not reply.recv(1):
            return None
    return supervise(order.programs)


def _mount() -> None:
    """A VM's own /run, /proc and /sys. The rest of the file system is the host's."""
    # Slave: what is mounted here stays here, and what the host unmounts is not kept in use by us.
    syscalls.mount("", "/", flags=syscalls.MS_SLAVE | syscalls.MS_REC)
    plain = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("proc", "/proc", "proc", plain | syscalls.MS_NOEXEC)
    syscalls.mount("sysfs", "/sys", "sysfs", plain | syscalls.MS_NOEXEC)
    syscalls.mount("tmpfs", "/run", "tmpfs", plain)
    for folder in ("peerpod", "kata-containers", "netns"):
        Path("/run", folder).mkdir(mode=0o700)


def _make_pod_namespace(path: Path) -> None:
    """What the image's unit netns@podns does."""
    path.touch(mode=0o444)
    ours = os.open("/proc/self/ns/net", os.O_RDONLY)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    _loopback_up()
    syscalls.mount("/proc/self/ns/net", path, flags=syscalls.MS_BIND)
    syscalls.setns(ours, syscalls.CLONE_NEWNET)
    os.close(ours)


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def supervise(programs: Sequence[Program]) -> Program | None:
    """Run the programs as `Order` says, and reap, until SIGTERM."""
    due = {0: 0.0}  # by number of the program: when to start it
    running: dict[int, int] = {}  # by pid
    started = [0.0] * len(programs)
    pauses = [_FIRST_PAUSE] * len(programs)
    while True:
        now = time.monotonic()
        for number in [number for number, at in due.items() if at <= now]:
            del due[number]
            started[number] = now
            pid = os.fork()
            if pid == 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM})
                return programs[number]
            running[pid] = number

        patience = min(due.values()) - now if due else _LONGEST_PAUSE
        received = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, max(patience, 0))
        if received and received.si_signo == signal.SIGTERM:
            return None

        for pid, status in _reap():
            number = running.pop(pid, -1)
            if number == -1:
                continue  # somebody's orphan
            code = os.waitstatus_to_exitcode(status)
            sys.stderr.write(f"init: {_name(programs[number])} ended with {code}\n")
            now = time.monotonic()
            if code == 0:
                if number == 0:
                    due |= dict.fromkeys(range(1, len(programs)), now)
                continue
            if now - started[number] >= _STEADY_SECONDS:
                pauses[number] = _FIRST_PAUSE
            due[number] = now + pauses[number]
            pauses[number] = min(pauses[number] * 2, _LONGEST_PAUSE)


def _reap() -> list[tuple[int, int]]:
    """Process id and status of every child that has ended."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status))


def run(program: Program) -> None:
    """Be that program: this interpreter, with all it has imported, if it is `python -m module …`."""
    _call_process(_name(program))
    if _is_module(program):
        sys.argv = list(program[2:])
        try:
            runpy.run_module(program[2], run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                raise
        sys.stdout.flush()
        # Taking the interpreter apart would touch, and so copy, every page that it shares: 40 ms or more.
        os._exit(0)
    else:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(program[0], list(program))  # noqa: S606  no shell is the point


def _is_module(program: Program) -> bool:
    return list(program[:2]) == [sys.executable, "-m"]


def _name(program: Program) -> str:
    """`kata-agent` for `python -m caa kata-agent --socket …`."""
    if not _is_module(program):
        return Path(program[0]).name
    return next((word for word in program[3:] if not word.startswith("-")), program[2])


def _call_process(name: str) -> None:
    """What `ps` and `top` show (15 characters of it)."""
    Path("/proc/self/comm").write_text(name[:15])


if __name__ == "__main__":
    main()
