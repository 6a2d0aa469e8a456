"""Who signed a request to OSS, without I/O.

Two signatures are understood, both in the Authorization header. Version 4 (OSS4-HMAC-SHA256) signs the time,
the scope (day, region, product) and the SHA-256 of the canonical request, which is, a line each: method, path
with the bucket in it, sorted query, the `x-oss-…`, content-type, content-md5 and additional headers, the
additional headers' names, and `UNSIGNED-PAYLOAD`. Version 1 (HMAC-SHA1) signs method, content-md5,
content-type, date, the `x-oss-…` headers and the resource with those parts of the query that name one.

The codes for an ended session and for a wrong scope are assumed; the others are in OSS's pages on errors.
"""

import base64
import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from urllib.parse import quote

from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import AccessKey

ALGORITHM = "OSS4-HMAC-SHA256"
TOLERANCE = 15 * 60
"""Seconds that a request's date may be away from ours."""
PAYLOAD = "UNSIGNED-PAYLOAD"

_V4 = re.compile(
    rf"{ALGORITHM} Credential=([^,/\s]+)/(\d{{8}})/([^,/\s]+)/oss/aliyun_v4_request,\s*"
    r"(?:AdditionalHeaders=([^,\s]+),\s*)?Signature=([0-9a-f]{64})"
)
_V1 = re.compile(r"OSS ([^:\s]+):(\S+)")
_SUBRESOURCES = frozenset(
    {"bucketInfo", "location", "partNumber", "security-token", "uploadId", "uploads"},
)
"""Of the ones that OSS knows, those of the operations played here."""


@dataclass(frozen=True)
class OssRequest:
    """A request as it came over the wire, decoded."""

    method: str
    bucket: str
    name: str
    query: Sequence[tuple[str, str]]
    headers: Sequence[tuple[str, str]]

    def header(self, name: str) -> str:
        return next((value.strip() for key, value in self.headers if key.lower() == name), "")

    @property
    def resource(self) -> str:
        return f"/{self.bucket}/{self.name}" if self.bucket else "/"


def canonical_request(request: OssRequest, additional: Sequence[str]) -> str:
    signed = {
        name.lower(): value.strip()
        for name, value in request.headers
        if name.lower().startswith("x-oss-")
        or name.lower() in ("content-type", "content-md5")
        or name.lower() in additional
    }
    query = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in request.query)
    return "\n".join(
        (
            request.method,
            quote(request.resource, safe="/"),
            "&".join(f"{name}={value}" if value else name for name, value in query),
            "".join(f"{name}:{signed[name]}\n" for name in sorted(signed)),
            ";".join(additional),
            PAYLOAD,
        )
    )


def v4_signature(
    request: OssRequest, secret: str, *, date: str, region: str, additional: Sequence[str] = ()
) -> str:
    """`date` is as in x-oss-date."""
    scope = f"{date[:8]}/{region}/oss/aliyun_v4_request"
    hashed = hashlib.sha256(canonical_request(request, additional).encode()).hexdigest()
    key = f"aliyun_v4{secret}".encode()
    for step in scope.split("/"):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    text = f"{ALGORITHM}\n{date}\n{scope}\n{hashed}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def v1_signature(request: OssRequest, secret: str) -> str:
    own = sorted(
        (name.lower(), value.strip()) for name, value in request.headers if name.lower().startswith("x-oss-")
    )
    query = sorted(pair for pair in request.query if pair[0] in _SUBRESOURCES)
    wanted = "&".join(f"{name}={value}" if value else name for name, value in query)
    text = "\n".join(
        (
            request.method,
            request.header("content-md5"),
            request.header("content-type"),
            request.header("x-oss-date") or request.header("date"),
            "".join(f"{name}:{value}\n" for name, value in own)
            + request.resource
            + (f"?{wanted}" if wanted else ""),
        )
    )
    # SHA-1 is what this signature is defined with.
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()).decode()


class OssVerifier:
    """Verifies requests against the account's keys. A signature may be used again within its time, as at the
    real OSS, which knows no nonce.
    """

    def __init__(self, find_key: Callable[[str], AccessKey | None], clock: Clock, region: str) -> None:
        self._find_key = find_key
        self._clock = clock
        self._region = region

    def verify(self, request: OssRequest) -> AccessKey:
        """The key that signed the request. Raises ApiError."""
        authorization = request.header("authorization")
        if not authorization:
            raise ApiError(403, "AccessDenied", "Anonymous access is forbidden for this operation.")
        if match := _V4.fullmatch(authorization):
            return self._verify_v4(request, match)
        if match := _V1.fullmatch(authorization):
            return self._verify_v1(request, match)
        raise ApiError(400, "InvalidArgument", "Authorization header is invalid.")

    def _verify_v4(self, request: OssRequest, match: re.Match[str]) -> AccessKey:
        key_id, day, region, names, signature = match.groups()
        key = self._known_key(key_id, request.header("x-oss-security-token"))
        date = request.header("x-oss-date")
        self._check_date(_seconds(date, "%Y%m%dT%H%M%SZ"))
        if day != date[:8]:
            raise ApiError(400, "InvalidArgument", "Invalid signing date in Authorization header.")
        if region != self._region:
            raise ApiError(
                400, "InvalidArgument", f"Invalid signing region in Authorization header: {region}."
            )
        if request.header("x-oss-content-sha256") != PAYLOAD:
            raise ApiError(400, "InvalidArgument", f"x-oss-content-sha256 must be {PAYLOAD}.")
        additional = names.split(";") if names else []
        if additional != sorted(additional):
            raise ApiError(400, "InvalidArgument", "AdditionalHeaders must be in order.")
        expected = v4_signature(request, key.secret, date=date, region=region, additional=additional)
        return self._matching(key, signature, expected)

    def _verify_v1(self, request: OssRequest, match: re.Match[str]) -> AccessKey:
        key_id, signature = match.groups()
        token = request.header("x-oss-security-token") or request.header("security-token")
        key = self._known_key(key_id, token)
        parsed = parsedate_tz(request.header("x-oss-date") or request.header("date"))
        self._check_date(mktime_tz(parsed) if parsed else None)
        return self._matching(key, signature, v1_signature(request, key.secret))

    def _matching(self, key: AccessKey, signature: str, expected: str) -> AccessKey:
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise ApiError(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. Check your"
                " key and signing method.",
            )
        return key

    def _known_key(self, key_id: str, token: str) -> AccessKey:
        key = self._find_key(key_id)
        if key is None:
            raise ApiError(
                403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records."
            )
        if not hmac.compare_digest(key.session_token.encode(), token.encode()):
            raise ApiError(403, "InvalidSecurityToken", "The security token you provided is invalid.")
        if key.expires_at is not None and key.expires_at <= self._clock.now():
            raise ApiError(403, "SecurityTokenExpired", "The security token you provided has expired.")
        return key

    def _check_date(self, seconds: float | None) -> None:
        if seconds is None:
            raise ApiError(403, "AccessDenied", "The date of the request is missing or not well formed.")
        if abs(self._clock.now() - seconds) > TOLERANCE:
            raise ApiError(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            )


def _seconds(date: str, form: str) -> float | None:
    try:
        return float(calendar.timegm(time.strptime(date, form)))
    except ValueError:
        return None
