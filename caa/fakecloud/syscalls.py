"""The Linux calls for namespaces and mounts that Python 3.11 does not have."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4


def _check(result: int, call: str) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def setns(descriptor: int, kind: int) -> None:
    """Join a namespace: this thread's, except for CLONE_NEWPID, which holds for its next children."""
    _check(_libc.setns(descriptor, kind), f"setns({kind:#x})")


def unshare(kinds: int) -> None:
    """Put this thread into new namespaces; with CLONE_NEWPID, its next child becomes a pid 1."""
    _check(_libc.unshare(kinds), f"unshare({kinds:#x})")


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0) -> None:
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, None),
        f"mount({source}, {target})",
    )


def detach(target: str | Path) -> None:
    """Unmount as soon as nobody uses it."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"umount2({target})")


def die_with_parent(number: int) -> None:
    """Be sent this signal when the parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
