"""The worker node's side: kernel, network, sockets, folders, TLS."""

import errno
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from caa.checking import Check, Finding, Verdict, failed, in_thread, ok, skipped, warning
from caa.config import Settings
from caa.errors import CaaError
from caa.tunnel import free_vnis, probe_kernel, worker_address
from caa.unix_socket import MAX_PATH

KERNEL, FILES = "Worker node", "Sockets and folders"

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}  # linux/capability.h
_VOLATILE = {
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "a container's own layer (overlayfs)",
}  # statfs(2)
_NETWORKED = {0x6969: "NFS", 0xFF534D42: "CIFS", 0xFE534D42: "SMB2", 0x65735546: "FUSE"}
_AGENT_SOCKET = 64 + len("//agent.ttrpc")
"""What a sandbox's id of 64 characters and its socket's name add to the pods' folder."""


def host_checks(settings: Settings) -> list[Check]:
    """None of them needs the cloud. They may block, so each runs in a thread."""

    def check(group: str, what: str, ask: Callable[[], Finding]) -> Check:
        return Check(group, what, partial(in_thread, ask))

    checks = [
        check(KERNEL, "capabilities", _capabilities),
        check(KERNEL, "tunnel in the kernel", _kernel),
        check(KERNEL, "interface", partial(_interface, settings.host_interface)),
        check(KERNEL, "VXLAN identifiers", partial(_vnis, settings)),
        check(FILES, "socket", partial(_socket, settings.socket, "--socket (REMOTE_HYPERVISOR_ENDPOINT)")),
    ]
    if settings.grpc_socket:
        option = "--grpc-socket (HYPERVISOR_GRPC_ENDPOINT)"
        checks.append(check(FILES, "gRPC socket", partial(_socket, settings.grpc_socket, option)))
    return [
        *checks,
        check(FILES, "pods folder", partial(_pods_folder, settings.pods_dir)),
        check(FILES, "state folder", partial(_state_folder, settings.state_dir)),
        check(FILES, "TLS files", partial(_tls, settings)),
    ]


def _capabilities() -> Finding:
    status = Path("/proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return failed(
            f"without {' and '.join(missing)}",
            "run as root; in a pod: securityContext.capabilities.add: [NET_ADMIN, SYS_ADMIN]",
        )
    return ok(" and ".join(_CAPABILITIES))


def _kernel() -> Finding:
    features = probe_kernel()
    for feature in features:
        if feature.refusal and feature.required:
            remedy = f"load on the node: modprobe -a {feature.modules}" if feature.modules else ""
            return failed(f"no {feature.name}: {feature.refusal}", remedy)
    for feature in features:
        if feature.refusal:
            return warning(
                f"no {feature.name}: {feature.refusal}; tunnels work, at a higher cost per packet",
                f"load on the node: modprobe -a {feature.modules}",
            )
    return ok(", ".join(feature.name for feature in features))


def _interface(name: str) -> Finding:
    name, address = worker_address(name)
    return ok(f"{name}, {address}")


def _vnis(settings: Settings) -> Finding:
    first = settings.vxlan_min_id
    # One for each pod VM that the node may have; beyond some, looking would take its time.
    last = min(first + min(max(settings.peerpods_limit_per_node, 1), 16), 2**24) - 1
    try:
        free = free_vnis(range(first, last + 1), settings.vxlan_port)
    except CaaError as error:
        return failed(
            f"UDP port {settings.vxlan_port}: {error}",
            "stop what uses the port, or give another with --vxlan-port (VXLAN_PORT)"
            if getattr(error, "number", 0) == errno.EADDRINUSE
            else "",
        )
    seen = f"{len(free)} of {first} to {last} free"
    if not free:
        return warning(f"{seen}, which is so if the node is full", "else give other ones: --vxlan-min-id")
    return ok(seen)


def _socket(path: Path, option: str) -> Finding:
    if finding := _too_long(path, len(os.fsencode(path)), option):
        return finding
    if not os.path.lexists(path):
        return _free(path, option)
    if not path.is_socket():
        return failed(f"{path} is there and no socket", f"remove it, or give another path with {option}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except BlockingIOError:
            pass  # a full backlog: somebody is there
        except (ConnectionRefusedError, FileNotFoundError):
            return _free(path, option)
        except OSError as error:
            return failed(f"{path}: {error.strerror}", "run this as the user of the daemon")
    return ok(f"{path}, a daemon listens")


def _free(path: Path, option: str) -> Finding:
    finding = _writable(path.parent, option)
    return ok(f"{path}, free") if finding.verdict is Verdict.OK else finding


def _too_long(path: Path, length: int, option: str) -> Finding | None:
    if length <= MAX_PATH:
        return None
    return failed(
        f"{path}: {length} bytes, and unix sockets allow {MAX_PATH}", f"give a shorter path with {option}"
    )


def _pods_folder(path: Path) -> Finding:
    option = "--pods-dir (PODS_DIR)"
    length = len(os.fsencode(path)) + _AGENT_SOCKET
    return _too_long(path / "…" / "agent.ttrpc", length, option) or _writable(path, option)


def _state_folder(path: Path) -> Finding:
    option = "--state-dir (CAA_STATE_DIR)"
    finding = _writable(path, option)
    if finding.verdict is not Verdict.OK:
        return finding
    kind = _filesystem(_existing(path))
    if kind in _VOLATILE:
        return warning(
            f"{path} is on {_VOLATILE[kind]}, which does not outlive the pod or the node: pod VMs would be"
            " forgotten",
            f"mount a hostPath there, or give another with {option}",
        )
    if kind in _NETWORKED:
        return warning(
            f"{path} is on {_NETWORKED[kind]}; the journal needs a disk of the node",
            f"give another with {option}",
        )
    if _is_locked(path / "lock"):
        return ok(f"{path}, a daemon uses it")
    return finding


def _writable(path: Path, option: str) -> Finding:
    """Whether files can be made in the folder, or the folder itself: tried, where it is there."""
    there = _existing(path)
    try:
        if not stat.S_ISDIR(there.stat().st_mode):
            return failed(f"{there} is no folder", f"give another path with {option}")
        # Without a name: nothing to remove, and nothing left if this is killed.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return failed(f"{there}: {error.strerror}", f"make it writable for this user, or give {option}")
    return ok(str(path) if there == path else f"{path}, to be made")


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next((each for each in (path, *path.parents) if os.path.lexists(each)), Path("/"))


def _filesystem(path: Path) -> int:
    """The kind of file system, as statfs(2) numbers it; 0 if that can't be told."""
    import ctypes  # noqa: PLC0415  for this alone

    buffer = (ctypes.c_long * 64)()
    if ctypes.CDLL(None).statfs(os.fsencode(path), buffer):
        return 0
    return int(buffer[0]) & 0xFFFFFFFF


def _is_locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two checks don't take each other for a daemon; released by the close.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _tls(settings: Settings) -> Finding:
    if settings.disable_tls:
        return warning(
            "off: whoever is on the way to a pod VM can read and command it", "leave out --disable-tls"
        )
    files = {
        "--ca-cert-file (CACERT_FILE)": settings.ca_cert_file,
        "--cert-file (CERT_FILE)": settings.cert_file,
        "--cert-key (CERT_KEY)": settings.cert_key,
    }
    for option, path in files.items():
        try:
            if path and not Path(path).read_bytes():
                return failed(f"{path} is empty", f"check {option}")
        except OSError as error:
            return failed(f"{path}: {error.strerror}", f"check {option}")
    if settings.tls_skip_verify:
        return warning("the VM's certificate is not checked", "leave out --tls-skip-verify")
    if not any(files.values()):
        return skipped("none given: the daemon makes its own")
    return _fitting(settings, ", ".join(filter(None, files.values())))


def _fitting(settings: Settings, files: str) -> Finding:
    import ssl  # noqa: PLC0415  slow to import, and rarely needed here

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.ca_cert_file:
            context.load_verify_locations(settings.ca_cert_file)
        if settings.cert_file:
            # A key with a passphrase must not ask for it.
            context.load_cert_chain(settings.cert_file, settings.cert_key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
        return failed(f"{files}: {reason}", "give PEM files, and a key without passphrase that fits")
    return ok(files)
