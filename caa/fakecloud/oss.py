"""OSS over HTTP: what uploading an object takes, with XML answers, at a listener of its own.

A bucket is the first part of the path, or the first label of the host name; an IP address has no labels, so
that clients use the path there. Requests are signed in their headers (`oss_signature`); the state is the
store's (`oss_store`). Faults are ordered by the operation's name, with the parameters Bucket, Object and
those of the query. Codes are those of the OSS API reference; what it gives no words for has ours.
"""

import asyncio
import base64
import hashlib
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import structlog
from aiohttp import web

from caa.fakecloud.calls import Call, CallLog
from caa.fakecloud.clock import Clock, timestamp
from caa.fakecloud.errors import ApiError
from caa.fakecloud.faults import Fault, Faults
from caa.fakecloud.keys import AccessKey
from caa.fakecloud.oss_signature import OssRequest, OssVerifier
from caa.fakecloud.oss_store import MAX_PART_NUMBER, Content, ObjectStore, StoredObject
from caa.fakecloud.ram import Ram
from caa.fakecloud.settings import FakeCloudSettings

log = structlog.get_logger(__name__)

VERSION = "2019-05-17"
MAX_XML = 4 * 2**20
"""Bytes of a list of parts; 10 000 of them take one MiB."""
MAX_LISTED = 1000
MAX_PARAMETERS = 100
_CHUNK = 2**18

_SUBRESOURCES = ("uploads", "uploadId", "bucketInfo", "location")
_OPERATIONS = {
    ("GET", "bucket", "uploads"): "ListMultipartUploads",
    ("GET", "bucket", "bucketInfo"): "GetBucketInfo",
    ("GET", "bucket", "location"): "GetBucketLocation",
    ("POST", "object", "uploads"): "InitiateMultipartUpload",
    ("POST", "object", "uploadId"): "CompleteMultipartUpload",
    ("PUT", "object", "uploadId"): "UploadPart",
    ("GET", "object", "uploadId"): "ListParts",
    ("DELETE", "object", "uploadId"): "AbortMultipartUpload",
    ("PUT", "object", ""): "PutObject",
    ("HEAD", "object", ""): "HeadObject",
    ("DELETE", "object", ""): "DeleteObject",
}
_RIGHTS = {
    "CompleteMultipartUpload": "PutObject",
    "HeadObject": "GetObject",
    "InitiateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
}
"""RAM's name for the operation, where it is another one."""
_NAME = re.compile(r"(?![/\\])[^\x00-\x08\x0b\x0c\x0e-\x1f]{1,1023}", re.DOTALL)

Operation = Callable[["_Request"], Awaitable[web.Response]]


_BUG = ApiError(500, "InternalError", "Please contact the server administrator.")


class _DroppedError(Exception):
    """The connection is to be closed without an answer."""


class _Request:
    """One request: what was sent, and how it is to be recorded."""

    def __init__(self, http: web.Request, signed: OssRequest, call: Call) -> None:
        self.http = http
        self.signed = signed
        self.call = call
        self.bucket = signed.bucket
        self.name = signed.name
        self.query = dict(signed.query)

    def integer(self, name: str, default: int, high: int) -> int:
        text = self.query.get(name, "")
        if not text:
            return default
        if not text.isdecimal() or not 0 < int(text) <= high:
            raise ApiError(400, "InvalidArgument", f"{name} must be an integer between 1 and {high}.")
        return int(text)

    def encoded(self, text: str) -> str:
        """A name as the answer is to have it."""
        return quote(text, safe="") if self.query.get("encoding-type") == "url" else text


class OssServer:
    def __init__(
        self,
        settings: FakeCloudSettings,
        store: ObjectStore,
        *,
        verifier: OssVerifier,
        ram: Ram,
        faults: Faults,
        calls: CallLog,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._verifier = verifier
        self._ram = ram
        self._faults = faults
        self._calls = calls
        self._clock = clock

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        return application

    async def handle(self, http: web.Request) -> web.StreamResponse:
        signed = _read(http)
        name, permission, perform = self._operation(signed)
        call = Call(
            action=name,
            version=VERSION,
            request_id=uuid.uuid4().hex[:24].upper(),
            began_at=self._clock.now(),
            connection=_peer(http),
            parameters={"Bucket": signed.bucket, "Object": signed.name, **dict(signed.query)},
        )
        self._calls.add(call)
        headers = {"x-oss-request-id": call.request_id, "Server": "AliyunOSS"}
        try:
            key = self._verify(signed, call)
            self._authorize(key, permission, signed, call)
            self._check_names(signed)
            answer = await self._perform(_Request(http, signed, call), perform)
        except _DroppedError:
            call.end("dropped", 0, self._clock.now())
            assert http.transport is not None
            http.transport.abort()
            return web.Response()  # goes nowhere
        except ApiError as error:
            call.end(error.code, error.status, self._clock.now())
            answer = _refusal(http, call, error)
        except ConnectionError:
            call.end("connection lost", 0, self._clock.now())
            return web.Response()  # as above
        except Exception:
            log.exception("request failed inside", operation=name, request_id=call.request_id)
            call.end(_BUG.code, _BUG.status, self._clock.now())
            answer = _refusal(http, call, _BUG)
        else:
            call.end("ok", answer.status, self._clock.now())
        answer.headers.update(headers)
        return answer

    def _operation(self, signed: OssRequest) -> tuple[str, str, Operation]:
        """Its name, the RAM action that it takes, and what performs it."""
        names = {name for name, _ in signed.query}
        subresource = next((each for each in _SUBRESOURCES if each in names), "")
        what = "object" if signed.name else "bucket" if signed.bucket else "service"
        name = _OPERATIONS.get((signed.method, what, subresource))
        perform = {
            "AbortMultipartUpload": self._abort,
            "CompleteMultipartUpload": self._complete,
            "DeleteObject": self._delete,
            "GetBucketInfo": self._bucket_info,
            "GetBucketLocation": self._bucket_location,
            "HeadObject": self._head,
            "InitiateMultipartUpload": self._initiate,
            "ListMultipartUploads": self._list_uploads,
            "ListParts": self._list_parts,
            "PutObject": self._put,
            "UploadPart": self._upload_part,
        }
        if name is None:
            return signed.method, "oss:*", _not_played
        return name, f"oss:{_RIGHTS.get(name, name)}", perform[name]

    def _verify(self, signed: OssRequest, call: Call) -> AccessKey:
        try:
            key = self._verifier.verify(signed)
        except ApiError as refusal:
            call.signature = refusal.code
            raise
        call.signature = f"{signed.header('authorization').partition(' ')[0]} ok"
        call.identity = key.identity
        return key

    def _authorize(self, key: AccessKey, permission: str, signed: OssRequest, call: Call) -> None:
        resource = f"acs:oss:*:{self._settings.account_id}:{signed.resource[1:].rstrip('/')}"
        try:
            self._ram.authorize(key, permission, [resource], address=call.connection.rpartition(":")[0])
        except ApiError:
            what = "object" if signed.name else "bucket"
            raise ApiError(
                403, "AccessDenied", f"You have no right to access this {what} because of bucket acl."
            ) from None

    def _check_names(self, signed: OssRequest) -> None:
        region = dict(self._settings.buckets).get(signed.bucket)
        if region is None:
            raise ApiError(404, "NoSuchBucket", "The specified bucket does not exist.")
        if region != self._settings.region:
            raise ApiError(
                403,
                "AccessDenied",
                "The bucket you are attempting to access must be addressed using the specified endpoint."
                " Please send all future requests to this endpoint.",
                details={"Endpoint": f"oss-{region}.aliyuncs.com"},
            )
        if signed.name and not _NAME.fullmatch(signed.name):
            raise ApiError(400, "InvalidObjectName", "The specified object is not valid.")

    async def _perform(self, request: _Request, perform: Operation) -> web.Response:
        fault = self._faults.strike(request.call.action, request.call.parameters)
        if fault and not fault.after_effect:
            await self._fail(fault)
        try:
            return await perform(request)
        finally:
            if fault and fault.after_effect:
                await self._fail(fault)

    async def _fail(self, fault: Fault) -> None:
        await self._clock.sleep(fault.delay)
        if fault.drop:
            raise _DroppedError
        if fault.code:
            raise ApiError(fault.answer_status, fault.code, fault.message, headers=fault.headers)

    async def _receive(self, request: _Request) -> Content:
        """The request's body in a file, checked against what its headers say."""
        content = await self._store.receive(request.http.content.iter_chunked(_CHUNK))
        try:
            _check_md5(request, bytes.fromhex(content.md5))
        except ApiError:
            content.discard()
            raise
        return content

    async def _put(self, request: _Request) -> web.Response:
        content = await self._receive(request)
        return _stored(self._store.put(request.bucket, request.name, content))

    async def _initiate(self, request: _Request) -> web.Response:
        upload = self._store.initiate(request.bucket, request.name)
        return _xml(
            "InitiateMultipartUploadResult",
            [
                *_encoding(request),
                ("Bucket", request.bucket),
                ("Key", request.encoded(request.name)),
                ("UploadId", upload.id),
            ],
        )

    async def _upload_part(self, request: _Request) -> web.Response:
        number = request.integer("partNumber", 0, MAX_PART_NUMBER)
        if not number:
            raise ApiError(400, "InvalidArgument", f"partNumber must be between 1 and {MAX_PART_NUMBER}.")
        upload = self._store.upload(request.bucket, request.name, request.query["uploadId"])
        content = await self._receive(request)
        self._store.add_part(upload, number, content)
        return web.Response(headers={"ETag": f'"{content.md5}"', "x-oss-hash-crc64ecma": str(content.crc64)})

    async def _complete(self, request: _Request) -> web.Response:
        body = await _small_body(request)
        _check_md5(request, hashlib.md5(body).digest())  # noqa: S324  what Content-MD5 is made with
        upload = self._store.upload(request.bucket, request.name, request.query["uploadId"])
        parts = self._store.check_parts(upload, _listed_parts(body))
        content = await asyncio.to_thread(self._store.joined, parts)
        made = self._store.complete(upload, parts, content)
        answer = _xml(
            "CompleteMultipartUploadResult",
            [
                *_encoding(request),
                ("Location", f"{request.http.scheme}://{request.http.host}{request.http.path}"),
                ("Bucket", made.bucket),
                ("Key", request.encoded(made.name)),
                ("ETag", f'"{made.etag}"'),
            ],
        )
        answer.headers["x-oss-hash-crc64ecma"] = str(made.content.crc64)
        return answer

    async def _abort(self, request: _Request) -> web.Response:
        self._store.abort(self._store.upload(request.bucket, request.name, request.query["uploadId"]))
        return web.Response(status=204)

    async def _list_parts(self, request: _Request) -> web.Response:
        upload = self._store.upload(request.bucket, request.name, request.query["uploadId"])
        most = request.integer("max-parts", MAX_LISTED, MAX_LISTED)
        after = request.integer("part-number-marker", 0, MAX_PART_NUMBER)
        found = [part for part in upload.in_order() if part.number > after]
        shown = found[:most]
        return _xml(
            "ListPartsResult",
            [
                *_encoding(request),
                ("Bucket", upload.bucket),
                ("Key", request.encoded(upload.name)),
                ("UploadId", upload.id),
                ("PartNumberMarker", after),
                ("NextPartNumberMarker", shown[-1].number if shown else after),
                ("MaxParts", most),
                ("IsTruncated", str(len(found) > most).lower()),
                *(
                    (
                        "Part",
                        [
                            ("PartNumber", part.number),
                            ("LastModified", timestamp(part.modified_at)),
                            ("ETag", f'"{part.content.md5}"'),
                            ("HashCrc64ecma", part.content.crc64),
                            ("Size", part.content.size),
                        ],
                    )
                    for part in shown
                ),
            ],
        )

    async def _list_uploads(self, request: _Request) -> web.Response:
        most = request.integer("max-uploads", MAX_LISTED, MAX_LISTED)
        prefix = request.query.get("prefix", "")
        marker = (request.query.get("key-marker", ""), request.query.get("upload-id-marker", ""))
        found = sorted(
            (
                each
                for each in self._store.uploads(request.bucket)
                if each.name.startswith(prefix)
                and (each.name > marker[0] if not marker[1] else (each.name, each.id) > marker)
            ),
            key=lambda each: (each.name, each.id),
        )
        shown = found[:most]
        more = len(found) > most
        return _xml(
            "ListMultipartUploadsResult",
            [
                *_encoding(request),
                ("Bucket", request.bucket),
                ("Prefix", request.encoded(prefix)),
                ("KeyMarker", request.encoded(marker[0])),
                ("UploadIdMarker", marker[1]),
                ("NextKeyMarker", request.encoded(shown[-1].name) if more else ""),
                ("NextUploadIdMarker", shown[-1].id if more else ""),
                ("MaxUploads", most),
                ("IsTruncated", str(more).lower()),
                *(
                    (
                        "Upload",
                        [
                            ("Key", request.encoded(each.name)),
                            ("UploadId", each.id),
                            ("Initiated", timestamp(each.initiated_at)),
                        ],
                    )
                    for each in shown
                ),
            ],
        )

    async def _head(self, request: _Request) -> web.Response:
        found = self._store.find(request.bucket, request.name)
        if found is None:
            raise ApiError(404, "NoSuchKey", "The specified key does not exist.")
        answer = _stored(found)
        answer.headers["Content-Length"] = str(found.content.size)
        answer.headers["Last-Modified"] = formatdate(found.modified_at, usegmt=True)
        return answer

    async def _delete(self, request: _Request) -> web.Response:
        self._store.delete(request.bucket, request.name)
        return web.Response(status=204)

    async def _bucket_info(self, request: _Request) -> web.Response:
        region = self._settings.region
        return _xml(
            "BucketInfo",
            [
                (
                    "Bucket",
                    [
                        ("Name", request.bucket),
                        ("Location", f"oss-{region}"),
                        ("ExtranetEndpoint", f"oss-{region}.aliyuncs.com"),
                        ("IntranetEndpoint", f"oss-{region}-internal.aliyuncs.com"),
                        ("StorageClass", "Standard"),
                        ("AccessControlList", [("Grant", "private")]),
                        (
                            "Owner",
                            [
                                ("ID", self._settings.account_id),
                                ("DisplayName", self._settings.account_id),
                            ],
                        ),
                    ],
                )
            ],
        )

    async def _bucket_location(self, _: _Request) -> web.Response:
        return _xml("LocationConstraint", f"oss-{self._settings.region}")


async def _not_played(request: _Request) -> web.Response:
    raise ApiError(501, "NotImplemented", f"The local cloud does not play {request.signed.method} here.")


def _read(http: web.Request) -> OssRequest:
    # aiohttp's own view of the URL is normalised; the signature is of what was sent.
    url = urlsplit(http.raw_path)
    path = unquote(url.path).removeprefix("/")
    bucket = _bucket_of_host(http.host)
    if not bucket:
        bucket, _, path = path.partition("/")
    try:
        query = parse_qsl(url.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise web.HTTPBadRequest(text="too many parameters") from None
    return OssRequest(
        method=http.method,
        bucket=bucket,
        name=path,
        query=query,
        headers=[(name, value) for name, value in http.headers.items()],
    )


def _bucket_of_host(host: str) -> str:
    """The first label, if there is more than one and the name is not that of OSS itself."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        ip_address(name)
    except ValueError:
        first, dot, _ = name.partition(".")
        return first if dot and not re.match(r"oss(-|\.)", name) else ""
    return ""


def _peer(http: web.Request) -> str:
    name = http.transport.get_extra_info("peername") if http.transport else None
    return f"{name[0]}:{name[1]}" if name else ""


def _stored(found: StoredObject) -> web.Response:
    return web.Response(
        headers={
            "ETag": f'"{found.etag}"',
            "x-oss-hash-crc64ecma": str(found.content.crc64),
            "x-oss-object-type": found.kind,
        }
    )


def _encoding(request: _Request) -> list[tuple[str, Any]]:
    return [("EncodingType", "url")] if request.query.get("encoding-type") == "url" else []


def _check_md5(request: _Request, actual: bytes) -> None:
    said = request.signed.header("content-md5")
    if said and said != base64.b64encode(actual).decode():
        raise ApiError(400, "InvalidDigest", "The Content-MD5 you specified did not match what we received.")


async def _small_body(request: _Request) -> bytes:
    body = bytearray()
    async for chunk in request.http.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > MAX_XML:
            raise ApiError(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size.")
    return bytes(body)


def _listed_parts(body: bytes) -> list[tuple[int, str]]:
    """Numbers and ETags of a CompleteMultipartUpload."""
    malformed = ApiError(400, "MalformedXML", "The XML you provided was not well-formed.")
    try:
        root = ET.fromstring(body)  # noqa: S314  from a client that has a key; expat bounds entities by itself
    except ET.ParseError:
        raise malformed from None
    parts = []
    for each in root.iter("Part"):
        number, etag = each.findtext("PartNumber", ""), each.findtext("ETag", "")
        if not number.isdecimal():
            raise malformed
        parts.append((int(number), etag.strip('"')))
    return parts


def _xml(root: str, content: Any) -> web.Response:
    return web.Response(body=_document(root, content), content_type="application/xml")


def _document(root: str, content: Any) -> bytes:
    element = ET.Element(root)
    _fill(element, content)
    return bytes(ET.tostring(element, encoding="UTF-8", xml_declaration=True))


def _fill(element: ET.Element, content: Iterable[tuple[str, Any]] | str | int) -> None:
    if isinstance(content, str | int):
        element.text = str(content)
        return
    for name, inner in content:
        _fill(ET.SubElement(element, name), inner)


def _refusal(http: web.Request, call: Call, error: ApiError) -> web.Response:
    body = _document(
        "Error",
        [
            ("Code", error.code),
            ("Message", error.message),
            ("RequestId", call.request_id),
            ("HostId", http.host),
            *error.details.items(),
        ],
    )
    if http.method == "HEAD":
        # Such an answer has no body: this header has it instead.
        return web.Response(
            status=error.status, headers={**error.headers, "x-oss-err": base64.b64encode(body).decode()}
        )
    return web.Response(status=error.status, headers=error.headers, body=body, content_type="application/xml")
