"""`caa check` as a user types it, and `caa ram policy` with it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from caa.demo import CAA
from caa.fakecloud import FakeCloudSettings, LocalCloud

CLEAN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[LocalCloud]:
    async with LocalCloud(FakeCloudSettings(dir=tmp_path / "cloud")) as cloud:
        yield cloud


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Flags for a daemon that keeps to the test's folder."""
    flags = {"socket": "h.sock", "grpc-socket": "g.sock", "state-dir": "state"}
    return [*(f"--{name}={tmp_path / path}" for name, path in flags.items()), "--pods-dir=/tmp/caa-no-such"]


async def run(*words: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit status, standard output and error."""
    process = await asyncio.create_subprocess_exec(
        *CAA, *words, env={**CLEAN, "PYTHONUTF8": "1", **(environ or {})},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.root
async def test_a_node_that_is_ready(cloud: LocalCloud, places: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    status, out, err = await run("check", *places, environ=cloud.environment)
    assert (status, err) == (0, ""), out
    assert max(map(len, out.splitlines())) <= 80
    assert "\033" not in out
    assert out.splitlines()[-1].startswith("This node is ready: ")
    assert "\n  ✓ ecs:RunInstances " in out
    assert "  ! ecs:DescribeInstances " in out
    assert "      => optional: `caa ram policy --optional fewer-calls --optional gc`\n" in out
    assert sorted(tmp_path.rglob("*")) == before, "it has left something behind"
    assert not list(cloud.instances)


@pytest.mark.root
async def test_for_programs(cloud: LocalCloud, places: list[str]) -> None:
    status, out, err = await run("check", "--output", "json", *places, environ=cloud.environment)
    told = json.loads(out)
    assert (status, err, told["ok"]) == (0, "", True)
    (credentials,) = [each for each in told["checks"] if each["check"] == "credentials"]
    assert credentials["verdict"] == "ok"
    assert cloud.settings.role_arn in credentials["seen"]


async def test_a_node_that_is_not(cloud: LocalCloud, places: list[str]) -> None:
    environ = {**cloud.environment, "IMAGEID": "m-missing", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    status, out, err = await run("check", *places, environ=environ)
    assert (status, err) == (1, "")
    assert "  x a pod VM, by dry run" in out
    assert "InvalidImageId.NotFound" in out
    assert "check IMAGEID" in " ".join(out.split())
    assert out.splitlines()[-1].startswith("This node is not ready: ")


async def test_without_credentials_the_rest_is_checked(cloud: LocalCloud, places: list[str]) -> None:
    environ = {
        name: value for name, value in cloud.environment.items() if not name.startswith("ALIBABA_CLOUD_")
    }
    status, out, _ = await run("check", *places, environ=environ)
    assert status == 1
    assert "✗ credentials  no credentials: set ALIBABACLOUD_ACCESS_KEY_ID" in out
    assert "Sockets and folders" in out


async def test_settings_that_are_wrong(places: list[str]) -> None:
    status, out, err = await run("check", *places, environ={"VXLAN_PORT": "x"})
    assert (status, out) == (2, "")
    assert "--imageid or IMAGEID is required" in err
    assert "VXLAN_PORT='x' is not valid" in err


async def test_secrets_are_not_told(cloud: LocalCloud, places: list[str]) -> None:
    key = ("--alibabacloud-access-key-id", cloud.keys.own.id, "--alibabacloud-secret-access-key", "s3cr3t")
    status, out, err = await run("check", *key, *places, environ=cloud.environment)
    assert status == 1
    assert "SignatureDoesNotMatch" in out
    assert "s3cr3t" not in out + err


async def test_what_is_printed_is_what_it_takes(places: list[str], tmp_path: Path) -> None:
    """A cloud that grants the printed document, and no more, has no right to complain of."""
    _, document, _ = await run("ram", "policy", "--full")
    (tmp_path / "policy.json").write_text(document)
    settings = FakeCloudSettings(dir=tmp_path / "cloud", policy=str(tmp_path / "policy.json"))
    async with LocalCloud(settings) as cloud:
        environ = {**cloud.environment, "EXTERNAL_NETWORK_VIA_PODVM": "true", "USE_PUBLIC_IP": "true"}
        _, out, _ = await run("check", "--output=json", *places, environ=environ)
    rights = {
        each["check"]: each["verdict"] for each in json.loads(out)["checks"] if each["group"] == "Rights"
    }
    assert rights.pop("vpc:AllocateEipAddress") == "skipped"
    assert set(rights.values()) == {"ok"}
