"""Bare Debian roots, and processes in them that see little else: what a container engine would give.

A container is made of namespaces and mounts inside them, by util-linux's programs, and the kernel takes it
all away when its first process ends: nothing is left on the machine whatever happens to this one.
"""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caa" / "roots"
_GET = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print(0)
"""
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")


def missing() -> str:
    """Why this machine can't have containers; "" if it can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    programs = ("debootstrap", "unshare", "nsenter", "chroot", "setpriv", "ip")
    absent = [program for program in programs if shutil.which(program) is None]
    return f"needs {', '.join(absent)}" if absent else ""


class Container:
    """The folder `root` as the root of a process tree of its own, while this is entered.

    `network`: "host", "new" for one with nothing but a loopback, or the pid of a process to share it with.
    `binds`: path in the container to path outside; `tmpfs`: paths that are empty and can be written.
    `capabilities`: all that any process here may ever have, as setpriv names them; None: all that we have.
    `command` is the first process; the container ends with it. One that `boots` has control groups of its
    own.
    """

    def __init__(
        self,
        root: Path,
        command: Sequence[str] = ("sleep", "infinity"),
        *,
        env: Mapping[str, str] | None = None,
        network: str | int = "host",
        binds: Mapping[str, Path] | None = None,
        tmpfs: Sequence[str] = (),
        read_only: bool = False,
        capabilities: Sequence[str] | None = None,
        no_new_privileges: bool = False,
        boots: bool = False,
        log: Path | None = None,
    ) -> None:
        self.root = root
        self.pid = 0
        self._env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(env or {})}
        self._network = network
        self._cgroup = Path(_cgroups(), f"caat-{os.getpid()}-{root.name}") if boots else None
        self._log = log
        self._first = self._first_process(
            command, binds or {}, tmpfs, read_only, capabilities, no_new_privileges
        )
        self._process: subprocess.Popen[str] | None = None

    def _first_process(
        self,
        command: Sequence[str],
        binds: Mapping[str, Path],
        tmpfs: Sequence[str],
        read_only: bool,
        capabilities: Sequence[str] | None,
        no_new_privileges: bool,
    ) -> str:
        """A shell script. Mount points are made in the root itself, as engines do."""
        root = self.root
        steps = [f"mount --bind {root} {root}", *self._system_mounts()]
        for inside in tmpfs:
            steps += _mount(root, "-t tmpfs -o nosuid,nodev tmpfs", inside)
        for inside, outside in binds.items():
            steps += _mount(root, f"--bind {shlex.quote(str(outside))}", inside, file=not outside.is_dir())
        if read_only:
            steps.append(f"mount -o remount,bind,ro {root}")
        if self._network == "new":
            steps.append("ip link set lo up")
        # The machine's /proc tells the number that we have out there; exec keeps it.
        steps.append("read -r pid _ < /proc/self/stat")
        if self._log:
            steps.append(f"exec 4> {shlex.quote(str(self._log))}")
        # Only when nothing of the machine's files is left here may anybody enter.
        steps += [f"cd {root}", "pivot_root . .", "umount -l .", "cd /", "echo $pid"]
        if self._log:
            steps.append("exec >&4 2>&4 4>&-")
        limits = _limits(capabilities, no_new_privileges)
        environ = [f"{name}={value}" for name, value in self._env.items()]
        steps.append(f"exec {shlex.join([*limits, 'env', '-i', *environ, *command])}")
        return "\n".join(steps)

    def _system_mounts(self) -> list[str]:
        root = self.root
        return [
            *_mount(root, "-t proc -o nosuid,nodev,noexec proc", "proc"),
            *_mount(root, "-t sysfs -o nosuid,nodev,noexec,ro sysfs", "sys"),
            *([f"mount -t cgroup2 cgroup2 {root}/sys/fs/cgroup"] if self._cgroup else []),
            *_mount(root, "-t tmpfs -o nosuid,mode=755 tmpfs", "dev"),
            *(
                step
                for device in _DEVICES
                for step in _mount(root, f"--bind /dev/{device}", f"dev/{device}", file=True)
            ),
            *_mount(root, "-t devpts -o newinstance,ptmxmode=0666 devpts", "dev/pts"),
            *_mount(root, "-t tmpfs tmpfs", "dev/shm"),
            f"ln -s pts/ptmx {root}/dev/ptmx",
            f"ln -s /proc/self/fd {root}/dev/fd",
        ]

    def __enter__(self) -> Self:
        words = ["setpriv", "--pdeathsig", "KILL"]  # whatever ends us, the container ends too
        new = ["--mount", "--pid", "--uts", "--ipc"]
        if self._cgroup:
            self._cgroup.mkdir()
            words += ["sh", "-euc", f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"', "sh"]
            new.append("--cgroup")
        if isinstance(self._network, int):
            words += ["nsenter", f"--net=/proc/{self._network}/ns/net"]
        elif self._network == "new":
            new.append("--net")
        words += ["unshare", *new, "--fork", "--kill-child", "--propagation", "private"]
        with tempfile.TemporaryFile("w+") as errors:
            self._process = subprocess.Popen(
                [*words, "sh", "-euc", self._first], stdout=subprocess.PIPE, stderr=errors, text=True
            )
            assert self._process.stdout is not None
            line = self._process.stdout.readline().strip()
            if not line:
                self._process.wait()
                errors.seek(0)
                raise RuntimeError(f"no container could be made of {self.root}: {errors.read()}")
        self.pid = int(line)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # it takes along all others of its namespace
        self._process.wait()
        self._process.stdout.close()
        if self._cgroup:
            for folder, *_files in os.walk(self._cgroup, topdown=False):
                Path(folder).rmdir()

    def run(
        self, *command: str, cwd: str = "/", env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one more process here, and wait for it. Raises AssertionError with its output if it fails."""
        environ = [f"{name}={value}" for name, value in {**self._env, **(env or {})}.items()]
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--uts", "--ipc", "--root"]
        done = subprocess.run(
            [*enter, "env", "-i", f"--chdir={cwd}", *environ, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        said = f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
        assert not check or done.returncode == 0, f"{shlex.join(command)}: status {done.returncode}\n{said}"
        return done

    def ip(self, *commands: str) -> None:
        """Run iproute2 commands of this machine in the container's network."""
        batch = "\n".join(commands)
        subprocess.run(["nsenter", self._net, "ip", "-batch", "-"], input=batch, text=True, check=True)

    def get(self, url: str) -> int:
        """HTTP status of a GET from the container's network; 0: no answer."""
        done = subprocess.run(
            ["nsenter", self._net, sys.executable, "-c", _GET, url],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    @property
    def _net(self) -> str:
        return f"--net=/proc/{self.pid}/ns/net"

    def outside(self, inside: str) -> Path:
        """Path by which this machine sees `inside`, with what is mounted there."""
        return Path(f"/proc/{self.pid}/root/{inside.lstrip('/')}")

    @property
    def ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def wait(self, seconds: float) -> int:
        """Exit status of the first process. Raises TimeoutExpired after `seconds`."""
        assert self._process is not None
        return self._process.wait(seconds)

    def terminate(self, seconds: float) -> int:
        """As `wait`, after a SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait(seconds)


def _mount(root: Path, options: str, inside: str, *, file: bool = False) -> list[str]:
    point = root / inside.lstrip("/")
    return [
        f"mkdir -p {point.parent if file else point}",
        *([f"[ -e {point} ] || : > {point}"] if file else []),
        f"mount {options} {point}",
    ]


def _limits(capabilities: Sequence[str] | None, no_new_privileges: bool) -> list[str]:
    """A program and its options, before a command that is to run so limited."""
    limits = []
    if capabilities is not None:
        kept = ",".join(f"+{name}" for name in capabilities)
        limits += [f"--bounding-set=-all,{kept}", "--inh-caps=-all"]
    if no_new_privileges:
        limits.append("--no-new-privs")
    return ["setpriv", *limits] if limits else []


def _cgroups() -> str:
    """Where this machine has its control groups of version 2."""
    command = ["findmnt", "--first-only", "--noheadings", "--types", "cgroup2", "--output", "TARGET"]
    return subprocess.check_output(command, text=True).strip()


@contextmanager
def with_network(root: Path, binds: Mapping[str, Path] | None = None) -> Iterator[Container]:
    """A container that reaches package mirrors as this machine does: by its resolver, CA and pip settings."""
    binds = {"/etc/resolv.conf": Path("/etc/resolv.conf"), **(binds or {})}
    env = {}
    for name, value in os.environ.items():
        if name.startswith("PIP_") or name.lower() in ("http_proxy", "https_proxy", "no_proxy"):
            env[name] = value
            if value.startswith("/") and Path(value).exists():
                env[name] = f"/dev/{name}"  # a place that leaves no trace in the root
                binds[env[name]] = Path(value)
    with Container(root, binds=binds, env={"DEBIAN_FRONTEND": "noninteractive", **env}) as container:
        yield container


def debian(suite: str, *packages: str) -> Path:
    """A minimal Debian with these packages, made once and kept in the user's cache: copy it before use."""
    name = "+".join((suite, *sorted(packages)))
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _debian(name, suite, packages)


def _debian(name: str, suite: str, packages: Sequence[str]) -> Path:
    made = _CACHE / name
    if made.exists():
        return made
    partial = _CACHE / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if packages:
        copy(_debian(suite, suite, ()), partial)
        with with_network(partial) as container:
            container.run("apt-get", "update", "-qq")
            container.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)
            container.run("apt-get", "clean")
    else:
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", suite, str(partial), MIRROR],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"debootstrap {suite}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    partial.rename(made)
    return made


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for roots, where there is room for them; it goes at the end with all that is in it."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=_CACHE) as folder:
        yield Path(folder)


def copy(root: Path, to: Path) -> None:
    subprocess.run(["cp", "--archive", "--reflink=auto", str(root), str(to)], check=True)
