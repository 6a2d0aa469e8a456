import socket
import stat
from pathlib import Path

import pytest

from caa.errors import FailedPreconditionError
from caa.unix_socket import listen


def test_it_is_private_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "s.sock"
    listening, file = listen(path)
    with listening, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert [entry.name for entry in path.parent.iterdir()] == ["s.sock"]
    file.remove()
    assert not path.exists()


def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listen(path)[0].close()
    assert path.exists()
    listening, _ = listen(path)
    listening.close()


def test_a_living_listener_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listening, _ = listen(path)
    with listening, pytest.raises(FailedPreconditionError, match=f"another process listens on {path}"):
        listen(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("mine")
    with pytest.raises(FailedPreconditionError, match="not a socket"):
        listen(path)
    assert path.read_text() == "mine"


def test_a_successors_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    first, first_file = listen(path)
    first.close()
    second, second_file = listen(path)
    first_file.remove()
    assert path.exists()
    second.close()
    second_file.remove()
    assert not path.exists()


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match=r"has \d+ bytes, and unix sockets allow 107"):
        listen(tmp_path / ("x" * 120))


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPreconditionError, match=r"can't listen on .*s\.sock: .*/file\)"):
        listen(tmp_path / "file" / "s.sock")
