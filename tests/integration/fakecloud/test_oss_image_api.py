"""ImportImage and what goes with it, by the unmodified SDK."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_ecs20140526 import models
from alibabacloud_ecs20140526.client import Client as EcsClient
from Tea.exceptions import TeaException

from caa.fakecloud import FakeCloudSettings, LocalCloud, Timings
from caa.fakecloud.clock import SystemClock
from caa.fakecloud.oss_store import Content

BUCKET = "podvm-images"
DISK = bytes(510) + b"\x55\xaa" + bytes(512)
ALL = "ALL"


class StillClock(SystemClock):
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.at = super().now()

    def now(self) -> float:
        return self.at


def slow_import(folder: Path, clock: StillClock) -> LocalCloud:
    settings = FakeCloudSettings(
        dir=folder / "cloud", credentials="keys", policy="full", timings=Timings(importing=100)
    )
    return LocalCloud(settings, clock=clock)


@pytest.fixture
def put() -> Callable[..., None]:
    """Puts an object into a local cloud's bucket, without HTTP."""

    def put(cloud: LocalCloud, name: str, content: bytes = DISK) -> None:
        file = cloud.settings.dir / "oss" / f"put-{name}"
        file.write_bytes(content)
        cloud.objects.put(BUCKET, name, Content(file, len(content)))

    return put


def order(name: str = "podvm", **changes: Any) -> models.ImportImageRequest:
    known: dict[str, Any] = {
        "region_id": "cn-beijing",
        "image_name": name,
        "boot_mode": "UEFI",
        "features": models.ImportImageRequestFeatures(nvme_support="supported"),
        "disk_device_mapping": [
            models.ImportImageRequestDiskDeviceMapping(ossbucket=BUCKET, ossobject="podvm.raw")
        ],
    }
    return models.ImportImageRequest(**(known | changes))


async def describe(ecs: EcsClient, **changes: Any) -> list[Any]:
    request = models.DescribeImagesRequest(region_id="cn-beijing", **changes)
    answer = await asyncio.to_thread(ecs.describe_images, request)
    return list(answer.body.images.image)


async def refused(call: Callable[[Any], Any], request: Any) -> tuple[int, str]:
    with pytest.raises(TeaException) as failure:
        await asyncio.to_thread(call, request)
    return failure.value.statusCode, failure.value.code


async def test_an_object_becomes_an_image(tmp_path: Path, sdk: Any, put: Any) -> None:
    clock = StillClock()
    async with slow_import(tmp_path, clock) as cloud:
        ecs = sdk.ecs(cloud)
        put(cloud, "podvm.raw")
        answer = (await asyncio.to_thread(ecs.import_image, order("fedora"))).body
        assert await describe(ecs, image_id=answer.image_id) == []
        clock.at += 25
        (image,) = await describe(ecs, image_id=answer.image_id, status=ALL)
        assert (image.status, image.progress) == ("Creating", "25%")
        assert await refused(ecs.run_instances, sdk.run_request(cloud, image_id=answer.image_id)) == (
            404,
            "InvalidImageId.NotFound",
        )
        assert await refused(
            ecs.delete_image, models.DeleteImageRequest(region_id="cn-beijing", image_id=answer.image_id)
        ) == (403, "ImageIsImporting")
        clock.at += 75
        (image,) = await describe(ecs, image_name="edor")
        assert (image.status, image.progress, image.boot_mode) == ("Available", "100%", "UEFI")
        assert image.features.nvme_support == "supported"
        (disk,) = image.disk_device_mappings.disk_device_mapping
        assert (disk.format, disk.import_ossbucket, disk.import_ossobject) == ("RAW", BUCKET, "podvm.raw")
        tasks = await asyncio.to_thread(
            ecs.describe_tasks, models.DescribeTasksRequest(region_id="cn-beijing", task_ids=answer.task_id)
        )
        (task,) = tasks.body.task_set.task
        assert (task.task_status, task.resource_id) == ("Finished", image.image_id)
        await asyncio.to_thread(ecs.run_instances, sdk.run_request(cloud, image_id=image.image_id))
        delete = models.DeleteImageRequest(region_id="cn-beijing", image_id=image.image_id)
        await asyncio.to_thread(ecs.delete_image, delete)
        await asyncio.to_thread(ecs.delete_image, delete)
        assert await describe(ecs, image_id=image.image_id, status=ALL) == []


@pytest.mark.parametrize("fate", ["removed", "broken", "another format"])
async def test_an_import_can_fail(tmp_path: Path, sdk: Any, put: Any, fate: str) -> None:
    clock = StillClock()
    async with slow_import(tmp_path, clock) as cloud:
        ecs = sdk.ecs(cloud)
        put(cloud, "podvm.raw", b"no disk" if fate == "broken" else DISK)
        request = order()
        if fate == "another format":
            request.disk_device_mapping[0].format = "QCOW2"
        image_id = (await asyncio.to_thread(ecs.import_image, request)).body.image_id
        clock.at += 50
        if fate == "removed":
            cloud.objects.delete(BUCKET, "podvm.raw")
        clock.at += 51
        (image,) = await describe(ecs, image_id=image_id, status="CreateFailed")
        listed = await asyncio.to_thread(
            ecs.describe_tasks,
            models.DescribeTasksRequest(region_id="cn-beijing", resource_ids=[image.image_id]),
        )
        (task,) = listed.body.task_set.task
        assert task.task_status == "Failed"
        told = await asyncio.to_thread(
            ecs.describe_task_attribute,
            models.DescribeTaskAttributeRequest(region_id="cn-beijing", task_id=task.task_id),
        )
        (step,) = told.body.operation_progress_set.operation_progress
        assert step.error_code == "ImportImageFailed"
        assert ("deleted" in step.error_msg) is (fate == "removed")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"image_name": "1"}, (400, "InvalidImageName.Malformed")),
        ({"image_name": "taken"}, (400, "InvalidImageName.Duplicated")),
        ({"platform": "Plan 9"}, (400, "InvalidPlatform.Malformed")),
        ({"boot_mode": "Open Firmware"}, (400, "InvalidParameter")),
        ({"disk_device_mapping": []}, (403, "MissingParameter.DiskDeviceMapping")),
        (
            {
                "disk_device_mapping": [
                    models.ImportImageRequestDiskDeviceMapping(ossbucket="podvm-far", ossobject="x")
                ]
            },
            (400, "InvalidOSSBucket.NotFound"),
        ),
        (
            {
                "disk_device_mapping": [
                    models.ImportImageRequestDiskDeviceMapping(ossbucket=BUCKET, ossobject="x")
                ]
            },
            (400, "InvalidOSSObject.NotFound"),
        ),
        ({"dry_run": True}, (400, "DryRunOperation")),
    ],
)
async def test_what_can_not_be_imported(
    cloud: LocalCloud, ecs: EcsClient, put: Any, changes: dict[str, Any], refusal: tuple[int, str]
) -> None:
    put(cloud, "podvm.raw")
    await asyncio.to_thread(ecs.import_image, order("taken"))
    assert await refused(ecs.import_image, order(**changes)) == refusal


async def test_the_service_role_and_the_quota(start_cloud: Any, sdk: Any, put: Any) -> None:
    async with start_cloud(credentials="keys", policy="full", image_import_role=False) as cloud:
        put(cloud, "podvm.raw")
        refusal = await refused(sdk.ecs(cloud).import_image, order())
        assert refusal == (403, "NoSetRoletoECSServiceAcount")
    async with start_cloud(credentials="keys", policy="full", image_quota=1) as cloud:
        put(cloud, "podvm.raw")
        assert await refused(sdk.ecs(cloud).import_image, order()) == (403, "QuotaExceed.Image")


async def test_whose_images_are_found(cloud: LocalCloud, ecs: EcsClient) -> None:
    community, own = (image.id for image in cloud.settings.images)
    assert [each.image_id for each in await describe(ecs)] == [own]
    assert [each.image_id for each in await describe(ecs, image_owner_alias="self")] == [own]
    assert await describe(ecs, image_id=community) == []
    (found,) = await describe(ecs, image_id=community, image_owner_alias="others", is_public=True)
    assert (found.image_owner_alias, found.is_public) == ("others", True)


async def test_one_token_makes_one_image(cloud: LocalCloud, ecs: EcsClient, put: Any) -> None:
    put(cloud, "podvm.raw")
    first = await asyncio.to_thread(ecs.import_image, order(client_token="once"))
    again = await asyncio.to_thread(ecs.import_image, order(client_token="once"))
    assert first.body.image_id == again.body.image_id
    other = await refused(ecs.import_image, order("other", client_token="once"))
    assert other[1] == "IdempotentParameterMismatch"
