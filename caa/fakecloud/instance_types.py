"""Instance types on sale, with what can be asked about them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InstanceType:
    id: str
    family: str
    vcpus: int
    memory_gib: float
    gpus: int = 0
    gpu: str = ""
    tdx_zones: frozenset[str] = frozenset()
    """Zones where it can be had as a confidential instance."""

    @property
    def enis(self) -> int:
        """How many network interfaces an instance can have, the primary one included. An assumption, no more
        generous than the real numbers, which differ from family to family.
        """
        return 2 if self.vcpus < 4 else 3 if self.vcpus < 8 else 4


TDX_ZONES = frozenset({"cn-beijing-i"})

_SIZES = {
    "large": 2,
    "xlarge": 4,
    "2xlarge": 8,
    "3xlarge": 12,
    "4xlarge": 16,
    "6xlarge": 24,
    "8xlarge": 32,
    "12xlarge": 48,
    "16xlarge": 64,
    "24xlarge": 96,
    "48xlarge": 192,
}
# Family: GiB per vCPU, its largest number of vCPUs, whether it does TDX (from 4 vCPUs on).
_FAMILIES = {
    "ecs.g8i": (4, 192, True),
    "ecs.c8i": (2, 192, False),
    "ecs.r8i": (8, 192, False),
    "ecs.g7": (4, 96, False),
    "ecs.c7": (2, 96, False),
    "ecs.r7": (8, 96, False),
    "ecs.g6": (4, 64, False),
    "ecs.c6": (2, 64, False),
}
_MEMORY = {"ecs.g8i.48xlarge": 1024}
"""GiB where they are not the family's ratio."""
_GPU_TYPES = (
    InstanceType("ecs.gn7i-c8g1.2xlarge", "ecs.gn7i", 8, 30, 1, "NVIDIA A10"),
    InstanceType("ecs.gn7i-c16g1.4xlarge", "ecs.gn7i", 16, 60, 1, "NVIDIA A10"),
    InstanceType("ecs.gn7i-c32g1.8xlarge", "ecs.gn7i", 32, 188, 1, "NVIDIA A10"),
    InstanceType("ecs.gn7i-c32g1.16xlarge", "ecs.gn7i", 64, 376, 2, "NVIDIA A10"),
    InstanceType("ecs.gn7i-c32g1.32xlarge", "ecs.gn7i", 128, 752, 4, "NVIDIA A10"),
)

INSTANCE_TYPES = {
    each.id: each
    for each in (
        *(
            InstanceType(
                f"{family}.{size}",
                family,
                vcpus,
                _MEMORY.get(f"{family}.{size}", vcpus * ratio),
                tdx_zones=TDX_ZONES if tdx and vcpus >= _SIZES["xlarge"] else frozenset(),
            )
            for family, (ratio, largest, tdx) in _FAMILIES.items()
            for size, vcpus in _SIZES.items()
            if vcpus <= largest
        ),
        *_GPU_TYPES,
    )
}
