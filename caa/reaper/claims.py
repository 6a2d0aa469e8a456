"""Claims: what PeerPod objects say, our daemon's and the Go daemon's, as far as it matters here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caa.errors import UnavailableError
from caa.kubernetes import FINALIZER, SANDBOX_ANNOTATION

_NOBODY = {"name": "", "uid": ""}
_SANDBOX = re.compile(r"[0-9A-Za-z_.-]{8,128}")


@dataclass(frozen=True, slots=True)
class Claim:
    """That a pod has an instance. It is held until somebody has seen to the instance's end."""

    namespace: str
    name: str
    uid: str
    cloud: str
    instance: str
    held: bool
    """Our finalizer is there."""
    deleting: bool
    pod: str
    pod_uid: str
    """Of the Pod that owns the object, with the name above. Empty: it has none, or other owners too."""
    sandbox: str = ""
    """Empty: the object does not tell."""


def read(found: Mapping[str, Any]) -> Claim:
    """From an object as the API gives it. Raises UnavailableError if that is none."""
    try:
        metadata, spec = found["metadata"], found.get("spec") or {}
        owners = metadata.get("ownerReferences") or [_NOBODY]
        owner = owners[0] if len(owners) == 1 and _is_pod(owners[0]) else _NOBODY
        sandbox = (metadata.get("annotations") or {}).get(SANDBOX_ANNOTATION, "")
        return Claim(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            cloud=str(spec.get("cloudProvider", "")),
            instance=str(spec.get("instanceID", "")),
            held=FINALIZER in (metadata.get("finalizers") or ()),
            deleting=bool(metadata.get("deletionTimestamp")),
            pod=owner["name"],
            pod_uid=owner["uid"],
            sandbox=sandbox if _SANDBOX.fullmatch(sandbox) else "",
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise UnavailableError(f"a PeerPod object is not whole: {error!r}") from None


def _is_pod(owner: Mapping[str, Any]) -> bool:
    return (owner.get("apiVersion"), owner.get("kind")) == ("v1", "Pod")
