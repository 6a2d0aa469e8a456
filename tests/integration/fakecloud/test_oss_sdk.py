"""The local cloud's OSS, driven by the unmodified SDK over HTTP."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import alibabacloud_oss_v2 as oss
import pytest
import requests
from alibabacloud_oss_v2.exceptions import OperationError, ServiceError

from caa.fakecloud import Fault, LocalCloud

BUCKET = "podvm-images"
PART = 100 * 1024

OpenBucket = Callable[..., oss.Client]


@pytest.fixture
def bucket() -> Iterator[OpenBucket]:
    """Makes clients of a local cloud's OSS, with the account's key unless told otherwise."""
    sessions: list[requests.Session] = []

    def make(cloud: LocalCloud, **changes: Any) -> oss.Client:
        sessions.append(requests.Session())
        known = {
            "region": "cn-beijing",
            "endpoint": cloud.oss_endpoint,
            "credentials_provider": oss.credentials.StaticCredentialsProvider(
                cloud.keys.own.id, cloud.keys.own.secret
            ),
            "http_client": oss.transport.RequestsHttpClient(session=sessions[-1]),
            "retry_max_attempts": 1,
        }
        return oss.Client(oss.Config(**(known | changes)))

    yield make
    for session in sessions:
        session.close()


async def call(function: Callable[..., Any], request: Any) -> Any:
    return await asyncio.to_thread(function, request)


async def refused(function: Callable[..., Any], request: Any) -> ServiceError:
    with pytest.raises(OperationError) as failure:
        await call(function, request)
    error = failure.value.unwrap()
    assert isinstance(error, ServiceError)
    return error


@pytest.mark.parametrize("version", ["v4", "v1"])
async def test_an_object_is_put_found_and_deleted(
    cloud: LocalCloud, bucket: OpenBucket, version: str
) -> None:
    client = bucket(cloud, signature_version=version)
    name = "images/pod vm+ü.qcow2"
    made = await call(client.put_object, oss.PutObjectRequest(BUCKET, name, body=b"content"))
    assert made.etag == f'"{hashlib.md5(b"content").hexdigest().upper()}"'
    head = await call(client.head_object, oss.HeadObjectRequest(BUCKET, name))
    assert (head.content_length, head.hash_crc64, head.object_type) == (7, made.hash_crc64, "Normal")
    await call(client.delete_object, oss.DeleteObjectRequest(BUCKET, name))
    error = await refused(client.head_object, oss.HeadObjectRequest(BUCKET, name))
    assert (error.status_code, error.code) == (404, "NoSuchKey")
    await call(client.delete_object, oss.DeleteObjectRequest(BUCKET, name))
    assert list((cloud.settings.dir / "oss").iterdir()) == []


@pytest.mark.parametrize("version", ["v4", "v1"])
async def test_an_upload_in_parts(cloud: LocalCloud, bucket: OpenBucket, version: str) -> None:
    client = bucket(cloud, signature_version=version)
    content = random.Random(1).randbytes(2 * PART + 5)
    begun = await call(client.initiate_multipart_upload, oss.InitiateMultipartUploadRequest(BUCKET, "a b"))
    assert (begun.bucket, begun.key) == (BUCKET, "a b")
    for number in (3, 1, 2):
        body = content[(number - 1) * PART : number * PART]
        await call(
            client.upload_part,
            oss.UploadPartRequest(BUCKET, "a b", upload_id=begun.upload_id, part_number=number, body=body),
        )
    listed = await call(client.list_multipart_uploads, oss.ListMultipartUploadsRequest(BUCKET, prefix="a"))
    assert [(each.key, each.upload_id) for each in listed.uploads] == [("a b", begun.upload_id)]
    pages = await call(
        lambda request: list(client.list_parts_paginator(limit=2).iter_page(request)),
        oss.ListPartsRequest(BUCKET, "a b", upload_id=begun.upload_id),
    )
    parts = [part for page in pages for part in page.parts]
    assert [(part.part_number, part.size) for part in parts] == [(1, PART), (2, PART), (3, 5)]
    done = await call(
        client.complete_multipart_upload,
        oss.CompleteMultipartUploadRequest(
            BUCKET,
            "a b",
            upload_id=begun.upload_id,
            complete_multipart_upload=oss.CompleteMultipartUpload(
                parts=[oss.UploadPart(part_number=part.part_number, etag=part.etag) for part in parts]
            ),
        ),
    )
    assert done.etag.endswith('-3"')
    stored = cloud.objects.find(BUCKET, "a b")
    assert stored
    assert stored.content.file.read_bytes() == content
    assert done.hash_crc64 == str(stored.content.crc64)
    assert list((cloud.settings.dir / "oss").iterdir()) == [stored.content.file]
    gone = await refused(
        client.abort_multipart_upload,
        oss.AbortMultipartUploadRequest(BUCKET, "a b", upload_id=begun.upload_id),
    )
    assert (gone.status_code, gone.code) == (404, "NoSuchUpload")


async def test_uploads_are_listed_in_pages_and_aborted(cloud: LocalCloud, bucket: OpenBucket) -> None:
    client = bucket(cloud)
    begun = set()
    for name in ("b", "a", "b", "c"):
        answer = await call(
            client.initiate_multipart_upload, oss.InitiateMultipartUploadRequest(BUCKET, name)
        )
        begun.add((name, answer.upload_id))
    request = oss.ListMultipartUploadsRequest(BUCKET)
    pages = await call(
        lambda each: list(client.list_multipart_uploads_paginator(limit=1).iter_page(each)), request
    )
    found = [(each.key, each.upload_id) for page in pages for each in page.uploads or ()]
    assert found == sorted(begun)
    for name, upload_id in begun:
        await call(
            client.abort_multipart_upload, oss.AbortMultipartUploadRequest(BUCKET, name, upload_id=upload_id)
        )
    assert cloud.objects.uploads(BUCKET) == []


@pytest.mark.parametrize(
    ("sizes", "listed", "code"),
    [
        ((PART - 1, 10), (1, 2), "EntityTooSmall"),
        ((PART, 10), (2, 1), "InvalidPartOrder"),
        ((PART, 10), (1, 3), "InvalidPart"),
        ((PART, 10), (), "InvalidPartOrder"),
    ],
)
async def test_parts_that_make_no_object(
    cloud: LocalCloud, bucket: OpenBucket, sizes: tuple[int, ...], listed: tuple[int, ...], code: str
) -> None:
    client = bucket(cloud)
    begun = await call(client.initiate_multipart_upload, oss.InitiateMultipartUploadRequest(BUCKET, "x"))
    etags = {3: '"0"'}
    for number, size in enumerate(sizes, 1):
        answer = await call(
            client.upload_part,
            oss.UploadPartRequest(
                BUCKET, "x", upload_id=begun.upload_id, part_number=number, body=bytes(size)
            ),
        )
        etags[number] = answer.etag
    parts = [oss.UploadPart(part_number=number, etag=etags[number]) for number in listed]
    error = await refused(
        client.complete_multipart_upload,
        oss.CompleteMultipartUploadRequest(
            BUCKET,
            "x",
            upload_id=begun.upload_id,
            complete_multipart_upload=oss.CompleteMultipartUpload(parts=parts),
        ),
    )
    assert (error.status_code, error.code) == (400, code)
    assert cloud.objects.find(BUCKET, "x") is None


async def test_buckets(cloud: LocalCloud, bucket: OpenBucket) -> None:
    client = bucket(cloud)
    info = await call(client.get_bucket_info, oss.GetBucketInfoRequest(BUCKET))
    assert info.bucket_info.location == "oss-cn-beijing"
    location = await call(client.get_bucket_location, oss.GetBucketLocationRequest(BUCKET))
    assert location.location == "oss-cn-beijing"
    missing = await refused(client.get_bucket_info, oss.GetBucketInfoRequest("no-such"))
    assert (missing.status_code, missing.code) == (404, "NoSuchBucket")
    far = await refused(client.get_bucket_info, oss.GetBucketInfoRequest("podvm-far"))
    assert (far.status_code, far.code) == (403, "AccessDenied")
    assert far.error_fileds["Endpoint"] == "oss-cn-hangzhou.aliyuncs.com"
    other = await refused(client.list_objects_v2, oss.ListObjectsV2Request(BUCKET))
    assert other.status_code == 501


@pytest.mark.parametrize("version", ["v4", "v1"])
async def test_a_wrong_secret_is_refused(cloud: LocalCloud, bucket: OpenBucket, version: str) -> None:
    wrong = oss.credentials.StaticCredentialsProvider(cloud.keys.own.id, "wrong")
    client = bucket(cloud, credentials_provider=wrong, signature_version=version)
    error = await refused(client.put_object, oss.PutObjectRequest(BUCKET, "x", body=b"content"))
    assert (error.status_code, error.code) == (403, "SignatureDoesNotMatch")
    assert [call.signature for call in cloud.calls.of("PutObject")] == ["SignatureDoesNotMatch"]
    assert cloud.objects.find(BUCKET, "x") is None


@pytest.mark.parametrize("version", ["v4", "v1"])
async def test_a_changed_request_is_refused(cloud: LocalCloud, bucket: OpenBucket, version: str) -> None:
    class Meddling(requests.Session):
        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
            assert request.url
            request.url = request.url.replace("/x", "/y")
            return super().send(request, **kwargs)

    with Meddling() as session:
        http = oss.transport.RequestsHttpClient(session=session)
        client = bucket(cloud, http_client=http, signature_version=version)
        error = await refused(client.put_object, oss.PutObjectRequest(BUCKET, "x", body=b"content"))
    assert error.code == "SignatureDoesNotMatch"


async def test_keys_that_are_not_good(cloud: LocalCloud, bucket: OpenBucket) -> None:
    request = oss.HeadObjectRequest(BUCKET, "x")
    session = cloud.keys.issue(3600)
    expired = cloud.keys.issue(-1)
    for key, token, code in (
        ("LTAI5tnobody", None, "InvalidAccessKeyId"),
        (session.id, None, "InvalidSecurityToken"),
        (expired.id, expired.session_token, "SecurityTokenExpired"),
        (session.id, session.session_token, "NoSuchKey"),
    ):
        secret = {session.id: session.secret, expired.id: expired.secret}.get(key, "x")
        provider = oss.credentials.StaticCredentialsProvider(key, secret, token)
        error = await refused(bucket(cloud, credentials_provider=provider).head_object, request)
        assert error.code == code
    anonymous = bucket(cloud, credentials_provider=oss.credentials.AnonymousCredentialsProvider())
    assert (await refused(anonymous.head_object, request)).code == "AccessDenied"


async def test_the_region_is_part_of_the_signature(cloud: LocalCloud, bucket: OpenBucket) -> None:
    client = bucket(cloud, region="cn-hangzhou")
    error = await refused(client.head_object, oss.HeadObjectRequest(BUCKET, "x"))
    assert (error.status_code, error.code) == (400, "InvalidArgument")


async def test_more_headers_can_be_signed(cloud: LocalCloud, bucket: OpenBucket) -> None:
    client = bucket(cloud, additional_headers=["range", "user-agent"])
    error = await refused(client.head_object, oss.HeadObjectRequest(BUCKET, "x", range_header="bytes=0-1"))
    assert error.code == "NoSuchKey"


async def test_too_many_parameters(cloud: LocalCloud) -> None:
    url = f"{cloud.oss_endpoint}/{BUCKET}?" + "&".join(map(str, range(200)))
    answer = await asyncio.to_thread(requests.get, url, timeout=10)
    assert answer.status_code == 400


async def test_rights_are_those_of_the_policy(start_cloud: Any, bucket: OpenBucket) -> None:
    async with start_cloud(credentials="keys", allow=("oss:PutObject",)) as cloud:
        client = bucket(cloud)
        await call(client.put_object, oss.PutObjectRequest(BUCKET, "x", body=b"content"))
        error = await refused(client.delete_object, oss.DeleteObjectRequest(BUCKET, "x"))
        assert (error.status_code, error.code) == (403, "AccessDenied")
        assert cloud.objects.find(BUCKET, "x") is not None


async def test_a_bucket_can_be_part_of_the_host_name(cloud: LocalCloud, bucket: OpenBucket) -> None:
    """As at the real one; here the name is sent to the listener whatever it would resolve to."""

    class ToListener(requests.Session):
        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
            assert request.url
            host = request.url.split("/")[2]
            request.headers["Host"] = host
            request.url = request.url.replace(f"http://{host}", cloud.oss_endpoint)
            return super().send(request, **kwargs)

    with ToListener() as session:
        client = bucket(
            cloud,
            endpoint="http://oss-cn-beijing.aliyuncs.com",
            http_client=oss.transport.RequestsHttpClient(session=session),
        )
        await call(client.put_object, oss.PutObjectRequest(BUCKET, "x/y", body=b"content"))
    assert cloud.objects.find(BUCKET, "x/y") is not None


async def test_faults_strike_operations_by_their_names(cloud: LocalCloud, bucket: OpenBucket) -> None:
    cloud.faults.add(Fault(action="PutObject", drop="after"))
    cloud.faults.add(Fault(action="HeadObject", code="InternalError", status=500))
    client = bucket(cloud)
    with pytest.raises(OperationError):
        await call(client.put_object, oss.PutObjectRequest(BUCKET, "x", body=b"content"))
    assert cloud.objects.find(BUCKET, "x") is not None
    assert [call.outcome for call in cloud.calls.of("PutObject")] == ["dropped"]
    assert (await refused(client.head_object, oss.HeadObjectRequest(BUCKET, "x"))).status_code == 500
    await call(client.head_object, oss.HeadObjectRequest(BUCKET, "x"))


async def test_contents_are_gone_when_the_cloud_is(start_cloud: Any, bucket: OpenBucket) -> None:
    async with start_cloud(credentials="keys", policy="full") as cloud:
        await call(bucket(cloud).put_object, oss.PutObjectRequest(BUCKET, "x", body=b"content"))
        folder = cloud.settings.dir / "oss"
        assert len(list(folder.iterdir())) == 1
    assert not folder.exists()
