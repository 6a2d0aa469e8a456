"""Images: those that the settings name, and those that ImportImage makes of an object in OSS.

An imported image's status follows from its age; nothing has to tick for it:

    age < importing     Creating, with its progress
    otherwise           Available, or CreateFailed if the object is no image or was removed too early
"""

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError
from caa.fakecloud.oss_store import StoredObject
from caa.fakecloud.settings import FakeCloudSettings, Image

GIB = 2**30


class ImageStatus(StrEnum):
    CREATING = "Creating"
    AVAILABLE = "Available"
    FAILED = "CreateFailed"


@dataclass(frozen=True)
class Import:
    """Where an image comes from, and what its making has come to, decided when it was asked for."""

    task_id: str
    source: StoredObject
    format: str
    sound: bool
    """Whether the object's content is an image, of the format that was given if one was."""


@dataclass(frozen=True)
class ImageRecord:
    id: str
    name: str
    size_gib: int
    created_at: float
    own: bool = True
    """False: another account's, shared with everybody (a community image)."""
    description: str = ""
    platform: str = "Aliyun"
    boot_mode: str = "UEFI"
    nvme: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    imported: Import | None = None


class Images:
    """The region's images. `importing` is the length of an import in seconds."""

    def __init__(self, settings: FakeCloudSettings, clock: Clock) -> None:
        self._clock = clock
        self._importing = settings.timings.importing
        self._quota = settings.image_quota
        self._images = {
            each.id: ImageRecord(each.id, each.name or each.id, each.size_gib, clock.now(), own=each.own)
            for each in settings.images
        }

    def __iter__(self) -> Iterator[ImageRecord]:
        """The oldest first."""
        return iter(list(self._images.values()))

    def find(self, image_id: str) -> Image | None:
        """The image that an instance can be made of: None also while it is being made."""
        found = self._images.get(image_id)
        if found is None or self.status(found) is not ImageStatus.AVAILABLE:
            return None
        return Image(found.id, found.size_gib, found.name, own=found.own)

    def status(self, image: ImageRecord) -> ImageStatus:
        if image.imported is None:
            return ImageStatus.AVAILABLE
        removed = image.imported.source.removed_at
        if removed is not None and removed < self.finishes_at(image):
            return ImageStatus.FAILED
        if self._clock.now() < self.finishes_at(image):
            return ImageStatus.CREATING
        return ImageStatus.AVAILABLE if image.imported.sound else ImageStatus.FAILED

    def why_failed(self, image: ImageRecord) -> str:
        """In the local cloud's own words: what the real one says is not documented."""
        assert image.imported
        if image.imported.sound:
            return "The OSS object was deleted or replaced before the import was over."
        return f"The content of the OSS object is not a valid {image.imported.format} image."

    def finishes_at(self, image: ImageRecord) -> float:
        return image.created_at + self._importing

    def progress(self, image: ImageRecord) -> int:
        """Percent."""
        if self.status(image) is not ImageStatus.CREATING:
            return 100
        return int(100 * (self._clock.now() - image.created_at) / self._importing)

    def add(self, image: ImageRecord) -> None:
        """Raises ApiError if the account has all the images that it may have."""
        if sum(each.own for each in self._images.values()) >= self._quota:
            raise ApiError(403, "QuotaExceed.Image", "The Image Quota exceeds.")
        self._images[image.id] = image

    def delete(self, image_id: str) -> None:
        """Raises ApiError for an image that is being imported. What is not there is no error, as in ECS."""
        image = self._images.get(image_id)
        if image is None or not image.own:
            return
        if self.status(image) is ImageStatus.CREATING:
            raise ApiError(403, "ImageIsImporting", "The specified Image is importing.")
        del self._images[image_id]


def new_image_id() -> str:
    return f"m-2ze{secrets.token_hex(9)[:17]}"


def new_task_id() -> str:
    return f"t-2ze{secrets.token_hex(9)[:17]}"


@dataclass(frozen=True)
class Looked:
    """What a file seems to be."""

    format: str
    """RAW, QCOW2 or VHD."""
    size_gib: int
    """Of the disk, rounded up."""
    sound: bool


def look(path: Path) -> Looked:
    """Tell an image's format, as ECS does when it isn't told.

    QCOW2 begins with a magic number, its version and, at byte 24, the disk's size; a dynamic VHD begins with
    `conectix`, a fixed one ends with a footer of 512 bytes that does, with the size at byte 48. All else
    is RAW: a disk's first sector, which ends with 55 AA.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, length - 512))
        foot = file.read(512)
    if head[:4] == b"QFI\xfb":
        version, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[24:32], "big")
        return Looked("QCOW2", _gib(size), sound=version in (2, 3) and size > 0)
    for part in (head, foot):
        if part[:8] == b"conectix":
            return Looked("VHD", _gib(int.from_bytes(part[48:56], "big")), sound=foot[:8] == b"conectix")
    return Looked("RAW", _gib(length), sound=head[510:512] == b"\x55\xaa")


def _gib(size: int) -> int:
    return max(1, math.ceil(size / GIB))
