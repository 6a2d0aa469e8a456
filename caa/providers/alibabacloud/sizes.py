"""Sizes of common instance types, for accounts that may not ask the cloud (DescribeInstanceTypes).

Source: Alibaba Cloud's "Overview of instance families" and "GPU-accelerated compute-optimized instance
families" (Elastic Compute Service and Elastic GPU Service user guides), as of February 2026. A size's name
gives its vCPUs (large 2, xlarge 4, Nxlarge 4 x N) and its family its memory per vCPU; exceptions are spelled
out.
"""

from collections.abc import Mapping
from types import MappingProxyType

from caa.providers.instance_types import Size

_SIXTH = "large xlarge 2xlarge 3xlarge 4xlarge 6xlarge 8xlarge"
_SEVENTH = "large xlarge 2xlarge 3xlarge 4xlarge 6xlarge 8xlarge 16xlarge"
_EIGHTH = "large xlarge 2xlarge 3xlarge 4xlarge 6xlarge 8xlarge 12xlarge 16xlarge"
_NINTH = "large xlarge 2xlarge 4xlarge 8xlarge 16xlarge"

# Family: GiB of memory per vCPU, names of the sizes.
_FAMILIES = {
    "c6": (2, _SIXTH),
    "g6": (4, _SIXTH),
    "r6": (8, _SIXTH),
    "c7": (2, _SEVENTH),
    "g7": (4, _SEVENTH),
    "r7": (8, _SEVENTH),
    "c8i": (2, _EIGHTH),
    "g8i": (4, _EIGHTH),
    "r8i": (8, _EIGHTH),
    "c9i": (2, _NINTH),
    "g9i": (4, _NINTH),
    "r9i": (8, _NINTH),
}

# Type: vCPUs, GiB of memory, GPUs.
_OTHERS = {
    "g6.13xlarge": (52, 192, 0),
    "g6.26xlarge": (104, 384, 0),
    "g7.32xlarge": (128, 512, 0),
    "g8i.24xlarge": (96, 384, 0),
    "g8i.48xlarge": (192, 1024, 0),
    "gn6i-c4g1.xlarge": (4, 15, 1),
    "gn6i-c8g1.2xlarge": (8, 31, 1),
    "gn6i-c16g1.4xlarge": (16, 62, 1),
    "gn6i-c24g1.6xlarge": (24, 93, 1),
    "gn6i-c40g1.10xlarge": (40, 155, 1),
    "gn6i-c24g1.12xlarge": (48, 186, 2),
    "gn6i-c24g1.24xlarge": (96, 372, 4),
    "gn7i-c8g1.2xlarge": (8, 30, 1),
    "gn7i-c16g1.4xlarge": (16, 60, 1),
    "gn7i-c32g1.8xlarge": (32, 188, 1),
    "gn7i-c48g1.12xlarge": (48, 310, 1),
    "gn7i-c56g1.14xlarge": (56, 346, 1),
    "gn7i-2x.8xlarge": (32, 128, 2),
    "gn7i-c32g1.16xlarge": (64, 376, 2),
    "gn7i-4x.8xlarge": (32, 128, 4),
    "gn7i-4x.16xlarge": (64, 256, 4),
    "gn7i-c32g1.32xlarge": (128, 752, 4),
    "gn7i-8x.16xlarge": (64, 256, 8),
    "gn7i-8x.32xlarge": (128, 512, 8),
    "gn7e-c16g1.4xlarge": (16, 125, 1),
    "gn7e-c16g1.8xlarge": (32, 250, 2),
    "gn7e-c16g1.16xlarge": (64, 500, 4),
    "gn7e-c16g1.32xlarge": (128, 1000, 8),
    "gn8is.2xlarge": (8, 64, 1),
    "gn8is.4xlarge": (16, 128, 1),
    "gn8is-2x.8xlarge": (32, 256, 2),
    "gn8is-4x.16xlarge": (64, 512, 4),
    "gn8is-8x.32xlarge": (128, 1024, 8),
}


def _vcpus(size: str) -> int:
    if size == "large":
        return 2
    return 4 * int(size.removesuffix("xlarge") or 1)


def _table() -> Mapping[str, Size]:
    table = {
        f"ecs.{family}.{size}": Size(gpus=0, memory_mib=ratio * _vcpus(size) * 1024, vcpus=_vcpus(size))
        for family, (ratio, sizes) in _FAMILIES.items()
        for size in sizes.split()
    }
    for name, (vcpus, memory_gib, gpus) in _OTHERS.items():
        table[f"ecs.{name}"] = Size(gpus=gpus, memory_mib=memory_gib * 1024, vcpus=vcpus)
    return MappingProxyType(table)


SIZES = _table()
