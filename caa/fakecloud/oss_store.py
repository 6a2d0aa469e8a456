"""What OSS keeps: buckets, objects, and the parts of uploads that are not complete. Contents are files.

Receiving and joining contents takes time, so both are done on files that nobody sees yet; what makes them
visible (`put`, `add_part`, `complete`) does not wait. Errors have the codes and messages of the OSS API
reference.
"""

import hashlib
import secrets
from collections.abc import AsyncIterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import crcmod

from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError

SMALLEST_PART = 100 * 1024
"""Bytes; the last part may be smaller."""
MAX_PART_NUMBER = 10_000
MAX_STORED = 64 * 2**30
"""Bytes of all contents together, so that a mistake does not fill the disk."""
_PIECE = 2**20

_CRC64 = (0x142F0E1EBA9EA3693, 0, True, 0xFFFFFFFFFFFFFFFF)
"""ECMA-182, bits reversed, as x-oss-hash-crc64ecma has it."""


class Crc64:
    def __init__(self) -> None:
        self._crc = crcmod.Crc(*_CRC64)

    def update(self, data: bytes) -> None:
        self._crc.update(data)

    @property
    def value(self) -> int:
        return int(self._crc.crcValue)


@dataclass
class Content:
    """A file with its sums. Whoever holds it may discard it."""

    file: Path
    size: int = 0
    md5: str = ""
    """Uppercase hexadecimal: the ETag of what was sent in one piece."""
    crc64: int = 0

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)


@dataclass
class StoredObject:
    bucket: str
    name: str
    content: Content
    etag: str
    kind: str
    """Normal, or Multipart: how it was uploaded."""
    modified_at: float
    removed_at: float | None = None
    """When it was deleted or overwritten; a holder of this object still knows."""


@dataclass
class Part:
    number: int
    content: Content
    modified_at: float


@dataclass
class Upload:
    id: str
    bucket: str
    name: str
    initiated_at: float
    parts: dict[int, Part] = field(default_factory=dict)

    def in_order(self) -> list[Part]:
        return [self.parts[number] for number in sorted(self.parts)]


class ObjectStore:
    """`folder` must be there; `close` empties it. Times are the clock's."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._objects: dict[tuple[str, str], StoredObject] = {}
        self._uploads: dict[str, Upload] = {}

    def __iter__(self) -> Iterator[StoredObject]:
        """Objects in the order of bucket and name."""
        return iter([self._objects[key] for key in sorted(self._objects)])

    def find(self, bucket: str, name: str) -> StoredObject | None:
        return self._objects.get((bucket, name))

    def uploads(self, bucket: str) -> list[Upload]:
        """Those under way, in the order of name and beginning."""
        return sorted(
            (each for each in self._uploads.values() if each.bucket == bucket),
            key=lambda each: (each.name, each.initiated_at, each.id),
        )

    def upload(self, bucket: str, name: str, upload_id: str) -> Upload:
        found = self._uploads.get(upload_id)
        if found is None or (found.bucket, found.name) != (bucket, name):
            raise ApiError(
                404,
                "NoSuchUpload",
                "The specified upload does not exist. The upload ID may be invalid, or the upload may have"
                " been aborted or completed.",
            )
        return found

    async def receive(self, chunks: AsyncIterable[bytes]) -> Content:
        """A content that nothing refers to yet. What arrived of a broken stream is gone."""
        content = Content(self._new_file())
        room = MAX_STORED - self._stored()
        md5 = hashlib.md5()  # noqa: S324  that is what an ETag is
        crc64 = Crc64()
        try:
            with content.file.open("xb") as file:
                async for chunk in chunks:
                    content.size += len(chunk)
                    _check_room(content, room)
                    md5.update(chunk)
                    crc64.update(chunk)
                    file.write(chunk)
        except BaseException:
            content.discard()
            raise
        content.md5 = md5.hexdigest().upper()
        content.crc64 = crc64.value
        return content

    def put(self, bucket: str, name: str, content: Content) -> StoredObject:
        return self._publish(StoredObject(bucket, name, content, content.md5, "Normal", self._clock.now()))

    def initiate(self, bucket: str, name: str) -> Upload:
        upload = Upload(secrets.token_hex(16).upper(), bucket, name, self._clock.now())
        self._uploads[upload.id] = upload
        return upload

    def add_part(self, upload: Upload, number: int, content: Content) -> None:
        if upload.id not in self._uploads:  # completed or aborted while the part was on its way
            content.discard()
            self.upload(upload.bucket, upload.name, upload.id)
        if number in upload.parts:
            upload.parts[number].content.discard()
        upload.parts[number] = Part(number, content, self._clock.now())

    def check_parts(self, upload: Upload, listed: Sequence[tuple[int, str]]) -> list[Part]:
        """The parts that a completion lists by number and ETag. Raises ApiError if they don't make up an
        object.
        """
        if [number for number, _ in listed] != sorted({number for number, _ in listed}) or not listed:
            raise ApiError(
                400,
                "InvalidPartOrder",
                "The list of parts was not in ascending order. Parts list must specified in order by part"
                " number.",
            )
        parts = []
        for number, etag in listed:
            part = upload.parts.get(number)
            if part is None or part.content.md5 != etag:
                raise ApiError(
                    400,
                    "InvalidPart",
                    "One or more of the specified parts could not be found or the specified entity tag might"
                    " not have matched the part's entity tag.",
                )
            parts.append(part)
        for part in parts[:-1]:
            if part.content.size < SMALLEST_PART:
                raise ApiError(
                    400,
                    "EntityTooSmall",
                    "Your proposed upload smaller than the minimum allowed object size.",
                )
        return parts

    def joined(self, parts: Sequence[Part]) -> Content:
        """All parts in one new file. Takes as long as the disk: to be called in a thread."""
        content = Content(self._new_file())
        crc64 = Crc64()
        try:
            with content.file.open("xb") as whole:
                for part in parts:
                    with part.content.file.open("rb") as file:
                        while piece := file.read(_PIECE):
                            crc64.update(piece)
                            whole.write(piece)
                    content.size += part.content.size
        except BaseException:
            content.discard()
            raise
        content.crc64 = crc64.value
        return content

    def complete(self, upload: Upload, parts: Sequence[Part], content: Content) -> StoredObject:
        """End the upload with what `joined` made of these parts."""
        if self._uploads.pop(upload.id, None) is None:
            content.discard()
            self.upload(upload.bucket, upload.name, upload.id)
        sums = b"".join(bytes.fromhex(part.content.md5) for part in parts)
        etag = f"{hashlib.md5(sums).hexdigest().upper()}-{len(parts)}"  # noqa: S324  as above
        for part in upload.parts.values():
            part.content.discard()
        return self._publish(
            StoredObject(upload.bucket, upload.name, content, etag, "Multipart", self._clock.now())
        )

    def abort(self, upload: Upload) -> None:
        del self._uploads[upload.id]
        for part in upload.parts.values():
            part.content.discard()

    def delete(self, bucket: str, name: str) -> None:
        """Also fine if there is none, as in OSS."""
        self._withdraw(self._objects.pop((bucket, name), None))

    def close(self) -> None:
        for upload in list(self._uploads.values()):
            self.abort(upload)
        for each in list(self._objects.values()):
            self.delete(each.bucket, each.name)

    def _publish(self, made: StoredObject) -> StoredObject:
        key = (made.bucket, made.name)
        self._withdraw(self._objects.get(key))
        self._objects[key] = made
        return made

    def _withdraw(self, old: StoredObject | None) -> None:
        if old:
            old.removed_at = self._clock.now()
            old.content.discard()

    def _new_file(self) -> Path:
        return self._folder / secrets.token_hex(16)

    def _stored(self) -> int:
        contents = [each.content for each in self._objects.values()]
        contents += [part.content for upload in self._uploads.values() for part in upload.parts.values()]
        return sum(content.size for content in contents)


def _check_room(content: Content, room: int) -> None:
    if content.size > room:
        raise ApiError(400, "EntityTooLarge", "The local cloud keeps no more than that.")
