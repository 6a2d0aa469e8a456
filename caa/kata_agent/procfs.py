"""Which processes are a container's, what they use, and signals to them: all of it from /proc.

A container's processes have a mark in their environment, which children inherit, past double forks and
setsid too. One that clears its environment is still found by its session, as long as that session's leader,
a process that we started, has not been reaped. (The real agent has cgroups and PID namespaces for this.)
"""

import os
import signal as signals
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds in the unit of /proc's CPU times."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What processes use."""

    user: int = 0
    """CPU time in nanoseconds; so is the next."""
    kernel: int = 0
    memory: int = 0
    """Resident bytes. A page that is shared counts once for each."""
    processes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Members:
    """The living processes with `mark` (NAME=value) in their environment or in a session of `leaders`."""

    mark: str
    leaders: Collection[int]

    def __iter__(self) -> Iterator[int]:
        pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
        return filter(self._has, pids)

    def _has(self, pid: int) -> bool:
        # It may end between any two steps; and not every process's environment is for us to read.
        with suppress(OSError):
            status = _Status(pid)
            return status.alive and (status.session in self.leaders or self._is_marked(pid))
        return False

    def _is_marked(self, pid: int) -> bool:
        return self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")

    def signal(self, number: int) -> int:
        """Send it to each; returns to how many."""
        sent = 0
        for pid in self:
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                try:
                    if self._has(pid):  # and the number is not another process's by now
                        signals.pidfd_send_signal(handle, number)
                        sent += 1
                finally:
                    os.close(handle)
        return sent

    def usage(self) -> Usage:
        total = Usage()
        for pid in self:
            with suppress(OSError):
                total += _Status(pid).usage
        return total


class _Status:
    """`/proc/<pid>/stat` (proc(5)). Raises OSError if there is no such process."""

    def __init__(self, pid: int) -> None:
        # The second field, the program's name in parentheses, may hold anything.
        self._fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        self.alive = self._fields[0] not in "ZX"
        self.session = int(self._fields[3])

    @property
    def usage(self) -> Usage:
        # With the times of children that it has waited for, which are in nobody else's count.
        user, kernel, past_user, past_kernel = (int(field) * _TICK for field in self._fields[11:15])
        return Usage(user + past_user, kernel + past_kernel, int(self._fields[21]) * _PAGE, 1)


def network_counters(pid: int) -> dict[str, list[int]]:
    """The sixteen counters of each interface that the process sees, as /proc/net/dev orders them.

    None if the process has ended.
    """
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    except OSError:
        return {}
    rows = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): [int(word) for word in counters.split()] for name, _, counters in rows}
