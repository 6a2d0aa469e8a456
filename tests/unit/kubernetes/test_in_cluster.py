"""Whether the daemon is in a cluster, and that it loads no client outside of one."""

import subprocess
import sys
from pathlib import Path

import pytest

from caa.kubernetes import in_cluster


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("secret")
    return tmp_path


NODE = {"NODE_NAME": "node-1"}
ADDRESS = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def test_with_a_node_and_a_service_account(mounted: Path) -> None:
    assert in_cluster(NODE | ADDRESS, mounted)


def test_with_a_node_and_a_kubeconfig(tmp_path: Path) -> None:
    assert in_cluster(NODE | {"KUBECONFIG": "/etc/kubeconfig"}, tmp_path / "none")


def test_not_without_a_node(mounted: Path) -> None:
    assert not in_cluster(ADDRESS | {"KUBECONFIG": "/etc/kubeconfig", "NODE_NAME": ""}, mounted)


def test_not_without_access(mounted: Path) -> None:
    assert not in_cluster(NODE | ADDRESS, mounted / "none")
    assert not in_cluster(NODE, mounted)


def test_daemon_outside_of_a_cluster_does_not_import_the_client() -> None:
    program = (
        "import sys, caa.daemon, caa.kubernetes; print(any(m.startswith('lightkube') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
