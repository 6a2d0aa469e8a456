"""What a file is taken for, and what is said of the ones that can't be imported."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import InvalidArgumentError
from caa.image.disk import inspect


def qcow2(
    *,
    version: int = 3,
    size: int = 20 * 2**30,
    backing: int = 0,
    crypt: int = 0,
    incompatible: int = 0,
    l1_table: int = 512,
    l1_entries: int = 8,
) -> bytes:
    header = bytearray(1024)
    struct.pack_into(
        ">4sIQIIQIIQ", header, 0, b"QFI\xfb", version, backing, 0, 16, size, crypt, l1_entries, l1_table
    )
    if version == 3:
        struct.pack_into(">Q", header, 72, incompatible)
    return bytes(header)


def vhd(*, size: int = 20 * 2**30, kind: int = 2) -> bytes:
    footer = bytearray(512)
    struct.pack_into(">8s", footer, 0, b"conectix")
    struct.pack_into(">Q", footer, 48, size)
    struct.pack_into(">I", footer, 60, kind)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    return bytes(1024) + bytes(footer)


def raw(sectors: int = 4) -> bytes:
    disk = bytearray(512 * sectors)
    disk[510:512] = b"\x55\xaa"
    return bytes(disk)


def file(folder: Path, content: bytes) -> Path:
    path = folder / "podvm.img"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "format_", "gib"),
    [
        (qcow2(), "QCOW2", 20),
        (qcow2(version=2, size=2**30 + 1), "QCOW2", 2),
        (vhd(), "VHD", 20),
        (vhd(kind=3, size=5 * 2**30), "VHD", 5),
        (raw(), "RAW", 1),
    ],
)
def test_disk_images_are_known(tmp_path: Path, content: bytes, format_: str, gib: int) -> None:
    image = inspect(file(tmp_path, content))
    assert (image.format, image.disk_gib, image.size) == (format_, gib, len(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"hello", "no disk image"),
        (bytes(1024), "no disk image"),
        (b"\x1f\x8b" + bytes(600), "gzip archive: unpack"),
        (b"\xfd7zXZ\x00" + bytes(600), "xz archive: unpack"),
        (b"KDMV" + bytes(600), "VMDK image: convert it"),
        (bytes(32769) + b"CD001" + bytes(600), "CD image"),
        (b"\x7fELF" + bytes(600), "a program"),
        (qcow2(version=1), "QCOW1"),
        (qcow2(backing=104), "backing file"),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(incompatible=2), "corrupt"),
        (qcow2(incompatible=4), "in another file"),
        (qcow2(size=0), "no size"),
        (qcow2(l1_table=4096), "cut off"),
        (qcow2(size=2049 * 2**30), "up to 2048 GiB"),
        (vhd()[:-512] + bytes(511) + b"x", "no disk image"),
        (b"conectix" + bytes(1016), "footer is missing"),
        (vhd()[:-1] + b"x", "damaged footer"),
        (vhd(kind=4), "difference to another file"),
        (raw()[:-1], "cut off"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as refusal:
        inspect(file(tmp_path, content))
    assert "podvm.img" in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"gone.qcow2: No such file"):
        inspect(tmp_path / "gone.qcow2")


@given(content=st.one_of(st.binary(max_size=1200), st.binary(max_size=600).map(lambda end: b"QFI\xfb" + end)))
def test_no_content_is_too_strange(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = file(tmp_path_factory.mktemp("any"), content)
    try:
        image = inspect(path)
    except InvalidArgumentError:
        return
    assert image.disk_size > 0
