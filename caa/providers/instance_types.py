"""Choosing an instance type. Pure: the sizes are handed in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caa.errors import InvalidArgumentError

# What a Kata shim asks for on behalf of a pod that asks for nothing.
_SHIM_VCPUS, _SHIM_MEMORY_MIB = 1, 2048


@dataclass(frozen=True, order=True)
class Size:
    """What an instance type has. Fields stand in the order in which "smaller" is decided."""

    gpus: int
    memory_mib: int
    vcpus: int


@dataclass(frozen=True)
class Demand:
    """What a type must have at least; 0: no demand."""

    vcpus: int = 0
    memory_mib: int = 0
    gpus: int = 0

    def met_by(self, size: Size) -> bool:
        """Whether `size` is enough. Types with GPUs cost many times more: they are for demands for GPUs."""
        return (
            size.vcpus >= self.vcpus
            and size.memory_mib >= self.memory_mib
            and (size.gpus >= self.gpus if self.gpus else size.gpus == 0)
        )

    @property
    def is_least(self) -> bool:
        """Whether a pod that names no size may have made it."""
        return not self.gpus and self.vcpus <= _SHIM_VCPUS and self.memory_mib <= _SHIM_MEMORY_MIB

    def __str__(self) -> str:
        asked = ((self.gpus, "GPUs"), (self.vcpus, "vCPUs"), (self.memory_mib, "MiB of memory"))
        return ", ".join(f"{number} {unit}" for number, unit in asked if number) or "nothing"


def fitting(
    candidates: Sequence[str], sizes: Mapping[str, Size], demand: Demand, *, default: str, named: str = ""
) -> tuple[str, ...]:
    """The types that will do for a pod, the best first: `named` alone if it names one, else those that meet
    `demand`, the smallest first.

    `default` (one of `candidates`) comes first for a pod without a demand, and for the shim's least demand
    where no candidate meets it: that must not make a pod fail. A candidate without a known size comes last,
    but is preferred to failing.

    Raises InvalidArgumentError for a named type that is not a candidate, and for a demand that none meets.
    """
    if named:
        if named in candidates:
            return (named,)
        raise InvalidArgumentError(
            f"the pod asks for instance type {named}, which is not one of {', '.join(candidates)}:"
            " add it to PODVM_INSTANCE_TYPES or change the pod's annotation"
        )
    enough = sorted(
        (name for name in candidates if name in sizes and demand.met_by(sizes[name])),
        key=lambda name: sizes[name],
    )
    unknown = [name for name in candidates if name not in sizes]
    if demand == Demand() or (demand.is_least and not enough):
        return tuple(dict.fromkeys((default, *enough, *unknown)))
    if enough or unknown:
        return (*enough, *unknown)
    have = "; ".join(f"{name}: {_words(sizes[name])}" for name in candidates)
    raise InvalidArgumentError(
        f"no instance type has what the pod asks for ({demand}); there is {have}:"
        " add a larger type to PODVM_INSTANCE_TYPES or ask for less"
    )


def _words(size: Size) -> str:
    return str(Demand(size.vcpus, size.memory_mib, size.gpus))
