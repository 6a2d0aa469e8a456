"""Dates and scopes of signatures for OSS. That the signatures themselves are right, the SDK shows."""

from dataclasses import replace
from email.utils import formatdate

import pytest

from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import AccessKey
from caa.fakecloud.oss_signature import OssRequest, OssVerifier, v1_signature, v4_signature

KEY = AccessKey("key", "secret")
DATE = "20250101T000000Z"
NOON = 1735689600.0
"""The same moment."""


class StillClock:
    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def v4(*, date: str = DATE, day: str = DATE[:8], region: str = "cn-beijing", **headers: str) -> OssRequest:
    sent = {"x-oss-date": date, "x-oss-content-sha256": "UNSIGNED-PAYLOAD"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    request = OssRequest("PUT", "bucket", "a/b", [("partNumber", "1")], list(sent.items()))
    signature = v4_signature(request, KEY.secret, date=date, region=region)
    credential = f"{KEY.id}/{day}/{region}/oss/aliyun_v4_request"
    header = f"OSS4-HMAC-SHA256 Credential={credential},Signature={signature}"
    return replace(request, headers=[*request.headers, ("Authorization", header)])


def v1(at: float) -> OssRequest:
    request = OssRequest("GET", "bucket", "", [("uploads", "")], [("Date", formatdate(at, usegmt=True))])
    header = f"OSS {KEY.id}:{v1_signature(request, KEY.secret)}"
    return replace(request, headers=[*request.headers, ("Authorization", header)])


def verify(request: OssRequest, at: float = NOON) -> AccessKey:
    return OssVerifier({KEY.id: KEY}.get, StillClock(at), "cn-beijing").verify(request)


@pytest.mark.parametrize("request_", [v4(), v1(NOON)])
@pytest.mark.parametrize("off", [-901, -899, 899, 901])
def test_a_date_may_be_fifteen_minutes_off(request_: OssRequest, off: float) -> None:
    if abs(off) < 900:
        assert verify(request_, NOON + off) is KEY
        return
    with pytest.raises(ApiError) as refusal:
        verify(request_, NOON + off)
    assert (refusal.value.status, refusal.value.code) == (403, "RequestTimeTooSkewed")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (v4(date="yesterday"), "AccessDenied"),
        (v4(day="20241231"), "InvalidArgument"),
        (v4(region="cn-hangzhou"), "InvalidArgument"),
        (v4(x_oss_content_sha256="0" * 64), "InvalidArgument"),
        (v4(x_oss_security_token="stray"), "InvalidSecurityToken"),
        (replace(v4(), name="a/c"), "SignatureDoesNotMatch"),
        (replace(v4(), query=[("partNumber", "2")]), "SignatureDoesNotMatch"),
        (replace(v4(), method="GET"), "SignatureDoesNotMatch"),
        (replace(v4(), headers=[*v4().headers, ("x-oss-acl", "public-read")]), "SignatureDoesNotMatch"),
        (replace(v1(NOON), bucket="other"), "SignatureDoesNotMatch"),
        (replace(v1(NOON), query=[]), "SignatureDoesNotMatch"),
        (replace(v1(NOON), headers=[("Authorization", "Basic eDp4")]), "InvalidArgument"),
        (replace(v1(NOON), headers=[("Authorization", "OSS key:eA==")]), "AccessDenied"),
        (replace(v1(NOON), headers=[]), "AccessDenied"),
    ],
)
def test_what_does_not_fit_is_refused(request_: OssRequest, code: str) -> None:
    with pytest.raises(ApiError) as refusal:
        verify(request_)
    assert refusal.value.code == code
