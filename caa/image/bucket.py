"""One OSS bucket, by the SDK that Alibaba Cloud keeps for it (alibabacloud-oss-v2).

Not oss2, its predecessor: that one brings the cloud's previous core SDK along, which the rest of caa does
without. Calls are synchronous, as the SDK's are: they belong into threads. The SDK repeats a request that got
no answer, and checks what was sent by its CRC64.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import alibabacloud_oss_v2 as oss
import requests
from alibabacloud_oss_v2.crc import Crc64
from alibabacloud_oss_v2.exceptions import OperationError, RequestError, ResponseError, ServiceError
from alibabacloud_oss_v2.retry import StandardRetryer
from alibabacloud_oss_v2.transport import RequestsHttpClient

import caa
from caa.errors import (
    AbortedError,
    CaaError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from caa.providers.alibabacloud import Credentials

T = TypeVar("T")


class StoppedError(Exception):
    """A request is not to be sent, or not any further."""


class KeyRefusedError(PermissionDeniedError):
    """The key is not, or no longer, good. OSS does not always say of a session that it is over: to it, an old
    session's key may just be unknown.
    """


MAX_ATTEMPTS = 6
"""For each request."""
LONGEST_PAUSE = 5.0
"""Seconds between two of them."""
_PERMISSIONS = {
    "CompleteMultipartUpload": "PutObject",
    "HeadObject": "GetObject",
    "InitiateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
}
"""RAM's name for an operation, where it is another one (OSS's page on RAM policies)."""

_KEYS = "check ALIBABACLOUD_ACCESS_KEY_ID, ALIBABACLOUD_ACCESS_KEY_SECRET and ALIBABACLOUD_SECURITY_TOKEN"
_REMEDIES: dict[str, tuple[type[CaaError], str]] = {
    "AccessDenied": (
        PermissionDeniedError,
        "grant {permission} to the RAM user or role of these credentials",
    ),
    "InvalidAccessKeyId": (KeyRefusedError, _KEYS),
    "InvalidSecurityToken": (KeyRefusedError, _KEYS),
    "NoSuchBucket": (FailedPreconditionError, "check --bucket, or make it: aliyun oss mb oss://…"),
    "NoSuchUpload": (AbortedError, "somebody completed or removed this upload meanwhile: begin again"),
    "RequestTimeTooSkewed": (PermissionDeniedError, "check this computer's clock"),
    "SecurityTokenExpired": (KeyRefusedError, _KEYS),
    "SignatureDoesNotMatch": (PermissionDeniedError, _KEYS),
    "UserDisable": (FailedPreconditionError, "OSS is not activated for this account, or payment is due"),
}
"""By code: the error that it becomes, and what to do."""


@dataclass(frozen=True)
class StoredObject:
    size: int
    crc64: int | None


@dataclass(frozen=True)
class StoredPart:
    number: int
    size: int
    etag: str
    crc64: int | None


class Bucket:
    """Must be closed. Before each call, the credentials must be ready. Every method raises CaaError."""

    def __init__(
        self, name: str, *, region: str, endpoint: str, ca_file: str, credentials: Credentials
    ) -> None:
        """`endpoint` is a host or a URL, or empty for the region's."""
        self.name = name
        self.stopped = threading.Event()
        """Set it, and requests in other threads end soon, with StoppedError or for want of another try."""
        self._credentials = credentials
        self._session = _Session(ca_file)
        self._endpoint = endpoint or f"oss-{region}.aliyuncs.com"
        self._region = region
        config = oss.Config(
            region=region,
            endpoint=self._endpoint,
            credentials_provider=oss.credentials.CredentialsProviderFunc(self._key),
            http_client=RequestsHttpClient(session=self._session),
            retryer=_Retryer(self.stopped),
            retry_max_attempts=MAX_ATTEMPTS,
            user_agent=f"caa/{caa.__version__}",
        )
        self._oss = oss.Client(config)

    def close(self) -> None:
        self._session.close()

    def region(self) -> str:
        """Where the bucket is."""
        answer = self._call("GetBucketInfo", self._oss.get_bucket_info, oss.GetBucketInfoRequest(self.name))
        return str(answer.bucket_info.location or "").removeprefix("oss-")

    def find(self, name: str) -> StoredObject | None:
        request = oss.HeadObjectRequest(self.name, name)
        try:
            found = self._call("HeadObject", self._oss.head_object, request, name)
        except NotFoundError:
            return None
        return StoredObject(int(found.content_length or 0), _number(found.hash_crc64))

    def uploads(self, name: str) -> list[str]:
        """Ids of the uploads of this object that are not complete."""
        pages = self._oss.list_multipart_uploads_paginator().iter_page(
            oss.ListMultipartUploadsRequest(bucket=self.name, prefix=name)
        )
        return [
            str(each.upload_id)
            for page in self._pages("ListMultipartUploads", pages, name)
            for each in page.uploads or ()
            if each.key == name
        ]

    def parts(self, name: str, upload_id: str) -> list[StoredPart]:
        pages = self._oss.list_parts_paginator().iter_page(
            oss.ListPartsRequest(bucket=self.name, key=name, upload_id=upload_id)
        )
        return [
            StoredPart(int(part.part_number), int(part.size), str(part.etag), _number(part.hash_crc64))
            for page in self._pages("ListParts", pages, name)
            for part in page.parts or ()
        ]

    def begin(self, name: str) -> str:
        """The id of a new upload."""
        request = oss.InitiateMultipartUploadRequest(
            bucket=self.name, key=name, content_type="application/octet-stream"
        )
        answer = self._call("InitiateMultipartUpload", self._oss.initiate_multipart_upload, request, name)
        return str(answer.upload_id)

    def send(self, name: str, upload_id: str, number: int, body: Any) -> StoredPart:
        """Upload one part. `body` is a file with a length. Also raises what reading it raises."""
        request = oss.UploadPartRequest(
            bucket=self.name, key=name, upload_id=upload_id, part_number=number, body=body
        )
        answer = self._call("UploadPart", self._oss.upload_part, request, name)
        return StoredPart(number, len(body), str(answer.etag), _number(answer.hash_crc64))

    def complete(self, name: str, upload_id: str, parts: list[StoredPart]) -> int | None:
        """Make the object of its parts; its CRC64."""
        listed = [
            oss.UploadPart(part_number=part.number, etag=part.etag)
            for part in sorted(parts, key=lambda each: each.number)
        ]
        request = oss.CompleteMultipartUploadRequest(
            bucket=self.name,
            key=name,
            upload_id=upload_id,
            complete_multipart_upload=oss.CompleteMultipartUpload(parts=listed),
        )
        answer = self._call("CompleteMultipartUpload", self._oss.complete_multipart_upload, request, name)
        return _number(answer.hash_crc64)

    def abort(self, name: str, upload_id: str) -> None:
        """Remove an upload and its parts. One that is gone is no error."""
        request = oss.AbortMultipartUploadRequest(bucket=self.name, key=name, upload_id=upload_id)
        try:
            self._call("AbortMultipartUpload", self._oss.abort_multipart_upload, request, name)
        except AbortedError:
            return

    def delete(self, name: str) -> None:
        request = oss.DeleteObjectRequest(bucket=self.name, key=name)
        self._call("DeleteObject", self._oss.delete_object, request, name)

    def url(self, name: str = "") -> str:
        """As people and the `aliyun` tool write it."""
        return f"oss://{self.name}/{name}" if name else f"oss://{self.name}"

    def _key(self) -> oss.credentials.Credentials:
        """The present key, for each try: a role session's changes during a long upload."""
        key = self._credentials.sdk.get_credential()
        return oss.credentials.Credentials(key.access_key_id, key.access_key_secret, key.security_token)

    def _pages(self, operation: str, pages: Iterator[T], name: str) -> Iterator[T]:
        while True:
            page = self._call(operation, lambda _: next(pages, None), None, name)
            if page is None:
                return
            yield page

    def _call(self, operation: str, perform: Callable[[Any], T], request: Any, name: str = "") -> T:
        try:
            return perform(request)
        except OperationError as error:
            cause = error.unwrap()
            if isinstance(cause, StoppedError | CaaError):  # by the body
                raise cause from None
            explained = self._explained(operation, cause, name)
        # Not inside: the SDK's exception holds the whole request, with its signature and session token.
        raise explained

    def _explained(self, operation: str, error: Exception, name: str) -> CaaError:
        url = self.url(name)
        if isinstance(error, RequestError | ResponseError):
            return UnavailableError(
                f"{operation}: no answer from {self._endpoint} ({_reason(error.unwrap())}): check the"
                " network, any proxy, and --oss-endpoint"
            )
        if not isinstance(error, ServiceError):
            return UnavailableError(f"{operation}: the answer from {self._endpoint} makes no sense ({error})")
        code, message = str(error.code), " ".join(str(error.message or "").split())[:200]
        permission = f"oss:{_PERMISSIONS.get(operation, operation)}"
        elsewhere = str((error.error_fileds or {}).get("Endpoint") or "")
        raises, remedy = _REMEDIES.get(code, (FailedPreconditionError, ""))
        remedy = remedy.format(permission=permission)
        if code == "AccessDenied" and elsewhere:
            raises, remedy = _elsewhere(elsewhere, self._region)
        if error.status_code == 404 and operation == "HeadObject" and code != "NoSuchBucket":
            raises = NotFoundError
        if error.status_code >= 500:
            raises = UnavailableError
        about = f"{operation}: {code} for {url}: {message} (request {error.request_id})"
        return raises(f"{about}: {remedy}" if remedy else about)


def combined(sums: list[tuple[int, int]]) -> int:
    """The CRC64 of a whole, from the CRC64 and the size of each piece."""
    whole = 0
    for crc64, size in sums:
        whole = cast(int, Crc64.combine(whole, crc64, size))
    return whole


def crc64_of(chunks: Iterator[bytes]) -> int:
    crc = Crc64(0)
    for chunk in chunks:
        crc.update(chunk)
    return cast(int, crc.sum64())


def _elsewhere(endpoint: str, region: str) -> tuple[type[CaaError], str]:
    there = endpoint.removeprefix("oss-").partition(".")[0]
    return FailedPreconditionError, (
        f"the bucket is in {there}, and an image is made in its bucket's region: take a bucket in {region},"
        f" or --region {there}"
    )


def _number(text: object) -> int | None:
    return int(str(text)) if text not in (None, "") else None


def _reason(error: object) -> str:
    """The operating system's or the library's word for it, without the URL."""
    seen = error
    while isinstance(seen, BaseException):
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        following = seen.__cause__ or seen.__context__
        inner = getattr(seen, "reason", None) or next(
            (each for each in seen.args if isinstance(each, BaseException)), None
        )
        seen = inner if isinstance(inner, BaseException) else following
    return type(error).__name__


class _Retryer(StandardRetryer):  # type: ignore[misc]  # the SDK has no types
    def __init__(self, stopped: threading.Event) -> None:
        super().__init__(max_attempts=MAX_ATTEMPTS, max_backoff=LONGEST_PAUSE)
        self._stopped = stopped

    def is_error_retryable(self, error: Exception) -> bool:
        return not self._stopped.is_set() and bool(super().is_error_retryable(error))


class _Session(requests.Session):
    def __init__(self, ca_file: str) -> None:
        super().__init__()
        self._ca_file = ca_file

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        if self._ca_file:
            kwargs["verify"] = self._ca_file  # the SDK itself knows only whether to check
        return super().send(request, **kwargs)
