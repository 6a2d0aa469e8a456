import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from caa.fakecloud import FakeCloudSettings
from caa.fakecloud.clock import SystemClock
from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import KeyRing
from caa.fakecloud.oidc import InvalidTokenError, Issuer, verify_rs256
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.ram import Ram
from caa.fakecloud.sts import LONGEST_TOKEN, Sts

SETTINGS = FakeCloudSettings(dir=Path("/nonexistent"))
ISSUER = Issuer("http://issuer", SystemClock())
OTHER = Issuer("http://issuer", SystemClock())
NOTHING = '{"Version": "1", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}'


def _sts(keys: KeyRing) -> Sts:
    return Sts(SETTINGS, keys, ISSUER, Ram(SETTINGS, issuer=ISSUER.url))


def _reason(token: str, *, audience: str = "sts.aliyuncs.com") -> str:
    with pytest.raises(InvalidTokenError) as refusal:
        ISSUER.verify(token, audience=audience)
    return refusal.value.reason


def _part(token: str, index: int) -> dict[str, Any]:
    part = token.split(".")[index]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert isinstance(claims, dict)
    return claims


def _encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_signature_vector_of_rfc_7515() -> None:
    """Appendix A.2."""

    def number(text: str) -> int:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))

    n = (
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
        "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
        "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
        "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    )
    signed = (
        b"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y"
        b"b290Ijp0cnVlfQ"
    )
    signature = base64.urlsafe_b64decode(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9"
        "uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB"
        "_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rq"
        "Vt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw=="
    )
    key = rsa.RSAPublicNumbers(number("AQAB"), number(n)).public_key()
    verify_rs256(key, signed, signature)
    with pytest.raises(InvalidTokenError):
        verify_rs256(key, signed + b"x", signature)


def test_a_token_says_what_a_service_accounts_token_says() -> None:
    token = ISSUER.mint("system:serviceaccount:a:b", seconds=600)
    claims = ISSUER.verify(token, audience="sts.aliyuncs.com")
    assert claims == _part(token, 1)
    assert (claims["iss"], claims["aud"], claims["sub"]) == (
        "http://issuer",
        ["sts.aliyuncs.com"],
        "system:serviceaccount:a:b",
    )
    assert claims["exp"] - claims["iat"] == 600
    assert _part(token, 0)["kid"] == ISSUER.keys["keys"][0]["kid"]


def test_what_is_not_accepted() -> None:
    good = ISSUER.mint("s", seconds=600)
    header, claims, signature = good.split(".")
    assert _reason(ISSUER.mint("s", seconds=-1)) == "Expired"
    assert _reason(ISSUER.mint("s", seconds=600, nbf=2**40)) == "Invalid"
    assert _reason(ISSUER.mint("s", seconds=600, iat=2**40)) == "Invalid"
    for claim in ("exp", "iat", "nbf"):
        assert _reason(ISSUER.mint("s", seconds=600, **{claim: "later"})) == "Invalid"
    assert _reason(ISSUER.mint("s", seconds=600, audience="other")) == "AudienceNotMatch"
    assert _reason(ISSUER.mint("s", seconds=600, iss="http://x")) == "IssuerNotMatch"
    assert _reason(OTHER.mint("s", seconds=600)) == "InvalidSignature"
    assert _reason(f"{header}.{_encode(_part(good, 1) | {'sub': 'root'})}.{signature}") == "InvalidSignature"
    assert _reason(f"{header}.{claims}.") == "InvalidSignature"
    for algorithm in ("none", "HS256"):
        assert _reason(f"{_encode({'alg': algorithm})}.{claims}.{signature}") == "Invalid"
    for wrong in ("", "a.b", "a.b.c.d", "!.!.!", f"{_encode([])}.{claims}.{signature}"):
        assert _reason(wrong) == "Invalid"


@given(st.text(), st.text(), st.text())
def test_garbage_is_refused_and_nothing_worse(header: str, claims: str, signature: str) -> None:
    with pytest.raises(InvalidTokenError):
        ISSUER.verify(f"{header}.{claims}.{signature}", audience="sts.aliyuncs.com")


class TestAssumeRole:
    @pytest.fixture
    def keys(self, clock: Any) -> KeyRing:
        return KeyRing(clock)

    def _parameters(self, **changes: str) -> Parameters:
        return Parameters(
            {
                "RoleArn": SETTINGS.role_arn,
                "OIDCProviderArn": SETTINGS.oidc_provider_arn,
                "RoleSessionName": "caa",
                "OIDCToken": ISSUER.mint(SETTINGS.service_account, seconds=600),
            }
            | changes
        )

    def test_a_session(self, keys: KeyRing, clock: Any) -> None:
        answer = _sts(keys).assume_role_with_oidc(self._parameters(DurationSeconds="900"))
        credentials = answer["Credentials"]
        key = keys.find(credentials["AccessKeyId"])
        assert key
        assert (key.secret, key.session_token) == (
            credentials["AccessKeySecret"],
            credentials["SecurityToken"],
        )
        assert key.expires_at == clock.now() + 900
        assert credentials["Expiration"] == "2023-11-14T22:28:20Z"

    @pytest.mark.parametrize(
        ("changes", "status", "code"),
        [
            ({"RoleArn": ""}, 400, "MissingParameter"),
            ({"OIDCToken": ""}, 400, "MissingParameter"),
            ({"RoleArn": "acs:ram::1:role/none"}, 404, "EntityNotExist.Role"),
            ({"OIDCProviderArn": "acs:ram::1:oidc-provider/none"}, 401, "AuthenticationFail.NoPermission"),
            ({"OIDCToken": "x.y"}, 401, "AuthenticationFail.OIDCToken.Invalid"),
            (
                {"OIDCToken": ISSUER.mint("system:serviceaccount:default:default", seconds=600)},
                401,
                "AuthenticationFail.NoPermission",
            ),
            ({"OIDCToken": ISSUER.mint("s", seconds=-1)}, 401, "AuthenticationFail.OIDCToken.Expired"),
            ({"DurationSeconds": "899"}, 400, "InvalidParameter.DurationSeconds"),
            ({"DurationSeconds": "3601"}, 400, "InvalidParameter.DurationSeconds"),
            ({"RoleSessionName": "a/b"}, 400, "InvalidParameter.RoleSessionName"),
            ({"Policy": "{}"}, 400, "InvalidParameter.PolicyGrammar"),
            ({"Policy": NOTHING.replace("Deny", "deny")}, 400, "InvalidParameter.PolicyGrammar"),
            ({"Policy": NOTHING + " " * 2048}, 400, "InvalidParameter.PolicySize"),
            ({"OIDCToken": "x" * (LONGEST_TOKEN + 1)}, 401, "AuthenticationFail.OIDCToken.Invalid"),
            (
                {"OIDCToken": ISSUER.mint(SETTINGS.service_account, seconds=600, aud="kubernetes")},
                401,
                "AuthenticationFail.OIDCToken.AudienceNotMatch",
            ),
            (
                {"OIDCToken": ISSUER.mint(SETTINGS.service_account, seconds=600, sub=["x"])},
                401,
                "AuthenticationFail.NoPermission",
            ),
        ],
    )
    def test_refusals(self, keys: KeyRing, changes: dict[str, str], status: int, code: str) -> None:
        with pytest.raises(ApiError) as refusal:
            _sts(keys).assume_role_with_oidc(self._parameters(**changes))
        assert (refusal.value.status, refusal.value.code) == (status, code)

    def test_a_session_has_its_name_and_its_policy(self, keys: KeyRing) -> None:
        answer = _sts(keys).assume_role_with_oidc(self._parameters(RoleSessionName="node-1", Policy=NOTHING))
        key = keys.find(answer["Credentials"]["AccessKeyId"])
        assert key
        assert key.identity == "node-1"
        assert key.session_policy

    def test_who_somebody_is(self, keys: KeyRing) -> None:
        sts = _sts(keys)
        assert sts.get_caller_identity(Parameters({}), keys.own) == {
            "IdentityType": "RAMUser",
            "AccountId": "1000000000000001",
            "UserId": "200000000000000001",
            "PrincipalId": "200000000000000001",
            "Arn": "acs:ram::1000000000000001:user/caa-local",
        }
        answer = sts.get_caller_identity(Parameters({}), keys.issue(60, "node-1"))
        assert answer["IdentityType"] == "AssumedRoleUser"
        assert answer["Arn"] == "acs:ram::1000000000000001:assumed-role/caa-alibaba/node-1"
        assert answer["PrincipalId"] == f"{answer['RoleId']}:node-1"
