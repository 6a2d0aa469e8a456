"""The commands as a user types them: what they print, how they end. No machines boot here, so no root."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from caa import __version__
from caa.cli.group import cli
from caa.demo import CAA, Child
from caa.fakecloud import FakeCloudSettings, LocalCloud

BIN = Path(sys.executable).parent
CLEAN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[LocalCloud]:
    async with LocalCloud(FakeCloudSettings(dir=tmp_path / "cloud")) as cloud:
        yield cloud


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Flags for a daemon that keeps to the test's folder."""
    return [
        *("--socket", str(tmp_path / "h.sock")),
        *("--grpc-socket", str(tmp_path / "g.sock")),
        *("--pods-dir", str(tmp_path / "pods")),
        *("--state-dir", str(tmp_path / "state")),
        *("--probe-port", "0"),
    ]


def run(*words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env={**CLEAN, **(environ or {})}, capture_output=True, text=True, timeout=60, check=False
    )


async def refused(cloud: LocalCloud, *flags: str, **environ: str) -> tuple[int, str]:
    """How a daemon that can't start ends, and what it says last."""
    command = (*CAA, "alibabacloud", *flags)
    log = cloud.settings.dir / "refused.log"
    settings = {**CLEAN, **cloud.environment, **environ}
    async with Child.running(command, log, environ=settings, keep_environ=False) as child:
        status = await child.process.wait()
    return status, log.read_text()


def test_every_command_is_in_the_help() -> None:
    told = run(str(BIN / "caa"), "--help").stdout
    assert all(re.search(rf"^  {name} ", told, re.MULTILINE) for name in cli.commands)
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize("command", ["caa", "cloud-api-adaptor"])
def test_version_by_both_names(command: str) -> None:
    assert run(str(BIN / command), "version").stdout == f"caa {__version__}\n"


def test_version_imports_nothing_heavy() -> None:
    """A command that takes a second to say its version is a bad command."""
    heavy = {"grpc", "aiohttp", "pydantic", "pyroute2", "cryptography", "structlog", "rich", "requests"}
    told = run(sys.executable, "-X", "importtime", "-m", "caa", "version").stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in told.splitlines()}
    assert not imported & heavy


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("alibabacloud",),
        ("demo",),
        ("fakecloud",),
        ("process-user-data", "provision-files"),
        ("agent-protocol-forwarder",),
        ("kata-agent",),
    ],
    ids=" ".join,
)
def test_help_fits_the_screen(words: tuple[str, ...]) -> None:
    done = run(*CAA, *words, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
    assert "\\b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_names_every_option_with_its_variable() -> None:
    told = run(*CAA, "alibabacloud", "--help").stdout
    for word in ("--vswitch-id", "VSWITCH_ID", "required", "--proxy-timeout", "default: 5m", "Credentials:"):
        assert word in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("alibabacld",), "Did you mean 'alibabacloud'?"),
        (("alibabacloud", "--imagid", "m"), "Did you mean '--imageid'?"),
        (("alibabacloud", "-imagid=m"), "Did you mean '--imageid'?"),
        (("fakecloud", "--boot", "docker"), "'docker' is not one of 'none', 'netns'"),
        (("fakecloud", "--listen", "8900"), "'8900'; allowed: ADDRESS:PORT"),
        (("process-user-data", "provision-files", "-t", "soon"), "'soon'; allowed: a duration above zero"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words(words: tuple[str, ...], told: str) -> None:
    done = run(*CAA, *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_told_together() -> None:
    done = run(*CAA, "alibabacloud", "-proxy-timeout", "5", environ={"VXLAN_PORT": "x", "TAGS": "a"})
    assert done.returncode == 2
    for told in (
        "--imageid or IMAGEID is required",
        "--vswitch-id or VSWITCH_ID is required",
        "--security-group-ids or SECURITY_GROUP_IDS is required",
        "--proxy-timeout='5' is not valid; allowed: a duration above zero with its unit",
        "VXLAN_PORT='x' is not valid; allowed: a whole number from 1 to 65535",
        "TAGS='a' is not valid; allowed: key=value pairs",
    ):
        assert told in done.stderr


async def test_starts_that_fail(cloud: LocalCloud, places: list[str], tmp_path: Path) -> None:
    no_role = dict.fromkeys((name for name in cloud.environment if name.startswith("ALIBABA_CLOUD_")), "")

    status, told = await refused(cloud, *places, **no_role)
    assert status == 1
    assert "caa: no credentials: set ALIBABACLOUD_ACCESS_KEY_ID" in told

    status, told = await refused(cloud, *places, **no_role, ALIBABACLOUD_ACCESS_KEY_ID="LTAI")
    assert status == 1
    assert "ALIBABACLOUD_ACCESS_KEY_SECRET is not" in told

    status, told = await refused(cloud, *places, ALIBABA_CLOUD_OIDC_TOKEN_FILE="/nowhere/token")
    assert status == 1
    assert "/nowhere/token" in told

    status, told = await refused(cloud, *places, "--vswitch-id", "vsw-nope")
    assert status == 1
    assert "caa: no such vSwitch vsw-nope in region cn-beijing" in told

    (tmp_path / "file").touch()
    status, told = await refused(cloud, *places, "--socket", str(tmp_path / "file" / "h.sock"))
    assert status == 1
    assert f"caa: can't listen on {tmp_path}/file/h.sock" in told
    assert "--socket (REMOTE_HYPERVISOR_ENDPOINT)" in told

    status, told = await refused(cloud, *places, "--state-dir", str(tmp_path / "file" / "state"))
    assert status == 1
    assert "caa: can't use the state folder" in told
    assert "--state-dir (CAA_STATE_DIR)" in told

    status, told = await refused(cloud, *places, "--initdata", "no base64")
    assert status == 2
    assert "--initdata (INITDATA)" in told

    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "journal.db")) as journal:
        journal.execute("PRAGMA user_version = 99")
    status, told = await refused(cloud, *places)
    assert status == 1
    assert "was written by a newer caa (format 99" in told


@pytest.mark.parametrize("flag", ["--imageid", "--security-group-ids", "--keyname"])
async def test_settings_are_verified_if_asked_for(cloud: LocalCloud, places: list[str], flag: str) -> None:
    status, told = await refused(cloud, *places, "--cloud-config-verify", flag, "x-nope")
    assert status == 1
    assert "a pod VM, by dry run: RunInstances: Invalid" in told


async def test_one_daemon_a_socket_and_a_clean_end(
    cloud: LocalCloud, places: list[str], tmp_path: Path
) -> None:
    command = (*CAA, "alibabacloud", *places)
    environ = {**cloud.environment, "LOG_FORMAT": "json"}
    async with Child.running(command, tmp_path / "first.log", environ=environ) as first:
        await first.event("serving", 60)
        status, told = await refused(cloud, *places)
        assert status == 1
        assert "another daemon uses the state folder" in told
        status, told = await refused(cloud, *places, "--state-dir", str(tmp_path / "other"))
        assert status == 1
        assert f"another process listens on {tmp_path}/h.sock" in told
        assert (tmp_path / "h.sock").exists()
        assert await first.end(signal.SIGTERM) == 0
    assert not (tmp_path / "h.sock").exists()
    assert not (tmp_path / "g.sock").exists()


async def test_secrets_are_not_told(cloud: LocalCloud, places: list[str]) -> None:
    no_role = dict.fromkeys((name for name in cloud.environment if name.startswith("ALIBABA_CLOUD_")), "")
    key = {"ALIBABACLOUD_ACCESS_KEY_ID": cloud.keys.own.id, "ALIBABACLOUD_ACCESS_KEY_SECRET": "s3cr3t"}
    status, told = await refused(cloud, *places, "--log-level", "debug", **no_role, **key)
    assert status == 1
    assert "SignatureDoesNotMatch" in told
    assert "s3cr3t" not in told


async def test_a_secret_flag_does_not_stay_in_the_process_list(
    cloud: LocalCloud, places: list[str], tmp_path: Path
) -> None:
    key = cloud.keys.own
    flags = (
        f"--alibabacloud-access-key-id={key.id}",
        "-alibabacloud-secret-access-key",
        key.secret,
        "--disable-cvm",
    )
    environ = {**cloud.environment, "LOG_FORMAT": "json"}
    command = (*CAA, "alibabacloud", *flags, *places)
    async with Child.running(command, tmp_path / "daemon.log", environ=environ) as daemon:
        await daemon.event("serving", 60)
        words = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes().split(b"\0")
        assert key.secret.encode() not in b" ".join(words)
        assert b"--disable-cvm" in words
        assert await daemon.end() == 0
    assert {call.action for call in cloud.calls} >= {"DescribeVSwitchAttributes"}
    assert not cloud.calls.of("AssumeRoleWithOIDC"), "the access key goes before the role"


async def test_the_local_cloud_by_command(tmp_path: Path) -> None:
    folder = tmp_path / "cloud"
    command = (*CAA, "fakecloud", "--listen", "127.0.0.1:0", "--dir", str(folder), "--tls", "--slower", "2")
    async with Child.running(command, tmp_path / "cloud.log") as child:
        await child.event("local cloud is up", 60)
        settings = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
        settings |= {"LOG_FORMAT": "json", "CAA_STATE_DIR": str(tmp_path / "state")}
        sockets = ("--socket", str(tmp_path / "h.sock"), "--grpc-socket", "", "--probe-port", "0")
        daemon = (*CAA, "alibabacloud", *sockets, "--pods-dir", str(tmp_path / "pods"))
        async with Child.running(daemon, tmp_path / "daemon.log", environ=settings) as user:
            await user.event("serving", 60)
        assert await child.end(signal.SIGTERM) == 0
    assert not (folder / "env").exists()
