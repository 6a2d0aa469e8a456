"""The manifests of deploy/kustomize, as kustomize builds them, for `import manifests`."""

import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMESPACE = "confidential-containers-system"
ADDRESS = "192.0.2.1"

_EVERYTHING = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../access-key]
components: [../../components/custom-certificates, ../../components/monitoring, ../../components/reaper]
secretGenerator:
  - name: certs-for-tls
    namespace: confidential-containers-system
    literals: [ca.crt=a, client.crt=b, client.key=c]
"""

OVERLAYS = (
    *sorted(path.parent.name for path in DEPLOY.glob("kustomize/overlays/*/kustomization.yaml")),
    "everything",
)
"""Those that there are, and one of the tests' own: access keys, with all components."""

Manifest = dict[str, Any]


class Workload(NamedTuple):
    """A pod's spec and its container: none of ours has more than one."""

    spec: Manifest
    container: Manifest


class Manifests(list[Manifest]):
    """What an overlay makes."""

    def one(self, kind: str, name: str) -> Manifest:
        (found,) = (each for each in self if (each["kind"], each["metadata"]["name"]) == (kind, name))
        return found

    def workloads(self) -> Iterator[Workload]:
        for each in self:
            if each["kind"] in ("DaemonSet", "Deployment"):
                spec = each["spec"]["template"]["spec"]
                assert "initContainers" not in spec
                (container,) = spec["containers"]
                yield Workload(spec, container)

    def daemon(self) -> Workload:
        (daemon,) = (each for each in self.workloads() if each.spec.get("hostNetwork"))
        return daemon

    def environment(self, container: Manifest) -> dict[str, str]:
        """As the kubelet makes it, with ADDRESS for whatever only a node knows."""
        environ: dict[str, str] = {}
        for source in container["envFrom"]:
            if "secretRef" in source:
                data = self.one("Secret", source["secretRef"]["name"])["data"]
                environ |= {key: b64decode(value or "").decode() for key, value in data.items()}
            else:
                environ |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for each in container["env"]:
            value = each.get("value", ADDRESS)
            environ[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], value)
        return environ


def program() -> list[str] | None:
    """The pinned kustomize that `make manifests` installs; else what there is."""
    for name in (Path(sys.executable).with_name("kustomize"), "kustomize"):
        if found := shutil.which(name):
            return [found, "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


def build(folder: Path) -> Manifests:
    command = program()
    assert command, "needs kustomize"
    done = subprocess.run([*command, folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return Manifests(yaml.safe_load_all(done.stdout))


def copy(target: Path) -> Path:
    """Copy deploy/kustomize to `target`, with the files that users add and the overlay `everything`. Returns
    the folder of the overlays.
    """
    shutil.copytree(DEPLOY / "kustomize", target)
    overlays = target / "overlays"
    example = overlays / "access-key" / "alibabacloud-cred.env.example"
    shutil.copy(example, example.with_suffix(""))
    for name in ("ca.crt", "client.crt", "client.key"):
        (overlays / "custom-certificates" / name).write_text(f"{name}\n")
    (overlays / "everything").mkdir()
    (overlays / "everything" / "kustomization.yaml").write_text(_EVERYTHING)
    return overlays
