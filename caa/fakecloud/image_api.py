"""ECS's actions for images: DescribeImages, ImportImage, DeleteImage, and the imports' tasks."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from caa.fakecloud.actions import Action
from caa.fakecloud.clock import Clock, timestamp
from caa.fakecloud.errors import ApiError, invalid, missing
from caa.fakecloud.idempotency import ClientTokens
from caa.fakecloud.images import (
    ImageRecord,
    Images,
    ImageStatus,
    Import,
    look,
    new_image_id,
    new_task_id,
)
from caa.fakecloud.oss_store import ObjectStore, StoredObject
from caa.fakecloud.paging import number_page
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.tags import read_tags, show_tags, wanted_tags

LARGEST_GIB = 2048
PLATFORMS = ("Aliyun", "Anolis", "CentOS", "Customized Linux", "Debian", "Fedora", "Others Linux", "Ubuntu")
"""Of those that the API reference lists."""
_NAME = re.compile(r"(?!aliyun|acs:)(?!.*https?://)[^\W\d_][\w.:-]{1,127}")
_TASK_STATUS = {
    ImageStatus.CREATING: "Processing",
    ImageStatus.AVAILABLE: "Finished",
    ImageStatus.FAILED: "Failed",
}


class ImageApi:
    def __init__(self, region: Region, images: Images, store: ObjectStore, clock: Clock) -> None:
        self._region = region
        self._settings = region.settings
        self._images = images
        self._store = store
        self._clock = clock
        self._tokens = ClientTokens()

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "DeleteImage": self.delete_image,
            "DescribeImages": self.describe_images,
            "DescribeTaskAttribute": self.describe_task_attribute,
            "DescribeTasks": self.describe_tasks,
            "ImportImage": self.import_image,
        }

    def import_image(self, parameters: Parameters) -> dict[str, Any]:
        return self._tokens.once("ImportImage", parameters.values, lambda: self._import(parameters))

    def describe_images(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "Architecture",
            "DryRun",
            "ImageId",
            "ImageName",
            "ImageOwnerAlias",
            "IsPublic",
            "OSType",
            "PageNumber",
            "PageSize",
            "RegionId",
            "Status",
            "Tag.*",
        )
        self._region.check(parameters)
        _not_dry(parameters)
        chosen = [each for each in self._images if self._wanted(each, parameters)]
        chosen.reverse()
        part, answer = number_page(parameters, chosen)
        return answer | {
            "RegionId": self._settings.region,
            "Images": {"Image": [self._describe(each) for each in part]},
        }

    def describe_tasks(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "PageNumber", "PageSize", "RegionId", "ResourceIds.*", "TaskAction", "TaskIds", "TaskStatus"
        )
        self._region.check(parameters)
        tasks = [each for each in map(self._task, self._images) if each]
        if ids := parameters.text("TaskIds"):
            tasks = [each for each in tasks if each["TaskId"] in ids.split(",")]
        if resources := parameters.texts("ResourceIds"):
            tasks = [each for each in tasks if each["ResourceId"] in resources]
        for name in ("TaskAction", "TaskStatus"):
            if wanted := parameters.text(name):
                tasks = [each for each in tasks if each[name] == wanted]
        part, answer = number_page(parameters, tasks)
        return answer | {"RegionId": self._settings.region, "TaskSet": {"Task": part}}

    def describe_task_attribute(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "TaskId")
        self._region.check(parameters)
        wanted = parameters.required("TaskId")
        for image in self._images:
            task = self._task(image)
            if task and task["TaskId"] == wanted:
                return self._task_attribute(image, task)
        raise ApiError(404, "InvalidTaskId.NotFound", "The specified task does not exist.")

    def delete_image(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("DryRun", "Force", "ImageId", "RegionId")
        self._region.check(parameters)
        image_id = parameters.required("ImageId")
        _not_dry(parameters)
        self._images.delete(image_id)
        return {}

    def _import(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "Architecture",
            "BootMode",
            "ClientToken",
            "Description",
            "DiskDeviceMapping.*",
            "DryRun",
            "Features.NvmeSupport",
            "ImageName",
            "LicenseType",
            "OSType",
            "Platform",
            "RegionId",
            "RoleName",
            "Tag.*",
        )
        self._region.check(parameters)
        name = self._new_name(parameters)
        for parameter, allowed, code in (
            ("Architecture", ("", "x86_64"), "InvalidArchitecture.Malformed"),
            ("OSType", ("", "linux"), "InvalidOSType.Malformed"),
            ("Platform", ("", *PLATFORMS), "InvalidPlatform.Malformed"),
        ):
            if parameters.text(parameter) not in allowed:
                raise ApiError(400, code, f"The specified {parameter} is wrongly formed.")
        for parameter, choice in (
            ("BootMode", ("", "BIOS", "UEFI")),
            ("Features.NvmeSupport", ("", "supported", "unsupported")),
        ):
            if parameters.text(parameter) not in choice:
                raise invalid(parameter)
        source, image_format, wanted_gib = self._source(parameters)
        looked = look(source.content.file)
        if image_format not in ("", looked.format):
            looked = replace(looked, sound=False)
        tags = read_tags(parameters)
        image = ImageRecord(
            id=new_image_id(),
            name=name,
            size_gib=max(looked.size_gib, wanted_gib),
            created_at=self._clock.now(),
            description=parameters.text("Description"),
            platform=parameters.text("Platform", "Others Linux"),
            boot_mode=parameters.text("BootMode", "BIOS"),
            nvme=parameters.text("Features.NvmeSupport") == "supported",
            tags=tags,
            imported=Import(new_task_id(), source, looked.format, sound=looked.sound),
        )
        _not_dry(parameters)
        self._images.add(image)
        assert image.imported
        return {
            "ImageId": image.id,
            "RegionId": self._settings.region,
            "TaskId": image.imported.task_id,
            "ImportTaskId": image.imported.task_id,
        }

    def _new_name(self, parameters: Parameters) -> str:
        name = parameters.text("ImageName")
        if name and not _NAME.fullmatch(name):
            raise ApiError(400, "InvalidImageName.Malformed", "The specified Image name is wrongly formed.")
        if name and any(each.own and each.name == name for each in self._images):
            raise ApiError(400, "InvalidImageName.Duplicated", "The destination image is exist.")
        return name or f"image-{int(self._clock.now() * 1000)}"

    def _source(self, parameters: Parameters) -> tuple[StoredObject, str, int]:
        """The object to import, and its format and size in GiB as far as the request says them."""
        disks = [Parameters(fields) for fields in parameters.objects("DiskDeviceMapping")]
        if not disks:
            raise ApiError(
                403,
                "MissingParameter.DiskDeviceMapping",
                "The specified parameter DiskDeviceMapping is not supplied.",
            )
        if len(disks) > 1:
            raise invalid("DiskDeviceMapping", "The local cloud imports one disk, the system disk.")
        disk = disks[0]
        disk.accept("DiskImSize", "DiskImageSize", "Format", "OSSBucket", "OSSObject")
        for name in ("OSSBucket", "OSSObject"):
            if not disk.text(name):
                raise missing(f"DiskDeviceMapping.1.{name}")
        image_format = disk.text("Format").upper()
        if image_format not in ("", "RAW", "VHD", "QCOW2"):
            raise ApiError(
                400, "InvalidImageFormat.Malformed", "The specified Image Format is wrongly formed."
            )
        gib = disk.integer("DiskImageSize", 0, low=1, high=LARGEST_GIB) or disk.integer(
            "DiskImSize", 0, low=1, high=LARGEST_GIB
        )
        if not self._settings.image_import_role:
            raise ApiError(
                403,
                "NoSetRoletoECSServiceAcount",
                "ECS service account Have no right to access your OSS.please attach a role of access your oss"
                " to ECS service account.",
            )
        bucket, name = disk.text("OSSBucket"), disk.text("OSSObject")
        if dict(self._settings.buckets).get(bucket) != self._settings.region:
            raise ApiError(
                400, "InvalidOSSBucket.NotFound", "The specified OSS bucket does not exist in this region."
            )
        source = self._store.find(bucket, name)
        if source is None:
            raise ApiError(
                400, "InvalidOSSObject.NotFound", "The specified OSS object does not exist in this region."
            )
        return source, image_format, gib

    def _wanted(self, image: ImageRecord, parameters: Parameters) -> bool:
        values = parameters.values
        public = parameters.boolean("IsPublic")
        alias = values.get("ImageOwnerAlias", "")
        if public and alias != "others":
            raise invalid("IsPublic", "With it, ImageOwnerAlias must be others.")
        # A community image is found only by who asks for such ones.
        if image.own == public or (alias and alias != _alias(image)):
            return False
        statuses = parameters.text("Status", ImageStatus.AVAILABLE).split(",")
        ids = parameters.text("ImageId")
        name = parameters.text("ImageName")
        return (
            (statuses == ["ALL"] or self._images.status(image) in statuses)
            and (not ids or image.id in ids.split(","))
            and (not name or _alike(name, image.name))
            and parameters.text("Architecture", "x86_64") == "x86_64"
            and parameters.text("OSType", "linux") == "linux"
            and wanted_tags(parameters)(image.tags)
        )

    def _describe(self, image: ImageRecord) -> dict[str, Any]:
        progress = f"{self._images.progress(image)}%"
        disk = {"Type": "system", "Device": "/dev/xvda", "Size": str(image.size_gib), "Progress": progress}
        if image.imported:
            disk |= {
                "Format": image.imported.format,
                "ImportOSSBucket": image.imported.source.bucket,
                "ImportOSSObject": image.imported.source.name,
            }
        return {
            "ImageId": image.id,
            "ImageName": image.name,
            "ImageOwnerAlias": _alias(image),
            "ImageOwnerId": int(self._settings.account_id) if image.own else 0,
            "IsPublic": not image.own,
            "IsSelfShared": "",
            "Status": self._images.status(image),
            "Progress": progress,
            "Size": image.size_gib,
            "CreationTime": timestamp(image.created_at),
            "Description": image.description,
            "Architecture": "x86_64",
            "OSType": "linux",
            "OSName": image.platform,
            "Platform": image.platform,
            "BootMode": image.boot_mode,
            "Features": {"NvmeSupport": "supported" if image.nvme else "unsupported"},
            "IsSupportCloudinit": True,
            "IsSupportIoOptimized": True,
            "Usage": "none",
            "DiskDeviceMappings": {"DiskDeviceMapping": [disk]},
            "Tags": show_tags(image.tags),
        }

    def _task(self, image: ImageRecord) -> dict[str, Any]:
        """Empty if the image was not imported."""
        if image.imported is None:
            return {}
        status = self._images.status(image)
        over = status is not ImageStatus.CREATING
        return {
            "TaskId": image.imported.task_id,
            "TaskAction": "ImportImage",
            "TaskStatus": _TASK_STATUS[status],
            "ResourceId": image.id,
            "SupportCancel": "true",
            "CreationTime": timestamp(image.created_at),
            "FinishedTime": timestamp(self._images.finishes_at(image)) if over else "",
        }

    def _task_attribute(self, image: ImageRecord, task: dict[str, Any]) -> dict[str, Any]:
        failed = task["TaskStatus"] == "Failed"
        return {
            **task,
            "RegionId": self._settings.region,
            "TaskProcess": f"{self._images.progress(image)}%",
            "TotalCount": 1,
            "SuccessCount": int(task["TaskStatus"] == "Finished"),
            "FailedCount": int(failed),
            "OperationProgressSet": {
                "OperationProgress": [
                    {
                        "OperationStatus": task["TaskStatus"],
                        "ErrorCode": "ImportImageFailed" if failed else "",
                        "ErrorMsg": self._images.why_failed(image) if failed else "",
                        "RelatedItemSet": {"RelatedItem": [{"Name": "ImageId", "Value": image.id}]},
                    }
                ]
            },
        }


def _alias(image: ImageRecord) -> str:
    return "self" if image.own else "others"


def _alike(wanted: str, name: str) -> bool:
    """ImageName is searched for fuzzily, the reference says: parts of a name match, and so does `*`."""
    return re.search(".*".join(map(re.escape, wanted.split("*"))), name) is not None


def _not_dry(parameters: Parameters) -> None:
    if parameters.boolean("DryRun"):
        raise ApiError(400, "DryRunOperation", "Request validation has been passed with DryRun flag set.")
