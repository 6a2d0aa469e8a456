"""The whole way from a file to an image that pod VMs can be made of.

Nothing about it is kept here. Each run looks at what there is, in the bucket and among the images, and goes
on from there: parts that have arrived are not sent again, an object that is the file is not uploaded again,
and an import of it that is under way is waited for.
"""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from caa.config import AlibabaCloudSettings
from caa.errors import AlreadyExistsError, CaaError, FailedPreconditionError, InvalidArgumentError
from caa.image.bucket import Bucket
from caa.image.catalog import Catalog, Image, ImportFailedError
from caa.image.disk import DiskImage, inspect
from caa.image.progress import Progress
from caa.image.upload import MIB, Uploaded, Uploader
from caa.providers.alibabacloud import Credentials

_IMAGE_NAME = re.compile(r"(?!aliyun|acs:)(?!.*https?://)[^\W\d_][\w.:-]{1,127}")
"""ImportImage's reference, ImageName."""
_OBJECT_NAME = re.compile(r"(?![/\\])[^\x00-\x1f]{1,1023}")
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""OSS's pages on naming."""


@dataclass(frozen=True, kw_only=True)
class ImportOrder:
    file: Path
    bucket: str
    object_name: str = ""
    """Empty: the file's name."""
    name: str = ""
    """The image's; empty: the file's, without its ending."""
    platform: str = "Aliyun"
    """The distribution in the image, by ImportImage's word for it."""
    keep_object: bool = False
    oss_endpoint: str = ""
    """Empty: the region's."""
    timeout: float = 3600.0
    """Seconds for the cloud's part, after the upload."""

    @property
    def key(self) -> str:
        return self.object_name or self.file.name

    @property
    def image_name(self) -> str:
        return self.name or re.sub(r"[^\w.:-]", "-", self.file.stem)


async def import_image(
    order: ImportOrder, settings: AlibabaCloudSettings, credentials: Credentials, progress: Progress
) -> str:
    """The id of the image, once it is Available. Raises CaaError; cancelled, says how to go on."""
    disk = check(order)
    catalog = Catalog(settings, credentials)
    try:
        return await _Import(order, disk, catalog, progress).run(settings, credentials)
    finally:
        progress.done()
        await catalog.close()


async def discard_upload(
    order: ImportOrder, settings: AlibabaCloudSettings, credentials: Credentials, progress: Progress
) -> int:
    """Remove what interrupted imports have left of the object; how many uploads that were."""
    bucket = _bucket(order, settings, credentials)
    uploader = Uploader(bucket, credentials, progress)
    try:
        return await uploader.discard(order.key)
    finally:
        await uploader.close()
        bucket.close()


def check(order: ImportOrder) -> DiskImage:
    """What needs no cloud. Raises InvalidArgumentError."""
    for value, pattern, option, rule in (
        (order.bucket, _BUCKET_NAME, "--bucket", "3 to 63 lower case letters, digits and hyphens"),
        (order.key, _OBJECT_NAME, "--object", "1 to 1023 characters, not beginning with a slash"),
        (
            order.image_name,
            _IMAGE_NAME,
            "--name",
            "2 to 128 letters, digits and .:_-, beginning with a letter, and not with aliyun or acs:",
        ),
    ):
        if not pattern.fullmatch(value):
            raise InvalidArgumentError(f"{option} {value!r} is not valid; allowed: {rule}")
    return inspect(order.file)


class _Import:
    def __init__(self, order: ImportOrder, disk: DiskImage, catalog: Catalog, progress: Progress) -> None:
        self._order = order
        self._disk = disk
        self._catalog = catalog
        self._progress = progress

    async def run(self, settings: AlibabaCloudSettings, credentials: Credentials) -> str:
        order = self._order
        bucket = _bucket(order, settings, credentials)
        uploader = Uploader(bucket, credentials, self._progress)
        try:
            under_way = await self._under_way(bucket)
            if under_way is None:
                await self._check_region(uploader, bucket, settings.region)
                await self._upload(uploader, bucket)
            image_id = under_way.id if under_way else await self._start(bucket)
            await self._wait(image_id, bucket)
            if not order.keep_object:
                await self._remove(uploader, bucket)
            return image_id
        finally:
            await uploader.close()
            bucket.close()

    async def _under_way(self, bucket: Bucket) -> Image | None:
        """The image that an earlier run of this command has begun. Raises AlreadyExistsError for any other of
        the same name.
        """
        image = await self._catalog.named(self._order.image_name)
        if image is None:
            return None
        if image.status in ("Creating", "Waiting") and image.source == bucket.url(self._order.key):
            self._progress.say(f"image {image.id} ({image.name}) is being imported already")
            return image
        failed = image.status == "CreateFailed"
        raise AlreadyExistsError(
            f"an image of the name {image.name} is there already: {image.id}, {image.status}:"
            f" {'delete it (aliyun ecs DeleteImage), or' if failed else 'use it, or'} choose another --name"
        )

    async def _check_region(self, uploader: Uploader, bucket: Bucket, region: str) -> None:
        there = await uploader.run(bucket.region)
        if there != region:
            raise FailedPreconditionError(
                f"{bucket.url()} is in {there}, and an image is made in its bucket's region: take a bucket in"
                f" {region}, or --region {there}"
            )

    async def _upload(self, uploader: Uploader, bucket: Bucket) -> None:
        order, outcome = self._order, Uploaded()
        try:
            await uploader.upload(order.file, self._disk.size, order.key, outcome)
        except AlreadyExistsError:
            raise
        except (CaaError, asyncio.CancelledError) as error:
            self._progress.done()
            if outcome.begun:
                # Of a part whose answer was not awaited nobody knows whether it has arrived.
                arrived, size = (outcome.kept + outcome.sent) / MIB, self._disk.size / MIB
                self._progress.say(
                    f"at least {arrived:.0f} of {size:.0f} MiB have arrived in {bucket.url()}, and cost money"
                    " there. The same command goes on with them; with --discard it removes them."
                )
            if isinstance(error, CaaError):
                raise type(error)(f"the upload was interrupted: {error}") from None
            raise
        self._progress.say(f"uploaded: {bucket.url(order.key)}, {self._disk.size / MIB:.0f} MiB")

    async def _start(self, bucket: Bucket) -> str:
        order = self._order
        image_id = await self._catalog.start_import(
            self._disk,
            bucket=order.bucket,
            object_name=order.key,
            name=order.image_name,
            platform=order.platform,
        )
        self._progress.say(
            f"image {image_id} ({order.image_name}) is being made from {bucket.url(order.key)}:"
            f" {self._disk.format}, {self._disk.disk_gib} GiB, UEFI, NVMe"
        )
        return image_id

    async def _wait(self, image_id: str, bucket: Bucket) -> None:
        seen = 0

        def report(percent: int) -> None:
            nonlocal seen
            self._progress.advance(percent - seen)
            seen = percent

        self._progress.step("Importing", 100, in_bytes=False)
        try:
            await self._catalog.wait(image_id, report, self._order.timeout)
        except ImportFailedError as error:
            url = bucket.url(self._order.key)
            raise ImportFailedError(
                f"{error}. {url} is still there, and costs money: aliyun oss rm {url}"
            ) from None
        except (CaaError, asyncio.CancelledError):
            self._progress.done()
            self._progress.say(
                f"ECS goes on making image {image_id}. `caa image ls` tells how far it is; the same command"
                f" waits for it again. Until it is made, {bucket.url(self._order.key)} must stay."
            )
            raise
        finally:
            self._progress.done()

    async def _remove(self, uploader: Uploader, bucket: Bucket) -> None:
        url = bucket.url(self._order.key)
        try:
            await uploader.run(bucket.delete, self._order.key)
        except CaaError as error:
            self._progress.say(
                f"the image is made, but {url} could not be removed, and costs money there: {error}"
            )


def _bucket(order: ImportOrder, settings: AlibabaCloudSettings, credentials: Credentials) -> Bucket:
    return Bucket(
        order.bucket,
        region=settings.region,
        endpoint=order.oss_endpoint,
        ca_file=settings.ca_file,
        credentials=credentials,
    )
