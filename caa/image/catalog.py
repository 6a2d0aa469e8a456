"""ECS images: listing them, importing one from a bucket, and waiting until it can be used."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from caa.config import AlibabaCloudSettings
from caa.errors import (
    AlreadyExistsError,
    CaaError,
    FailedPreconditionError,
    InternalError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from caa.image.disk import DiskImage
from caa.polling import growing, poll
from caa.providers.alibabacloud import ECS, ApiError, Client, Credentials, Kind, Rule, explained, persist

CALL_TIMEOUT = 60.0
"""Seconds for one question to ECS, repetitions included."""
_PAGE = 100
_STATUSES = "Creating,Waiting,Available,UnAvailable,CreateFailed"
"""All but Deprecated. DescribeImages gives only Available ones unless told."""
_ROLE = "AliyunECSImageImportDefaultRole"
_ALLOW_ECS = (
    f"ECS may not read this account's buckets yet. Allow it once, as an administrator:\n"
    f"  aliyun ram CreateRole --RoleName {_ROLE} --AssumeRolePolicyDocument"
    ' \'{{"Version":"1","Statement":[{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":'
    '{{"Service":["ecs.aliyuncs.com"]}}}}]}}\'\n'
    f"  aliyun ram AttachPolicyToRole --RoleName {_ROLE} --PolicyType System"
    " --PolicyName AliyunECSImageImportRolePolicy\n"
    "then run the command again: what was uploaded is not sent twice"
)
_RULES: tuple[tuple[tuple[str, ...], type[CaaError], str], ...] = (
    (
        # Both spellings are in the API's reference.
        ("NoSetRoletoECSServiceAcount", "NoSetRoletoECSServiceAccount"),
        PermissionDeniedError,
        _ALLOW_ECS,
    ),
    (
        ("Forbidden", "Forbidden.RAM"),
        PermissionDeniedError,
        "grant {permission} to the RAM user or role of these credentials (the daemon does not need it)",
    ),
    (
        ("QuotaExceed.Image",),
        ResourceExhaustedError,
        "delete an image that is not needed (caa image ls), or ask for a higher quota in Quota Center",
    ),
    (("InvalidImageName.Duplicated",), AlreadyExistsError, "choose another --name"),
    (("InvalidOSSBucket.NotFound",), FailedPreconditionError, "the bucket must be in the image's region"),
    (
        ("InvalidRegion.NotSupport",),
        FailedPreconditionError,
        "import the image in another region, and copy it: aliyun ecs CopyImage",
    ),
)
"""Codes of the image calls, with the error that each becomes and the remedy. The rest is the provider's."""


class ImportFailedError(FailedPreconditionError):
    """ECS could not make the image."""


@dataclass(frozen=True)
class Image:
    id: str
    name: str
    status: str
    progress: str
    size_gib: int
    created: str
    boot_mode: str
    nvme: bool
    owner: str
    """self, or others: a community image."""
    source: str = ""
    """The object that it was imported from, as oss://bucket/object."""


class Catalog:
    """The images of one region, as these credentials see them. Every method raises CaaError."""

    def __init__(self, settings: AlibabaCloudSettings, credentials: Credentials) -> None:
        self._region = settings.region
        self._ecs = Client(
            ECS,
            endpoint=settings.ecs_endpoint,
            region=settings.region,
            ca_file=settings.ca_file,
            credentials=credentials,
            threads=2,
        )

    async def close(self) -> None:
        await self._ecs.close()

    async def own(self) -> list[Image]:
        """The newest first, as ECS gives them."""
        return [image async for image in self._describe({"ImageOwnerAlias": "self"})]

    async def find(self, image_id: str) -> Image | None:
        """One's own image, or else a community image."""
        for of in ({}, {"ImageOwnerAlias": "others", "IsPublic": "true"}):
            async for image in self._describe({"ImageId": image_id} | of):
                return image
        return None

    async def named(self, name: str) -> Image | None:
        """One's own image of exactly this name."""
        # ImageName is searched for fuzzily.
        async for image in self._describe({"ImageOwnerAlias": "self", "ImageName": name}):
            if image.name == name:
                return image
        return None

    async def start_import(
        self, disk: DiskImage, *, bucket: str, object_name: str, name: str, platform: str
    ) -> str:
        """The new image's id. It is not usable yet."""
        answer = await self._call(
            "ImportImage",
            {
                "ImageName": name,
                "Architecture": "x86_64",
                "OSType": "linux",
                "Platform": platform,
                "BootMode": "UEFI",
                "Features.NvmeSupport": "supported",
                "DiskDeviceMapping.1.OSSBucket": bucket,
                "DiskDeviceMapping.1.OSSObject": object_name,
                "DiskDeviceMapping.1.Format": disk.format,
                "DiskDeviceMapping.1.DiskImageSize": disk.disk_gib,
                "ClientToken": str(uuid.uuid4()),
            },
            f" of oss://{bucket}/{object_name}",
        )
        return _text(answer, "ImageId")

    async def wait(self, image_id: str, report: Callable[[int], None], timeout: float) -> None:
        """Return once the image is Available. `report` is told its progress in percent.

        Raises ImportFailedError with the cloud's reason, DeadlineExceededError after `timeout` seconds.
        """

        async def ask() -> tuple[Image | None, str]:
            image = await self.find(image_id)
            if image is None:
                return None, "ECS does not know it"
            if image.status in ("CreateFailed", "UnAvailable"):
                raise ImportFailedError(
                    f"ECS could not make image {image_id} ({image.status}): {await self._reason(image_id)}"
                )
            percent = image.progress.rstrip("%")
            report(int(percent) if percent.isdecimal() else 0)
            return image if image.status == "Available" else None, f"{image.status}, {image.progress}"

        await poll(ask, what=f"image {image_id}", pauses=growing(0.2, longest=10.0), timeout=timeout)

    async def _reason(self, image_id: str) -> str:
        """Why an import failed, as far as the cloud tells these credentials."""
        try:
            listed = await self._call(
                "DescribeTasks", {"TaskAction": "ImportImage", "ResourceIds.1": image_id}, ""
            )
            tasks = _items(listed, "TaskSet", "Task")
            told = (
                await self._call("DescribeTaskAttribute", {"TaskId": tasks[0]["TaskId"]}, "") if tasks else {}
            )
        except CaaError as error:
            return f"its reason can't be read ({error})"
        steps = _items(told, "OperationProgressSet", "OperationProgress")
        words = [f"{step.get('ErrorCode', '')}: {step.get('ErrorMsg', '')}" for step in steps]
        return "; ".join(word for word in words if word != ": ") or "the cloud gives no reason"

    async def _describe(self, parameters: Mapping[str, Any]) -> AsyncIterator[Image]:
        for page in range(1, 1000):
            request = {"Status": _STATUSES, "PageSize": _PAGE, "PageNumber": page, **parameters}
            answer = await self._call("DescribeImages", request, "")
            found = _items(answer, "Images", "Image")
            for each in found:
                yield _image(each)
            if len(found) < _PAGE:
                return

    async def _call(self, action: str, parameters: Mapping[str, Any], what: str) -> dict[str, Any]:
        async def ask() -> tuple[dict[str, Any] | None, str]:
            return await self._ecs.call(action, {"RegionId": self._region, **parameters}), ""

        try:
            return await persist(ask, what=action, timeout=CALL_TIMEOUT, pauses=growing(0.5, longest=5.0))
        except ApiError as error:
            for codes, raises, remedy in _RULES:
                if error.code in codes:
                    error.rule = Rule(Kind.REFUSED, codes, raises, remedy)
            raise explained(error, what) from None


async def list_images(
    settings: AlibabaCloudSettings, credentials: Credentials, also: str = ""
) -> list[Image]:
    """The account's own images, and the image `also`, whosever it is, at their head."""
    catalog = Catalog(settings, credentials)
    try:
        images = await catalog.own()
        if also and also not in {image.id for image in images}:
            other = await catalog.find(also)
            images = [other, *images] if other else images
    finally:
        await catalog.close()
    return images


def _image(fields: Mapping[str, Any]) -> Image:
    image = Image(
        id=_text(fields, "ImageId"),
        name=_text(fields, "ImageName"),
        status=_text(fields, "Status"),
        progress=_text(fields, "Progress"),
        size_gib=int(fields.get("Size") or 0),
        created=_text(fields, "CreationTime"),
        boot_mode=_text(fields, "BootMode"),
        nvme=(fields.get("Features") or {}).get("NvmeSupport") == "supported",
        owner=_text(fields, "ImageOwnerAlias"),
    )
    for disk in _items(fields, "DiskDeviceMappings", "DiskDeviceMapping"):
        if disk.get("ImportOSSBucket"):
            source = f"oss://{disk['ImportOSSBucket']}/{disk.get('ImportOSSObject', '')}"
            return replace(image, source=source)
    return image


def _text(answer: Mapping[str, Any], name: str) -> str:
    return str(answer.get(name) or "")


def _items(answer: Mapping[str, Any], outer: str, inner: str) -> list[Mapping[str, Any]]:
    found = (answer.get(outer) or {}).get(inner) or []
    if not isinstance(found, list):
        raise InternalError(f"the cloud's answer has no list of {inner}")
    return found
