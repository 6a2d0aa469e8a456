"""What the worker changes in a CreateContainer request, and what it tells of one.

Pure functions, but for the look into the folder of direct volumes.
"""

import base64
import os.path
from pathlib import Path
from typing import Any

from caa.proto import agent_pb2
from caa.redaction import HIDDEN, hide_secrets, names_a_secret

DIRECT_VOLUMES = Path("/run/kata-containers/shared/direct-volumes")
"""Where a CSI driver announces a volume that it leaves to the pod VM, by a folder that is named with the
volume's path in base64.
"""

TARGET_PATH = "io.confidentialcontainers.org.peerpodvolumes.target_path"
"""Annotation: paths, with commas between them, where the forwarder waits for a volume to be mounted."""

_CSI = "/volumes/kubernetes.io~csi/"
_GPUS = "io.katacontainers.config.hypervisor.default_gpus"
_CDI, _ALL_GPUS = "cdi.k8s.io/peer-pods", "nvidia.com/gpu=all"
_GUEST_PULL = "image_guest_pull"

_LONGEST_SHOWN = 256


def rewrite(request: agent_pb2.CreateContainerRequest, direct_volumes: Path) -> bool:
    """Announce volumes and GPUs to the pod VM by annotations. Returns whether anything was changed."""
    annotations = request.OCI.Annotations
    added: dict[str, str] = {}
    volumes = [
        mount.source for mount in request.OCI.Mounts if _is_direct_volume(mount.source, direct_volumes)
    ]
    if volumes:
        given = [path.strip() for path in annotations.get(TARGET_PATH, "").split(",")]
        added[TARGET_PATH] = ",".join(dict.fromkeys(path for path in (*given, *volumes) if path))
    if annotations.get(_GPUS):
        added[_CDI] = _ALL_GPUS
    changed = {name: value for name, value in added.items() if annotations.get(name) != value}
    annotations.update(changed)
    return bool(changed)


def _is_direct_volume(path: str, direct_volumes: Path) -> bool:
    if _CSI not in os.path.normpath(path):
        return False
    try:
        return (direct_volumes / base64.urlsafe_b64encode(path.encode()).decode()).exists()
    except OSError:  # a name that is too long for a file can't be there
        return False


def pulls_image_in_guest(request: agent_pb2.CreateContainerRequest) -> bool:
    """Whether the container's image is fetched inside the pod VM, by a storage of the nydus snapshotter's."""
    return any(storage.driver == _GUEST_PULL for storage in request.storages)


def describe(request: agent_pb2.CreateContainerRequest) -> dict[str, Any]:
    """What a debug log may tell of a request: no environment variable's value, nothing that looks secret."""
    return {
        "container": request.container_id,
        "mounts": [
            f"{mount.destination} from {redact(mount.source)} ({mount.type})" for mount in request.OCI.Mounts
        ],
        "storages": [
            f"{storage.mount_point} from {redact(storage.source)} ({storage.fstype}, {storage.driver})"
            for storage in request.storages
        ],
        "devices": [
            f"{device.container_path} from {redact(device.vm_path)} ({device.type})"
            for device in request.devices
        ],
        "annotations": {
            name: HIDDEN if names_a_secret(name) else redact(value)
            for name, value in request.OCI.Annotations.items()
        },
        "environment": [variable.partition("=")[0] for variable in request.OCI.Process.Env],
    }


def redact(text: str) -> str:
    """`text` without what looks like a secret; a long text may hold anything, so only its length is told."""
    if len(text) > _LONGEST_SHOWN:
        return f"({len(text)} characters)"
    return hide_secrets(text)
