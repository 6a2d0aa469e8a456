"""Listening unix sockets: private, one listener each, and removed only by their maker."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from caa.errors import FailedPreconditionError

MAX_PATH = 107
"""Bytes that a unix socket's path may have (unix(7): sun_path with its final NUL is 108)."""


class SocketFile:
    """The file of a listening socket, of mode 0600 from its first moment.

    It is bound under a name of its own and then renamed, so that nobody ever sees it half made, a stale file
    of an earlier process is replaced, and whoever bound it (gRPC too) can't remove a successor's file.
    """

    def __init__(self, path: Path, bind: Callable[[Path], None]) -> None:
        """`bind` makes the listening socket at the path that it is given. The folder is made if missing.

        Raises FailedPreconditionError if another process listens there, or OSError's reason why it can't be.
        """
        self.path = path
        fresh = path.with_name(f".{os.getpid()}")
        length = len(os.fsencode(path))
        if length > MAX_PATH:
            raise FailedPreconditionError(
                f"the socket path {path} has {length} bytes, and unix sockets allow {MAX_PATH}:"
                " use a shorter folder"
            )
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_if_taken(path)
            fresh.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                bind(fresh)
            finally:
                os.umask(before)
            self._identity = _identity(fresh)
            fresh.rename(path)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise FailedPreconditionError(
                f"can't listen on {path}: {error.strerror or error}{where}"
            ) from error

    def remove(self) -> None:
        """Remove the file, if it is still the one that was made here."""
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)


def listen(path: Path) -> tuple[socket.socket, SocketFile]:
    """A listening stream socket at `path`. Raises as SocketFile does."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)

    def bind(fresh: Path) -> None:
        listening.bind(str(fresh))
        listening.listen(128)

    try:
        return listening, SocketFile(path, bind)
    except BaseException:
        listening.close()
        raise


def is_served(path: Path) -> bool:
    """Whether a process listens there. Raises OSError if that can't be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    return True


def _refuse_if_taken(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise FailedPreconditionError(f"can't listen on {path}: something that is not a socket is there")
    if is_served(path):
        raise FailedPreconditionError(f"another process listens on {path}")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
