"""What a disk image file is, by its first and last bytes.

Formats: QCOW2 as in QEMU's docs/interop/qcow2.txt, VHD as in Microsoft's Virtual Hard Disk Image Format
Specification, raw: a disk's first sector, which UEFI and BIOS alike want to end with 55 AA.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from caa.errors import InvalidArgumentError

GIB = 2**30
SECTOR = 512
LARGEST_GIB = 2048
"""Of a system disk (ImportImage's reference, DiskDeviceMapping.N.DiskImageSize)."""

_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it"),
    (0, b"(\xb5/\xfd", "a zstd archive", "unpack it"),
    (0, b"BZh", "a bzip2 archive", "unpack it"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it"),
    (257, b"ustar", "a tar archive", "unpack it"),
    (0, b"KDMV", "a VMDK image", "convert it: qemu-img convert -O qcow2"),
    (0, b"vhdxfile", "a VHDX image", "convert it: qemu-img convert -O qcow2"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", "convert it: qemu-img convert -O qcow2"),
    (32769, b"CD001", "a CD image (ISO 9660)", "take a disk image"),
    (0, b"\x7fELF", "a program", "take a disk image"),
)
"""Offset, magic bytes, what that is, and what to do with it."""


@dataclass(frozen=True)
class DiskImage:
    path: Path
    format: str
    """QCOW2, VHD or RAW, as ImportImage calls them."""
    size: int
    """Bytes of the file."""
    disk_size: int
    """Bytes of the disk in it."""

    @property
    def disk_gib(self) -> int:
        """Rounded up, as a system disk is made."""
        return max(1, math.ceil(self.disk_size / GIB))


def inspect(path: Path) -> DiskImage:
    """Raises InvalidArgumentError that says what the file is instead, and what to do."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(32769 + 5)
            file.seek(max(0, size - SECTOR))
            foot = file.read(SECTOR)
    except OSError as error:
        raise InvalidArgumentError(f"{path}: {error.strerror or error}") from None
    if not size:
        raise InvalidArgumentError(f"{path}: the file is empty")
    read: Callable[[bytes, bytes, int], tuple[str, int]]
    if head[:4] == b"QFI\xfb":
        read = _read_qcow2
    elif foot[:8] == b"conectix" or head[:8] == b"conectix":
        read = _read_vhd
    else:
        read = _read_raw
    try:
        name, disk_size = read(head, foot, size)
    except ValueError as error:
        raise InvalidArgumentError(f"{path} can't be imported: {error}") from None
    image = DiskImage(path, name, size, disk_size)
    if image.disk_gib > LARGEST_GIB:
        raise InvalidArgumentError(
            f"{path}: a disk of {image.disk_gib} GiB; ECS imports up to {LARGEST_GIB} GiB"
        )
    return image


def _read_qcow2(head: bytes, _: bytes, size: int) -> tuple[str, int]:
    def number(at: int, length: int) -> int:
        return int.from_bytes(head[at : at + length], "big")

    version = number(4, 4)
    if version not in (2, 3):
        raise ValueError(f"it says that it is QCOW{version}, and only QCOW2 is known")
    if number(8, 8):
        raise ValueError(
            "it is a difference to another file (a QCOW2 with a backing file): make it whole with"
            " qemu-img convert -O qcow2"
        )
    if number(32, 4):
        raise ValueError("it is encrypted: decrypt it with qemu-img convert -O qcow2")
    incompatible = number(72, 8) if version == 3 else 0
    if incompatible & 2:
        raise ValueError("it is marked as corrupt: see qemu-img check")
    if incompatible & 4:
        raise ValueError("its data is in another file: make it whole with qemu-img convert -O qcow2")
    disk_size, l1_entries, l1_table = number(24, 8), number(36, 4), number(40, 8)
    if not disk_size:
        raise ValueError("its disk has no size")
    if l1_table + 8 * l1_entries > size:
        raise ValueError("it is cut off: its tables lie behind its end. Get or copy it again")
    return "QCOW2", disk_size


def _read_vhd(_: bytes, foot: bytes, __: int) -> tuple[str, int]:
    if foot[:8] != b"conectix":
        raise ValueError("it is a VHD that is cut off: its footer is missing. Get or copy it again")
    checksum = int.from_bytes(foot[64:68], "big")
    if ~(sum(foot) - sum(foot[64:68])) & 0xFFFFFFFF != checksum:
        raise ValueError("it is a VHD with a damaged footer")
    if int.from_bytes(foot[60:64], "big") not in (2, 3):
        raise ValueError("it is a VHD that is a difference to another file: make it whole")
    return "VHD", int.from_bytes(foot[48:56], "big")


def _read_raw(head: bytes, _: bytes, size: int) -> tuple[str, int]:
    for offset, magic, what, remedy in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            raise ValueError(f"it is {what}: {remedy}")
    if head[510:512] != b"\x55\xaa":
        raise ValueError(
            "it is no disk image that ECS imports (QCOW2, VHD, or a raw disk, whose first sector ends with"
            " 55 AA)"
        )
    if size % SECTOR:
        raise ValueError(
            f"a raw disk is made of sectors of {SECTOR} bytes, and {size} bytes are none: it is cut off"
        )
    return "RAW", size
