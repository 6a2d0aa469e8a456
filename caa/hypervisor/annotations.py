"""What a CreateVM request asks for, read from its annotations."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from caa.errors import InvalidArgumentError

_CRI = "io.kubernetes.cri."
_HYPERVISOR = "io.katacontainers.config.hypervisor."

_CRIO_NAME = re.compile(r"k8s_(?P<pod>[^_]+)_(?P<namespace>[^_]+)_[^_]+_\d+")
"""CRI-O names a sandbox after pod, namespace, uid and attempt; none of them can contain a `_`."""

_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class PodRequest:
    """A pod and its demands. 0 and "" mean no demand."""

    name: str
    namespace: str
    uid: str
    instance_type: str
    image: str
    vcpus: int
    memory_mib: int
    gpus: int
    initdata: str
    """Raw TOML."""


def parse(annotations: Mapping[str, str]) -> PodRequest:
    """Raises InvalidArgumentError naming the annotation and its value."""
    return PodRequest(
        name=_name(annotations, "sandbox-name", "pod"),
        namespace=_name(annotations, "sandbox-namespace", "namespace"),
        uid=annotations.get(f"{_CRI}sandbox-uid", ""),
        instance_type=annotations.get(f"{_HYPERVISOR}machine_type", ""),
        image=annotations.get(f"{_HYPERVISOR}image", ""),
        vcpus=_number(annotations, "default_vcpus"),
        memory_mib=_number(annotations, "default_memory"),
        gpus=_number(annotations, "default_gpus"),
        initdata=annotations.get(f"{_HYPERVISOR}cc_init_data", ""),
    )


def _name(annotations: Mapping[str, str], key: str, part: str) -> str:
    given = annotations.get(f"{_CRI}{key}", "")
    crio = _CRIO_NAME.fullmatch(given)
    name = crio[part] if crio else given
    if not name:
        raise InvalidArgumentError(f"annotation {_CRI}{key} is missing: it names the pod's {part}")
    if not _DNS_NAME.fullmatch(name):
        raise InvalidArgumentError(f"annotation {_CRI}{key}={given[:300]!r} is not the name of a {part}")
    return name


def _number(annotations: Mapping[str, str], key: str) -> int:
    text = annotations.get(f"{_HYPERVISOR}{key}", "") or "0"
    if not re.fullmatch(r"\d{1,9}", text):
        raise InvalidArgumentError(
            f"annotation {_HYPERVISOR}{key}={text[:100]!r} is not a whole number of 0 or more"
        )
    return int(text)
