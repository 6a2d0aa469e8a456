"""Uploading a file in parts, so that an upload that was interrupted goes on where it was.

What has arrived is asked of OSS, not remembered in a file here: the bucket's list of unfinished uploads is
the truth, also after a crash, on another computer, or if somebody removed them; and it is these parts that
cost money. A part counts as arrived if its size and CRC64 are those of the file now, so a file that was
changed since is noticed, and of it just the changed parts are sent. At the end the whole object's CRC64 must
be the file's.
"""

import asyncio
import io
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from caa.errors import AlreadyExistsError, CaaError, FailedPreconditionError
from caa.image.bucket import Bucket, KeyRefusedError, StoppedError, StoredPart, combined, crc64_of
from caa.image.progress import Progress
from caa.providers.alibabacloud import Credentials

T = TypeVar("T")

MIB = 2**20
PARTS = 200
"""About so many, but none below one MiB or above one GiB: what an interruption can cost is half a percent,
and OSS's limits (10 000 parts, of 100 KiB to 5 GiB) are far off.
"""
AT_ONCE = 4
_PIECE = 2**18


@dataclass(frozen=True)
class Section:
    """The part of the file that becomes one part of the upload."""

    number: int
    offset: int
    size: int


@dataclass
class Uploaded:
    """What an upload came to."""

    sent: int = 0
    """Bytes that went over the network, in this run."""
    kept: int = 0
    """Bytes that had arrived before."""
    begun: bool = False
    """Whether there is an unfinished upload in the bucket, for as long as this one fails."""


@dataclass
class Unfinished:
    """An upload that is not complete, and the parts of it that are as the file is now."""

    id: str
    parts: list[StoredPart] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def sections(size: int) -> list[Section]:
    """They follow from the size alone, so that every run cuts the file in the same way."""
    each = min(max(1, math.ceil(size / PARTS / MIB)), 1024) * MIB
    return [
        Section(index + 1, offset, min(each, size - offset))
        for index, offset in enumerate(range(0, size, each))
    ]


class Uploader:
    """Uploads one file as one object. Its waits are in threads, which end soon after a cancellation."""

    def __init__(self, bucket: Bucket, credentials: Credentials, progress: Progress) -> None:
        self._bucket = bucket
        self._credentials = credentials
        self._progress = progress
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="caa-oss")

    async def close(self) -> None:
        self._bucket.stopped.set()
        await asyncio.to_thread(self._threads.shutdown)

    async def upload(self, path: Path, size: int, name: str, outcome: Uploaded) -> None:
        """Return once the object is there and is the file. `outcome` is up to date also if this fails.

        Raises AlreadyExistsError if the object is there with another content, and CaaError.
        """
        cut = sections(size)
        sums = await self._sums(path, cut)
        whole = combined([(crc64, section.size) for crc64, section in zip(sums, cut, strict=True)])
        there = await self.run(self._bucket.find, name)
        if there and (there.size, there.crc64) == (size, whole):
            outcome.kept = size
            self._progress.say(f"{self._bucket.url(name)} is there already, and is the file")
            return
        if there:
            raise AlreadyExistsError(
                f"{self._bucket.url(name)} is there already, with another content ({there.size} bytes):"
                " choose another --object, or delete it"
            )
        unfinished = await self._best(name, cut, sums)
        outcome.kept, outcome.begun = unfinished.size, True
        if outcome.kept:
            self._progress.say(
                f"going on with an interrupted upload: {outcome.kept / MIB:.0f} of {size / MIB:.0f} MiB are"
                " there already"
            )
        await self._send_missing(path, name, unfinished, list(zip(cut, sums, strict=True)), outcome)
        arrived = await self.run(self._bucket.complete, name, unfinished.id, unfinished.parts)
        if arrived not in (None, whole):
            await self.run(self._bucket.delete, name)
            raise _changed(path)

    async def discard(self, name: str) -> int:
        """Remove the unfinished uploads of this object; how many there were."""
        uploads = await self.run(self._bucket.uploads, name)
        for upload_id in uploads:
            await self.run(self._bucket.abort, name, upload_id)
        return len(uploads)

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Call a method of the bucket, in a thread and with valid credentials."""
        loop = asyncio.get_running_loop()
        await self._credentials.ready()
        try:
            return await loop.run_in_executor(self._threads, call, *arguments)
        except KeyRefusedError:
            # Clocks differ, and sessions can be revoked: the cloud has the last word.
            if not await self._credentials.renew():
                raise
            return await loop.run_in_executor(self._threads, call, *arguments)

    async def _sums(self, path: Path, cut: Sequence[Section]) -> list[int]:
        """The CRC64 of each section."""
        self._progress.step("Reading the file", sum(section.size for section in cut), in_bytes=True)

        def read(section: Section) -> int:
            with _Body(path, section, self._bucket.stopped, self._progress.advance) as body:
                return crc64_of(iter(lambda: body.read(_PIECE), b""))

        loop = asyncio.get_running_loop()
        try:
            return await asyncio.gather(*(loop.run_in_executor(self._threads, read, each) for each in cut))
        finally:
            self._progress.done()

    async def _best(self, name: str, cut: Sequence[Section], sums: Sequence[int]) -> Unfinished:
        """The unfinished upload that has the most of the file, or a new one."""
        expected = {section.number: (section.size, crc64) for section, crc64 in zip(cut, sums, strict=True)}
        found = []
        for upload_id in await self.run(self._bucket.uploads, name):
            parts = await self.run(self._bucket.parts, name, upload_id)
            good = [part for part in parts if expected.get(part.number) == (part.size, part.crc64)]
            if good:
                found.append(Unfinished(upload_id, good))
        if found:
            return max(found, key=lambda each: each.size)
        return Unfinished(await self.run(self._bucket.begin, name))

    async def _send_missing(
        self,
        path: Path,
        name: str,
        unfinished: Unfinished,
        every: Sequence[tuple[Section, int]],
        outcome: Uploaded,
    ) -> None:
        have = {part.number for part in unfinished.parts}
        waiting = iter([(section, crc64) for section, crc64 in every if section.number not in have])
        self._progress.step("Uploading", sum(section.size for section, _ in every), in_bytes=True)
        self._progress.advance(outcome.kept)

        async def work() -> None:
            for section, crc64 in waiting:
                part = await self.run(self._send, path, name, unfinished.id, section)
                if part.crc64 not in (None, crc64):
                    raise _changed(path)
                unfinished.parts.append(part)
                outcome.sent += section.size

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(AT_ONCE):
                    workers.create_task(work())
        except* CaaError as errors:
            raise _first(errors) from None
        finally:
            self._progress.done()

    def _send(self, path: Path, name: str, upload_id: str, section: Section) -> StoredPart:
        with _Body(path, section, self._bucket.stopped, self._progress.advance) as body:
            return self._bucket.send(name, upload_id, section.number, body)


class _Body(io.RawIOBase):
    """A section of the file, as a file that tells how much of it was read, and that can be stopped."""

    def __init__(
        self, path: Path, section: Section, stopped: threading.Event, advance: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._path = path
        self._section = section
        self._stopped = stopped
        self._advance = advance
        self._at = 0
        self._file = path.open("rb")

    def __len__(self) -> int:
        return self._section.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._section.size}[whence]
        self._move(base + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        if self._stopped.is_set():
            raise StoppedError
        left = self._section.size - self._at
        try:
            self._file.seek(self._section.offset + self._at)
            data = self._file.read(left if size is None or size < 0 else min(size, left))
        except OSError as error:
            raise FailedPreconditionError(f"{self._path}: {error.strerror or error}") from None
        if left and size and not data:
            raise _changed(self._path)  # it has become shorter
        self._move(self._at + len(data))
        return data

    def close(self) -> None:
        self._file.close()
        super().close()

    def _move(self, to: int) -> None:
        self._advance(to - self._at)
        self._at = to


def _changed(path: Path) -> FailedPreconditionError:
    return FailedPreconditionError(f"{path} was changed while it was uploaded: run the command again")


def _first(errors: BaseExceptionGroup[CaaError]) -> CaaError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
