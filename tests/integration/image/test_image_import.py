"""From a file to an image, against the local cloud over HTTP."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from caa.errors import (
    AlreadyExistsError,
    CaaError,
    DeadlineExceededError,
    FailedPreconditionError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from caa.fakecloud import Fault, LocalCloud, Timings
from caa.polling import growing, poll

BUCKET = "podvm-images"
MIB = 2**20

Any_ = Any
"""Fixtures' classes live in conftest.py, which can't be imported."""


async def test_a_file_becomes_an_image(cloud: LocalCloud, operator: Any_) -> None:
    image_id = await operator.run()
    (image,) = [each for each in cloud.images if each.id == image_id]
    assert (image.name, image.size_gib, image.boot_mode, image.nvme) == ("podvm", 20, "UEFI", True)
    assert cloud.images.find(image_id) is not None
    assert sorted(operator.parts_sent) == [1, 2, 3, 4, 5, 6]
    assert list(cloud.objects) == []
    assert operator.told.steps == [
        f"Reading the file {5 * MIB + MIB // 2} bytes",
        f"Uploading {5 * MIB + MIB // 2} bytes",
        "Importing 100",
    ]
    assert operator.told.at == 100


async def test_the_object_can_be_kept_and_used_again(cloud: LocalCloud, operator: Any_) -> None:
    await operator.run(keep_object=True, object_name="images/podvm one")
    (kept,) = cloud.objects
    assert (kept.name, kept.content.file.read_bytes()) == ("images/podvm one", operator.file.read_bytes())
    await operator.run(keep_object=True, object_name="images/podvm one", name="podvm2")
    assert len(operator.parts_sent) == 6
    assert "is there already, and is the file" in " ".join(operator.told.lines)


async def test_another_object_is_not_overwritten(cloud: LocalCloud, operator: Any_) -> None:
    await operator.run(keep_object=True)
    operator.file.write_bytes(operator.file.read_bytes() + b"more")
    with pytest.raises(AlreadyExistsError, match=r"another content .*choose another --object"):
        await operator.run(name="podvm2")
    assert len(list(cloud.objects)) == 1


async def test_an_image_of_the_name_is_told(cloud: LocalCloud, operator: Any_) -> None:
    image_id = await operator.run()
    with pytest.raises(AlreadyExistsError, match=f"{image_id}, Available"):
        await operator.run()
    assert len(operator.parts_sent) == 6


async def test_a_name_that_is_only_alike_is_free(cloud: LocalCloud, operator: Any_) -> None:
    await operator.run(name="podvm-fedora")
    await operator.run(name="podvm")


async def test_lost_answers_do_no_harm(cloud: LocalCloud, operator: Any_) -> None:
    cloud.faults.add(Fault(action="UploadPart", nth=2, times=1, drop="after"))
    cloud.faults.add(Fault(action="UploadPart", nth=4, times=1, drop="before"))
    cloud.faults.add(Fault(action="ListParts", code="InternalError", status=500))
    cloud.faults.add(Fault(action="ImportImage", drop="after"))
    image_id = await operator.run()
    assert [each.id for each in cloud.images if each.imported] == [image_id]


async def test_an_upload_that_broke_off_goes_on(cloud: LocalCloud, operator: Any_) -> None:
    cloud.faults.add(Fault(action="UploadPart", nth=4, times=100, code="AccessDenied", status=403))
    with pytest.raises(PermissionDeniedError, match=r"interrupted.*UploadPart: AccessDenied.*oss:PutObject"):
        await operator.run()
    arrived = operator.parts_sent
    assert len(arrived) == 3
    assert "--discard" in operator.told.lines[-1]
    cloud.faults.clear()
    await operator.run()
    assert sorted(operator.parts_sent) == [1, 2, 3, 4, 5, 6]
    assert cloud.objects.uploads(BUCKET) == []


async def test_only_changed_parts_of_a_changed_file_are_sent_again(cloud: LocalCloud, operator: Any_) -> None:
    cloud.faults.add(Fault(action="CompleteMultipartUpload", code="AccessDenied", status=403))
    with pytest.raises(PermissionDeniedError):
        await operator.run()
    content = bytearray(operator.file.read_bytes())
    content[2 * MIB + 7] ^= 1
    operator.file.write_bytes(content)
    await operator.run(keep_object=True)
    assert sorted(operator.parts_sent) == [1, 2, 3, 3, 4, 5, 6]
    (made,) = cloud.objects
    assert made.content.file.read_bytes() == bytes(content)


async def test_a_file_that_changes_under_way_is_noticed(cloud: LocalCloud, operator: Any_) -> None:
    cloud.faults.add(Fault(action="InitiateMultipartUpload", delay=0.2))
    running = asyncio.create_task(operator.run())
    await _seen(lambda: cloud.calls.of("InitiateMultipartUpload"))
    content = operator.file.read_bytes()
    operator.file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FailedPreconditionError, match="changed while it was uploaded"):
        await running
    assert list(cloud.objects) == []


async def test_a_file_that_shrinks_under_way_is_noticed(cloud: LocalCloud, operator: Any_) -> None:
    cloud.faults.add(Fault(action="InitiateMultipartUpload", delay=0.2))
    running = asyncio.create_task(operator.run())
    await _seen(lambda: cloud.calls.of("InitiateMultipartUpload"))
    operator.file.write_bytes(operator.file.read_bytes()[:-MIB])
    with pytest.raises(FailedPreconditionError, match="changed while it was uploaded"):
        await running


async def test_cancelled_it_says_how_to_go_on(cloud: LocalCloud, operator: Any_) -> None:
    cloud.faults.add(Fault(action="UploadPart", nth=3, times=100, delay=0.5))
    running = asyncio.create_task(operator.run())
    await _seen(lambda: len(operator.parts_sent) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "of 6 MiB have arrived in oss://podvm-images" in operator.told.lines[-1]


async def test_an_import_under_way_is_waited_for(
    start_cloud: Any_, make_operator: Callable[[LocalCloud], Any_]
) -> None:
    async with start_cloud(timings=Timings(importing=0.6)) as cloud:
        operator = make_operator(cloud)
        running = asyncio.create_task(operator.run())
        await _seen(lambda: cloud.calls.of("ImportImage"))
        await _seen(lambda: "Importing 100" in operator.told.steps)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert "caa image ls" in operator.told.lines[-1]
        image_id = await operator.run()
        assert [each.id for each in cloud.images if each.imported] == [image_id]
        assert len(operator.parts_sent) == 6
        assert list(cloud.objects) == []


async def test_a_failed_import_tells_the_clouds_reason(
    start_cloud: Any_, make_operator: Callable[[LocalCloud], Any_]
) -> None:
    async with start_cloud(timings=Timings(importing=0.3)) as cloud:
        running = asyncio.create_task(make_operator(cloud).run())
        await _seen(lambda: [each for each in cloud.images if each.imported])
        cloud.objects.delete(BUCKET, "podvm.qcow2")
        with pytest.raises(FailedPreconditionError, match=r"CreateFailed.*ImportImageFailed.*aliyun oss"):
            await running


async def test_waiting_ends(start_cloud: Any_, make_operator: Callable[[LocalCloud], Any_]) -> None:
    async with start_cloud(timings=Timings(importing=1000)) as cloud:
        operator = make_operator(cloud)
        with pytest.raises(DeadlineExceededError, match=r"image m-\w+ after 0.5 s; last seen: Creating, 0%"):
            await operator.run(timeout=0.5)
        assert "the same command waits for it again" in operator.told.lines[-1]
        assert len(list(cloud.objects)) == 1


@pytest.mark.parametrize(
    ("settings", "raises", "said"),
    [
        ({"image_import_role": False}, PermissionDeniedError, "aliyun ram CreateRole"),
        ({"image_quota": 1}, ResourceExhaustedError, "caa image ls"),
        (
            {"policy": "published", "allow": ("oss:*", "ecs:DescribeImages")},
            PermissionDeniedError,
            "grant ecs:ImportImage .*the daemon does not need it",
        ),
        ({"policy": "published"}, PermissionDeniedError, "grant ecs:DescribeImages"),
        (
            {"policy": "published", "allow": ("ecs:*",)},
            PermissionDeniedError,
            "GetBucketInfo: AccessDenied for oss://podvm-images: .*grant oss:GetBucketInfo",
        ),
    ],
)
async def test_refusals_say_what_to_do(
    start_cloud: Any_,
    make_operator: Callable[[LocalCloud], Any_],
    settings: dict[str, Any],
    raises: type[CaaError],
    said: str,
) -> None:
    async with start_cloud(**settings) as cloud:
        with pytest.raises(raises, match=said):
            await make_operator(cloud).run()


async def test_what_was_uploaded_serves_the_next_try(
    start_cloud: Any_, make_operator: Callable[[LocalCloud], Any_]
) -> None:
    async with start_cloud() as cloud:
        operator = make_operator(cloud)
        cloud.faults.add(Fault(action="ImportImage", code="NoSetRoletoECSServiceAccount", status=403))
        with pytest.raises(PermissionDeniedError, match="AliyunECSImageImportDefaultRole"):
            await operator.run()
        await operator.run()
        assert len(operator.parts_sent) == 6


@pytest.mark.parametrize(
    ("changes", "raises", "said"),
    [
        ({"bucket": "no-such"}, FailedPreconditionError, "NoSuchBucket.*aliyun oss mb"),
        ({"bucket": "podvm-far"}, FailedPreconditionError, "is in cn-hangzhou.*--region cn-hangzhou"),
        (
            {"oss_endpoint": "http://127.0.0.1:9"},
            UnavailableError,
            "no answer from http://127.0.0.1:9 .*refused",
        ),
    ],
)
async def test_the_bucket_is_looked_at_first(
    cloud: LocalCloud,
    operator: Any_,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    raises: type[CaaError],
    said: str,
) -> None:
    monkeypatch.setattr("caa.image.bucket.MAX_ATTEMPTS", 1)
    with pytest.raises(raises, match=said):
        await operator.run(**changes)
    assert operator.told.steps == []


async def test_a_session_may_end_during_the_upload(
    start_cloud: Any_, make_operator: Callable[[LocalCloud], Any_]
) -> None:
    async with start_cloud(credentials="rrsa", session_seconds=2) as cloud:
        operator = make_operator(cloud)
        cloud.faults.add(Fault(action="UploadPart", times=100, delay=1.2))
        await operator.run()
        assert len(cloud.calls.of("AssumeRoleWithOIDC")) >= 2
        assert {call.outcome for call in cloud.calls.of("UploadPart")} == {"ok"}


async def test_a_session_that_was_revoked_is_renewed(
    start_cloud: Any_, make_operator: Callable[[LocalCloud], Any_]
) -> None:
    async with start_cloud(credentials="rrsa") as cloud:
        cloud.faults.add(Fault(action="UploadPart", nth=3, code="SecurityTokenExpired", status=403))
        await make_operator(cloud).run()
        assert len(cloud.calls.of("AssumeRoleWithOIDC")) == 2


async def test_over_tls_with_a_ca_of_its_own(
    start_cloud: Any_, make_operator: Callable[[LocalCloud], Any_]
) -> None:
    async with start_cloud(tls=True) as cloud:
        await make_operator(cloud).run()


async def _seen(look: Callable[[], object]) -> None:
    async def ask() -> tuple[object | None, str]:
        return look() or None, "not yet"

    await poll(ask, what="the moment", pauses=growing(0.01, longest=0.02), timeout=20)
