"""The daemon can do its work with what the DaemonSet leaves it: two capabilities, nothing to write to but its
folders, and namespaces that are mounted for it by the node.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from manifests import DEPLOY

from caa.demo import CAA

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

CONFINE = """
mount --bind "$1" "$1"
mount -o remount,bind,ro /
! touch /confined 2>/dev/null
shift
exec "$@"
"""
"""As a container's root, read-only but for one folder. `slave` is HostToContainer in Kubernetes' words."""


def confined(node: "Node") -> tuple[str, ...]:
    daemon_set = yaml.safe_load((DEPLOY / "kustomize" / "base" / "daemonset.yaml").read_text())
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    kept = ",".join(f"+{name.lower()}" for name in security["capabilities"]["add"])
    return (
        *("unshare", "--mount", "--propagation", "slave", "sh", "-ec", CONFINE, "sh", str(node.folder)),
        *("setpriv", f"--bounding-set=-all,{kept}", "--no-new-privs", *CAA, *container["args"]),
    )


async def test_a_pod_comes_and_goes(node: "Node") -> None:
    async with node.daemon(confined(node)) as daemon, node.shim() as shim:
        netns, _ = await node.worker.add_pod("web")
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        (effective,) = re.findall(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)
        assert int(effective, 16).bit_count() == 2
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        await shim.start_vm()
        await shim.stop_vm()
        await node.nothing_is_left("web")
