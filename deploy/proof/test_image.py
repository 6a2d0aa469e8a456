"""The Dockerfile's image: what is in it, and that the daemon runs in it as the manifests start it."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import caa
from caa.polling import growing, poll
from deploy.proof.build import Build, Image
from deploy.proof.containers import Container, workplace

REPOSITORY = Path(__file__).parents[2]
LIBRARY = "opt/caa/lib"
PROBES = ("/startup", "/healthz", "/readyz")

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    arguments = {"VERSION": caa.__version__, "REVISION": "0123abc", "CREATED": "2026-01-01T00:00:00Z"}
    with workplace() as folder:
        yield Build(REPOSITORY, folder, arguments).run()


@pytest.fixture(scope="session")
def daemon_container() -> dict[str, Any]:
    """The container of the DaemonSet."""
    manifest = yaml.safe_load((REPOSITORY / "deploy/kustomize/base/daemonset.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.fixture(scope="session")
def library(image: Image) -> Path:
    (packages,) = (image.root / LIBRARY).glob("python3.*/site-packages")
    return packages


def test_only_pinned_packages_are_in_it(library: Path) -> None:
    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = (REPOSITORY / "constraints.txt").read_text().split()
    pinned = {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}
    metadata = [path.name.removesuffix(".dist-info").split("-") for path in library.glob("*.dist-info")]
    found = {canonical(name): version for name, version in metadata}
    assert found.pop("caa") == caa.__version__
    assert "pip" not in found
    others = {name: version for name, version in found.items() if pinned.get(name) != version}
    assert not others, "not these versions in constraints.txt"


def test_it_has_bytecode_and_nothing_for_developers(library: Path) -> None:
    compiled = {path.name.split(".")[0] for path in (library / "caa/cli/__pycache__").iterdir()}
    assert compiled == {path.stem for path in (library / "caa/cli").glob("*.py")}
    assert [path for path in library.rglob("*") if path.suffix in (".pyi", ".pyx", ".h")] == []
    size = int(subprocess.check_output(["du", "-sm", library], text=True).split()[0])
    print(f"{size} MiB on top of the base image")
    assert size < 150, "what has become so much larger?"


def test_stripped_libraries_load(image: Image) -> None:
    load = (
        "import ctypes, pathlib, sys; [ctypes.CDLL(file) for file in pathlib.Path(sys.argv[1]).rglob('*.so')]"
    )
    with Container(image.root, env=image.env, read_only=True) as container:
        container.run("/opt/caa/bin/python", "-c", load, f"/{LIBRARY}")


def test_labels(image: Image) -> None:
    assert image.labels["org.opencontainers.image.version"] == caa.__version__
    assert all(image.labels.values())


def _in_the_manifests_container(
    image: Image, manifest: dict[str, Any], command: list[str], **arguments: Any
) -> Container:
    security = manifest["securityContext"]
    assert security["runAsUser"] == int(image.user.split(":")[0])
    assert security["capabilities"]["drop"] == ["ALL"]
    return Container(
        image.root,
        command,
        read_only=security["readOnlyRootFilesystem"],
        capabilities=[name.lower() for name in security["capabilities"]["add"]],
        no_new_privileges=not security["allowPrivilegeEscalation"],
        tmpfs=[mount["mountPath"] for mount in manifest["volumeMounts"]],
        **arguments,
    )


def test_version(image: Image, daemon_container: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "log"
    version = image.argv(["version"])
    with _in_the_manifests_container(image, daemon_container, version, env=image.env, log=log) as ours:
        assert ours.wait(20) == 0
    assert caa.__version__ in log.read_text()


def test_the_go_daemons_manifests_start_the_daemon(
    image: Image, daemon_container: dict[str, Any], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    command = ["/usr/local/bin/entrypoint.sh"]
    with _in_the_manifests_container(image, daemon_container, command, env=image.env, log=log) as ours:
        assert ours.wait(20) == 2
    assert "--vswitch-id or VSWITCH_ID is required" in log.read_text()


@pytest.fixture
def cloud(image: Image, tmp_path: Path) -> Iterator[Container]:
    """The local cloud, in a network of its own, with its files in /cloud."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    command = ["caa", "fakecloud", "--dir", "/cloud", "--listen", "127.0.0.1:8900"]
    with Container(
        image.root,
        command,
        env=image.env,
        network="new",
        binds={"/cloud": folder},
        log=tmp_path / "cloud.log",
    ) as cloud:
        # The daemon looks for the node's primary interface.
        cloud.ip("link add eth0 type veth peer name uplink", "addr add 10.0.0.2/24 dev eth0")
        cloud.ip("link set eth0 up", "link set uplink up", "route add default via 10.0.0.1")
        yield cloud


async def test_the_probes_answer(
    image: Image, daemon_container: dict[str, Any], cloud: Container, tmp_path: Path
) -> None:
    files = tmp_path / "cloud"

    async def there() -> tuple[str | None, str]:
        return (files / "env").read_text() if (files / "env").exists() else None, "no file env"

    given = await poll(there, what="the local cloud", pauses=growing(0.05), timeout=30)
    env = dict(word.split("=", 1) for word in shlex.split(given, comments=True) if "=" in word)
    required = {"IMAGEID": "m-1", "VSWITCH_ID": "vsw-1", "SECURITY_GROUP_IDS": "sg-1"}
    log = tmp_path / "daemon.log"
    with _in_the_manifests_container(
        image,
        daemon_container,
        image.argv(daemon_container["args"]),
        env={**image.env, **required, **env},
        network=cloud.pid,
        binds={"/cloud": files},
        log=log,
    ) as daemon:

        async def answered() -> tuple[bool | None, str]:
            if daemon.ended:
                raise AssertionError(f"the daemon ended: {log.read_text()}")
            statuses = {path: cloud.get(f"http://127.0.0.1:8000{path}") for path in PROBES}
            return set(statuses.values()) == {200} or None, f"{statuses}, {log.read_text()[-2000:]}"

        await poll(answered, what="200 from all probes", pauses=growing(0.1), timeout=30)
        bounds = re.search(r"CapBnd:\s+(\w+)", Path(f"/proc/{daemon.pid}/status").read_text())
        assert bounds is not None
        assert int(bounds[1], 16) == 1 << 12 | 1 << 21, "CAP_NET_ADMIN and CAP_SYS_ADMIN, capability.h"
        assert daemon.terminate(20) == 0, log.read_text()
