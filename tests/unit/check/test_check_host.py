"""The host's checks that need no root, in a folder of the test's own."""

import asyncio
import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caa.check import host, host_checks
from caa.checking import Finding, Verdict, run_checks
from caa.config import load
from caa.tunnel import KernelFeature

Check = Callable[..., Finding]

LEAST = {"IMAGEID": "m-1", "VSWITCH_ID": "vsw-1", "SECURITY_GROUP_IDS": "sg-1"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, for the sockets' sake."""
    with tempfile.TemporaryDirectory(prefix="caa") as name:
        yield Path(name)


@pytest.fixture
def check(folder: Path) -> Check:
    """Runs one check, by its name, with the settings that are given by flag."""

    def run(what: str, **flags: str) -> Finding:
        given = {"socket": str(folder / "h.sock"), "grpc-socket": "", "pods-dir": str(folder / "pods")}
        given |= {"state-dir": str(folder / "state")}
        given |= {name.replace("_", "-"): value for name, value in flags.items()}
        chosen = [each for each in host_checks(load(given, LEAST)) if each.what == what]
        (result,) = asyncio.run(run_checks(chosen, timeout=30))
        return result.finding

    return run


def test_nothing_is_there_yet(check: Check, folder: Path) -> None:
    assert check("socket") == Finding(Verdict.OK, f"{folder}/h.sock, free")
    assert check("pods folder") == Finding(Verdict.OK, f"{folder}/pods, to be made")
    assert check("TLS files").verdict is Verdict.SKIPPED
    assert list(folder.iterdir()) == []


def test_a_daemon_listens(check: Check, folder: Path) -> None:
    path = folder / "h.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        assert check("socket") == Finding(Verdict.OK, f"{path}, a daemon listens")
    assert check("socket") == Finding(Verdict.OK, f"{path}, free")  # it was left behind


@pytest.mark.parametrize(
    ("flag", "what", "option"),
    [
        ("socket", "socket", "REMOTE_HYPERVISOR_ENDPOINT"),
        ("grpc_socket", "gRPC socket", "HYPERVISOR_GRPC_ENDPOINT"),
        ("pods_dir", "pods folder", "PODS_DIR"),
        ("state_dir", "state folder", "CAA_STATE_DIR"),
    ],
)
def test_something_else_is_in_the_way(check: Check, folder: Path, flag: str, what: str, option: str) -> None:
    (folder / "file").touch()
    found = check(what, **{flag: str(folder / "file" / "x")})
    assert found.verdict is Verdict.FAILED
    assert f"{folder}/file is no folder" in found.seen
    assert option in found.remedy


def test_a_file_where_the_socket_should_be(check: Check, folder: Path) -> None:
    (folder / "h.sock").touch()
    assert check("socket").seen == f"{folder}/h.sock is there and no socket"


@pytest.mark.parametrize(("what", "flag"), [("socket", "socket"), ("pods folder", "pods_dir")])
def test_paths_that_are_too_long(check: Check, what: str, flag: str) -> None:
    found = check(what, **{flag: f"/tmp/{'x' * 110}"})
    assert found.verdict is Verdict.FAILED
    assert "unix sockets allow 107" in found.seen


def test_a_pods_folder_whose_sockets_would_be_too_long(check: Check) -> None:
    """An id has 64 characters."""
    folder = "/tmp/" + "x" * (107 - 64 - len("//agent.ttrpc") - len("/tmp/"))
    assert check("pods folder", pods_dir=folder).verdict is Verdict.OK
    assert check("pods folder", pods_dir=f"{folder}x").verdict is Verdict.FAILED


def test_a_folder_of_somebody_else(check: Check, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, as which tests may run, is refused nothing."""

    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    found = check("state folder")
    assert found.verdict is Verdict.FAILED
    assert found.seen == f"{folder}: Permission denied"


def test_a_state_folder_that_a_daemon_has(
    check: Check, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_filesystem", lambda _: 0xEF53)  # ext4
    (folder / "state").mkdir()
    with (folder / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert check("state folder").seen == f"{folder}/state, a daemon uses it"
    assert check("state folder") == Finding(Verdict.OK, f"{folder}/state")


@pytest.mark.parametrize(
    ("kind", "told"),
    [(0x01021994, "tmpfs, which does not outlive"), (0x794C7630, "a container's own layer"), (0x6969, "NFS")],
)
def test_state_on_what_does_not_last(
    check: Check, monkeypatch: pytest.MonkeyPatch, kind: int, told: str
) -> None:
    monkeypatch.setattr(host, "_filesystem", lambda _: kind)
    found = check("state folder")
    assert found.verdict is Verdict.WARNING
    assert told in found.seen


def test_the_kind_of_a_file_system() -> None:
    assert host._filesystem(Path("/proc")) == 0x9FA0  # statfs(2): PROC_SUPER_MAGIC
    assert host._filesystem(Path("/no/such/place")) == 0


def test_tls(check: Check, folder: Path) -> None:
    files = {name: folder / name for name in ("ca", "cert", "key")}
    flags = {"ca_cert_file": str(files["ca"]), "cert_file": str(files["cert"]), "cert_key": str(files["key"])}
    assert check("TLS files", **flags).seen == f"{files['ca']}: No such file or directory"
    for path in files.values():
        path.write_text("no PEM")
    found = check("TLS files", **flags)
    assert found.verdict is Verdict.FAILED
    assert "give PEM files" in found.remedy
    files["key"].write_text("")
    assert check("TLS files", **flags) == Finding(
        Verdict.FAILED, f"{files['key']} is empty", "check --cert-key (CERT_KEY)"
    )
    assert check("TLS files", disable_tls="true").verdict is Verdict.WARNING
    assert check("TLS files", tls_skip_verify="true").verdict is Verdict.WARNING


@pytest.mark.parametrize("missing", [0, 1 << 12, 1 << 21])
def test_capabilities(check: Check, monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    status = f"Name:\tx\nCapEff:\t{(2**41 - 1) & ~missing:016x}\n"
    monkeypatch.setattr(Path, "read_text", lambda _: status)
    found = check("capabilities")
    if missing:
        assert found.verdict is Verdict.FAILED
        assert ("CAP_NET_ADMIN" in found.seen) == (missing == 1 << 12)
    else:
        assert found.verdict is Verdict.OK


def test_a_kernel_without_modules(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    there = KernelFeature("VXLAN devices", "vxlan", required=True)
    lacking = KernelFeature("x", "sch_ingress", required=True, refusal="no such")
    monkeypatch.setattr(host, "probe_kernel", lambda: [there, lacking])
    found = check("tunnel in the kernel")
    assert found == Finding(Verdict.FAILED, "no x: no such", "load on the node: modprobe -a sch_ingress")
    lacking = KernelFeature("nf", "nf_tables", required=False, refusal="no such")
    monkeypatch.setattr(host, "probe_kernel", lambda: [there, lacking])
    assert check("tunnel in the kernel").verdict is Verdict.WARNING
