"""deploy/podvm: the install script at work on a Debian image, and what it has installed there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import caa
from caa.podvm import Authority, ForwarderConfig, build_user_data
from caa.polling import growing, poll
from caa.tunnel import PodNetwork
from deploy.proof.containers import Container, copy, debian, with_network, workplace

PODVM = Path(__file__).parents[1] / "podvm"
REPOSITORY = PODVM.parents[1]
UNITS = "/etc/systemd/system"
OURS = ("process-user-data.service", "netns@podns.service", "agent-protocol-forwarder.service")

pytestmark = pytest.mark.timeout(400)

_METADATA = """
import http.server, sys
class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/latest/user-data" else 404)
        self.end_headers()
        self.wfile.write(open(sys.argv[1], "rb").read())
http.server.HTTPServer(("100.100.100.200", 80), Metadata).serve_forever()
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "caa", source / "caa", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    (made,) = folder.glob("*.whl")
    return made


def install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [PODVM / "install", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def podvm(wheel: Path) -> Iterator[Path]:
    """A Debian image with a Kata agent, after the install script."""
    with workplace() as folder:
        root = folder / "root"
        copy(debian("trixie", "dbus", "systemd"), root)
        (root / "etc/systemd/system/kata-agent.service").write_text(
            "[Unit]\nDescription=Kata agent\n[Service]\nExecStart=/bin/sleep infinity\n"
            "[Install]\nWantedBy=multi-user.target\n"
        )
        done = install("--root", root, wheel)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert (
            done.stdout
            == f"install: caa {caa.__version__} is in {root}/opt/caa; its units start with the next boot\n"
        )
        yield root


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_a_second_run_from_inside_changes_nothing(podvm: Path, wheel: Path) -> None:
    before = files(podvm)
    binds = {"/dev/deploy": PODVM, "/dev/wheel": wheel.parent, "/dev/pins": REPOSITORY / "constraints.txt"}
    with with_network(podvm, binds) as system:
        system.run("/dev/deploy/install", "--constraints", "/dev/pins", f"/dev/wheel/{wheel.name}")
    assert files(podvm) ^ before == set()


_DNF = """#!/bin/sh
echo "$@" >> /var/log/dnf
case $* in
    *" iproute") ln -s /bin/true /usr/sbin/ip ;;
    *) exit 1 ;;
esac
"""


def test_where_packages_come_from_dnf(wheel: Path) -> None:
    """As on Alibaba Cloud Linux; here with a dnf that has no Python."""
    with workplace() as folder:
        root = folder / "root"
        copy(debian("trixie", "dbus", "systemd"), root)
        (root / "usr/bin/apt-get").unlink()
        dnf = root / "usr/bin/dnf"
        dnf.write_text(_DNF)
        dnf.chmod(0o755)
        done = install("--root", root, wheel)
        why = f"{root} has no Python 3.11, and no package of the distribution could be installed for it"
        assert (done.returncode, done.stderr) == (1, f"install: {why}\n")
        asked = (root / "var/log/dnf").read_text().splitlines()
        assert [line.split()[0] + " " + line.split()[-1] for line in asked] == [
            "install iproute",
            "install python3.11",
        ]


def test_nothing_of_the_installation_is_left(podvm: Path) -> None:
    for folder in ("tmp", "run", "var/lib/apt/lists", "var/cache/apt/archives"):
        left = [path for path in (podvm / folder).rglob("*") if path.is_file() and path.name != "lock"]
        assert left == [], folder
    assert not list((podvm / "opt/caa").rglob("pip"))


def test_units_are_valid_and_enabled(podvm: Path) -> None:
    with Container(podvm) as container:
        checked = container.run(
            "systemd-analyze", "verify", "--man=no", *OURS, "kata-agent.service", check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        enabled = container.run("systemctl", "is-enabled", *OURS).stdout.split()
        assert enabled == ["enabled"] * len(OURS)
        # A first boot sets all units to what presets say.
        container.run("systemctl", "disable", *OURS)
        container.run("systemctl", "preset-all", check=False)
        assert container.run("systemctl", "is-enabled", *OURS).stdout.split() == enabled


@pytest.mark.parametrize("command", [(), ("process-user-data",), ("agent-protocol-forwarder",)])
def test_programs_start(podvm: Path, command: tuple[str, ...]) -> None:
    with Container(podvm, read_only=True) as container:
        assert container.run("caa", *command, "--help").stdout.startswith("Usage: caa")


def test_a_mistake_is_named(tmp_path: Path, wheel: Path) -> None:
    for arguments, message in {
        (): "which wheel? See --help",
        ("--root", tmp_path): "which wheel? See --help",
        ("nothing.whl",): "there is no wheel nothing.whl",
        ("--root", tmp_path, wheel): f"--root {tmp_path} holds no system: it has no etc/os-release",
        ("--root", "/nowhere", wheel): "--root /nowhere is no folder",
        ("--wheels", "/nowhere", wheel): "--wheels /nowhere is no folder",
        ("--quick", wheel): "there is no option --quick; see --help",
        (
            "--constraints",
            "/nowhere",
            wheel,
        ): "there are no constraints in /nowhere: give a file with --constraints",
        (wheel, "--root"): "--root needs a value; see --help",
    }.items():
        done = install(*arguments)
        assert (done.returncode, done.stderr) == (1, f"install: {message}\n")


@pytest.fixture
def user_data(tmp_path: Path) -> Path:
    """What a worker's daemon gives an instance, in a file."""
    authority = Authority.load_or_create(tmp_path / "tls")
    certificate, key = authority.issue("podvm-web-12345678")
    network = PodNetwork.model_validate(
        {
            "podip": "10.244.1.2/24",
            "pod-hw-addr": "0a:00:00:00:00:01",
            "interface": "eth0",
            "worker-node-ip": "10.0.0.1/24",
            "routes": [
                {"dst": "10.244.1.0/24", "dev": "eth0", "scope": "link"},
                {"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0"},
            ],
            "mtu": 1500,
            "vxlan-port": 4789,
            "vxlan-id": 555000,
        }
    )
    config = ForwarderConfig(
        pod_network=network,
        pod_namespace="default",
        pod_name="web",
        tls_server_cert=certificate,
        tls_server_key=key,
        tls_client_ca=authority.client_certificate,
    )
    file = tmp_path / "user-data"
    file.write_bytes(build_user_data(config.to_json(), auth_json='{"auths": {}}'))
    return file


async def test_it_boots_in_order(podvm: Path, user_data: Path, tmp_path: Path) -> None:
    """With systemd as the first process, and the units' limits in force."""
    binds = {"/mnt/user-data": user_data}
    agent = "kata-agent.service"

    def active(*units: str) -> list[str]:
        return vm.run("systemctl", "is-active", *units, check=False).stdout.split()

    def shown(unit: str, name: str) -> int:
        return int(vm.run("systemctl", "show", "--value", "--property", name, unit).stdout or 0)

    async def up() -> tuple[bool | None, str]:
        states = active(*OURS, agent)
        return set(states) == {
            "active"
        } or None, f"{states} {vm.run('journalctl', '-n40', check=False).stdout}"

    with Container(
        podvm,
        ["/usr/lib/systemd/systemd"],
        env={"container": "proof"},
        network="new",
        tmpfs=["run", "tmp"],
        boots=True,
        log=tmp_path / "console",
    ) as vm:
        vm.ip("link add eth0 type veth peer name uplink", "link set uplink up", "link set eth0 up")
        vm.ip("addr add 10.0.0.9/24 dev eth0", "route add default via 10.0.0.1")
        vm.ip("addr add 100.100.100.200/32 dev lo")
        with Container(
            podvm, ["/opt/caa/bin/python", "-c", _METADATA, "/mnt/user-data"], network=vm.pid, binds=binds
        ):
            await poll(up, what="all units to be active", pauses=growing(0.2), timeout=60)

        provisioned = shown(OURS[0], "ActiveEnterTimestampMonotonic")
        for unit in (agent, "agent-protocol-forwarder.service"):
            assert shown("netns@podns.service", "ActiveEnterTimestampMonotonic") <= shown(
                unit, "InactiveExitTimestampMonotonic"
            )
            assert provisioned <= shown(unit, "InactiveExitTimestampMonotonic")
        assert (
            vm.run("stat", "-c%a", "/run/peerpod", "/run/peerpod/apf.json", "/run/peerpod/auth.json").stdout
            == "700\n600\n600\n"
        )
        assert (
            "vxlan id 555000 remote 10.0.0.1"
            in vm.run("ip", "-n", "podns", "-d", "link", "show", "eth0").stdout
        )

        # A forwarder that dies is back, with a tunnel.
        vm.run("systemctl", "kill", "--signal=KILL", "agent-protocol-forwarder.service")

        async def again() -> tuple[bool | None, str]:
            restarts = shown("agent-protocol-forwarder.service", "NRestarts")
            states = active("agent-protocol-forwarder.service")
            return (restarts == 1 and states == ["active"]) or None, f"{restarts} restarts, {states}"

        await poll(again, what="the forwarder to be back", pauses=growing(0.2), timeout=30)
