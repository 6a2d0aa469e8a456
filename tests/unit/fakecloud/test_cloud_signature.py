import base64
import hashlib
import hmac
import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from alibabacloud_tea_openapi.utils import Utils
from darabonba.request import DaraRequest
from hypothesis import given
from hypothesis import strategies as st

from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import AccessKey
from caa.fakecloud.signature import FORM, SignatureVerifier, SignedRequest

KEY = AccessKey("YourAccessKeyId", "YourAccessKeySecret")
SESSION = AccessKey("STS.session", "session secret", "the token", expires_at=1_700_000_600)
DATE = "2023-11-14T22:13:20Z"  # 1_700_000_000, which is the clock's
EMPTY = hashlib.sha256(b"").hexdigest()


def _header_pairs(nonce: str = "n1", **more: str) -> list[tuple[str, str]]:
    names = {name.replace("_", "-"): value for name, value in more.items()}
    return [
        ("Host", "ecs.cn-beijing.aliyuncs.com"),
        ("x-acs-action", "RunInstances"),
        ("x-acs-version", "2014-05-26"),
        ("x-acs-date", DATE),
        ("x-acs-signature-nonce", nonce),
        ("x-acs-content-sha256", EMPTY),
        *names.items(),
    ]


def _signed(request: SignedRequest, key: AccessKey = KEY) -> SignedRequest:
    """Signed by the code of the SDK, which is not ours."""
    made = DaraRequest()
    made.method, made.pathname = request.method, request.path
    made.query, made.headers = dict(request.query), dict(request.headers)
    payload = request.header("x-acs-content-sha256")
    value = Utils.get_authorization(made, "ACS3-HMAC-SHA256", payload, key.id, key.secret)
    return replace(request, headers=[*request.headers, ("Authorization", value)])


def _request(**changes: Any) -> SignedRequest:
    request = SignedRequest("POST", "/", [("ImageId", "m-1")], headers=_header_pairs())
    return replace(request, **changes)


@pytest.fixture
def verifier(clock: Any) -> SignatureVerifier:
    return SignatureVerifier({KEY.id: KEY, SESSION.id: SESSION}.get, clock)


def _code(verifier: SignatureVerifier, request: SignedRequest) -> str:
    with pytest.raises(ApiError) as refusal:
        verifier.verify(request)
    return refusal.value.code


def test_vector_of_the_product_documentation(clock: Any) -> None:
    """The worked example of Alibaba Cloud's page on the V3 request body and signature mechanism."""
    authorization = (
        "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,"
        "SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version,"
        "Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    )
    headers = [
        ("host", "ecs.cn-shanghai.aliyuncs.com"),
        ("x-acs-action", "RunInstances"),
        ("x-acs-content-sha256", EMPTY),
        ("x-acs-date", "2023-10-26T10:22:32Z"),
        ("x-acs-signature-nonce", "3156853299f313e23d1673dc12e1703d"),
        ("x-acs-version", "2014-05-26"),
        ("Authorization", authorization),
    ]
    query = [("ImageId", "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"), ("RegionId", "cn-shanghai")]
    clock.time = 1698315752.0
    verifier = SignatureVerifier({KEY.id: KEY}.get, clock)

    assert verifier.verify(SignedRequest("POST", "/", query, headers=headers)) is KEY


def test_what_the_sdk_signs_is_accepted(verifier: SignatureVerifier) -> None:
    assert verifier.verify(_signed(_request())) is KEY


@given(query=st.dictionaries(st.from_regex(r"[A-Za-z.0-9]{1,20}", fullmatch=True), st.text(), max_size=8))
def test_any_parameters_survive_the_way_through_a_url(query: dict[str, str]) -> None:
    made = DaraRequest()
    made.query = query
    sent = "&".join(f"{Utils.get_encode_param(k)}={Utils.get_encode_param(v)}" for k, v in query.items())

    class Still:
        def now(self) -> float:
            return 1_700_000_000.0

        async def sleep(self, seconds: float) -> None: ...

    signed = _signed(_request(query=list(query.items())))
    received = replace(signed, query=parse_qsl(sent, keep_blank_values=True))
    assert SignatureVerifier({KEY.id: KEY}.get, Still()).verify(received) is KEY


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"method": "GET"}, "SignatureDoesNotMatch"),
        ({"path": "/x"}, "SignatureDoesNotMatch"),
        ({"query": [("ImageId", "m-2")]}, "SignatureDoesNotMatch"),
        ({"query": []}, "SignatureDoesNotMatch"),
        ({"body": b"more"}, "SignatureDoesNotMatch"),
    ],
)
def test_a_changed_request_is_refused(verifier: SignatureVerifier, change: dict[str, Any], code: str) -> None:
    assert _code(verifier, replace(_signed(_request()), **change)) == code


def test_a_changed_header_is_refused(verifier: SignatureVerifier) -> None:
    headers = [
        (name, "DeleteInstance" if name == "x-acs-action" else value)
        for name, value in _signed(_request()).headers
    ]
    assert _code(verifier, _request(headers=headers)) == "SignatureDoesNotMatch"


def test_the_wrong_secret_is_refused(verifier: SignatureVerifier) -> None:
    assert _code(verifier, _signed(_request(), AccessKey(KEY.id, "guessed"))) == "SignatureDoesNotMatch"


def test_an_unsigned_header_of_the_protocol_is_refused(verifier: SignatureVerifier) -> None:
    signed = _signed(_request())
    added = replace(signed, headers=[*signed.headers, ("x-acs-security-token", "")])
    assert _code(verifier, added) == "IncompleteSignature"


@pytest.mark.parametrize("missing", ["Host", "x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"])
def test_a_needed_header_is_needed(verifier: SignatureVerifier, missing: str) -> None:
    headers = [pair for pair in _header_pairs() if pair[0] != missing]
    assert _code(verifier, _signed(_request(headers=headers))) == "IncompleteSignature"


@pytest.mark.parametrize("empty", ["x-acs-signature-nonce", "x-acs-content-sha256"])
def test_a_needed_header_says_something(verifier: SignatureVerifier, empty: str) -> None:
    headers = [(name, "" if name == empty else value) for name, value in _header_pairs()]
    assert _code(verifier, _signed(_request(headers=headers))) == "IncompleteSignature"


def test_a_form_is_signed_with_its_content_type(verifier: SignatureVerifier) -> None:
    body = b"ImageId=m-1"
    form = [("ImageId", "m-1")]
    sums = [(n, hashlib.sha256(body).hexdigest() if "sha256" in n else v) for n, v in _header_pairs()]
    unsigned = _signed(_request(query=[], headers=sums))
    with_form = replace(unsigned, headers=[*unsigned.headers, ("content-type", FORM)], form=form, body=body)
    assert _code(verifier, with_form) == "IncompleteSignature"
    signed = _signed(_request(query=[], headers=[*sums, ("content-type", FORM)], form=form, body=body))
    assert verifier.verify(signed) is KEY


def test_the_body_of_another_kind_is_signed_too(verifier: SignatureVerifier) -> None:
    body = b'{"ImageId": "m-1"}'
    sums = [(n, hashlib.sha256(body).hexdigest() if "sha256" in n else v) for n, v in _header_pairs()]
    signed = _signed(_request(headers=[*sums, ("content-type", "application/json")], body=body))
    assert _code(verifier, replace(signed, body=b'{"ImageId": "m-2"}')) == "SignatureDoesNotMatch"
    assert verifier.verify(signed) is KEY


def test_a_refusal_shows_what_should_have_been_signed(verifier: SignatureVerifier) -> None:
    with pytest.raises(ApiError, match="SignatureDoesNotMatch") as refusal:
        verifier.verify(_signed(_request(), AccessKey(KEY.id, "guessed")))
    form = r".* server StringToSign is \[(.+)\] server CanonicalRequest is \[(.+)\]"
    shown = re.fullmatch(form, refusal.value.message, re.DOTALL)
    assert shown
    assert shown[2].startswith("POST\n/\nImageId=m-1\nhost:ecs.cn-beijing.aliyuncs.com\n")
    assert shown[1] == f"ACS3-HMAC-SHA256\n{hashlib.sha256(shown[2].encode()).hexdigest()}"


@pytest.mark.parametrize("value", ["", "Bearer x", "ACS3-HMAC-SHA256 Credential=a,Signature=b"])
def test_other_authorization_is_refused(verifier: SignatureVerifier, value: str) -> None:
    request = _request(headers=[*_header_pairs(), ("Authorization", value)])
    assert _code(verifier, request) == ("IncompleteSignature" if value else "MissingParameter")


def test_an_unknown_key(verifier: SignatureVerifier) -> None:
    assert _code(verifier, _signed(_request(), AccessKey("nobody", "x"))) == "InvalidAccessKeyId.NotFound"


@pytest.mark.parametrize(("seconds", "accepted"), [(-901, False), (-899, True), (899, True), (901, False)])
def test_the_date_may_be_fifteen_minutes_off(
    verifier: SignatureVerifier, clock: Any, seconds: int, accepted: bool
) -> None:
    signed = _signed(_request())
    clock.time += seconds
    if accepted:
        assert verifier.verify(signed) is KEY
    else:
        assert _code(verifier, signed) == "InvalidTimeStamp.Expired"


def test_a_malformed_date(verifier: SignatureVerifier) -> None:
    headers = [(name, "now" if name == "x-acs-date" else value) for name, value in _header_pairs()]
    assert _code(verifier, _signed(_request(headers=headers))) == "InvalidTimeStamp.Format"


def test_a_nonce_is_good_for_once(verifier: SignatureVerifier) -> None:
    signed = _signed(_request())
    verifier.verify(signed)
    assert _code(verifier, signed) == "SignatureNonceUsed"
    verifier.verify(_signed(_request(headers=_header_pairs(nonce="n2"))))


def test_a_refused_request_does_not_use_its_nonce_up(verifier: SignatureVerifier) -> None:
    signed = _signed(_request())
    _code(verifier, replace(signed, query=[]))
    assert verifier.verify(signed) is KEY


def test_nonces_are_forgotten_when_their_dates_are_too_old(verifier: SignatureVerifier, clock: Any) -> None:
    verifier.verify(_signed(_request()))
    clock.time += 3600
    date = "2023-11-14T23:13:20Z"
    headers = [(n, date if n == "x-acs-date" else v) for n, v in _header_pairs(nonce="n2")]
    verifier.verify(_signed(_request(headers=headers)))
    assert len(verifier._nonces) == 1


class TestSession:
    def _request(self, token: str | None) -> SignedRequest:
        more = {} if token is None else {"x_acs_security_token": token, "x_acs_accesskey_id": SESSION.id}
        return _signed(_request(headers=_header_pairs(**more)), SESSION)

    def test_with_its_token(self, verifier: SignatureVerifier) -> None:
        assert verifier.verify(self._request("the token")) is SESSION

    def test_without_its_token(self, verifier: SignatureVerifier) -> None:
        assert _code(verifier, self._request(None)) == "MissingSecurityToken"

    def test_with_another_token(self, verifier: SignatureVerifier) -> None:
        assert _code(verifier, self._request("other")) == "InvalidSecurityToken.MismatchWithAccessKey"

    def test_expired(self, verifier: SignatureVerifier, clock: Any) -> None:
        clock.time = 1_700_000_600
        assert _code(verifier, self._request("the token")) == "InvalidSecurityToken.Expired"


class TestRpcSignature:
    def _request(self, key: AccessKey = KEY, /, **changes: str) -> SignedRequest:
        parameters = {
            "AccessKeyId": key.id,
            "Action": "DescribeInstances",
            "ImageId": "a b*~/é",
            "SignatureMethod": "HMAC-SHA1",
            "SignatureNonce": "n",
            "SignatureVersion": "1.0",
            "Timestamp": DATE,
        } | changes
        parameters["Signature"] = Utils.get_rpcsignature(parameters, "GET", key.secret)
        return SignedRequest("GET", "/", list(parameters.items()))

    def test_what_the_sdk_signs_is_accepted(self, verifier: SignatureVerifier) -> None:
        assert verifier.verify(self._request()) is KEY

    def test_a_form_is_signed_with_the_query(self, verifier: SignatureVerifier) -> None:
        request = self._request()
        assert verifier.verify(replace(request, query=request.query[:3], form=request.query[3:])) is KEY

    def test_vector_of_the_product_documentation(self, clock: Any) -> None:
        """The worked example of Alibaba Cloud's page on the signature of RPC requests."""
        query = {
            "AccessKeyId": "testid",
            "Action": "DescribeRegions",
            "Format": "XML",
            "Signature": "OLeaidS1JvxuMvnyHOwuJ+uX5qY=",
            "SignatureMethod": "HMAC-SHA1",
            "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
            "SignatureVersion": "1.0",
            "Timestamp": "2016-02-23T12:46:24Z",
            "Version": "2014-05-26",
        }
        key = AccessKey("testid", "testsecret")
        clock.time = 1456231584.0
        verifier = SignatureVerifier({key.id: key}.get, clock)
        assert verifier.verify(SignedRequest("GET", "/", list(query.items()))) is key

    def test_signature_is_the_documented_one(self) -> None:
        """Signed here by the rule's words: percent-encoded twice, HMAC-SHA1, key with an ampersand."""
        text = "GET&%2F&AccessKeyId%3DYourAccessKeyId%26Action%3DX"
        digest = hmac.new(b"YourAccessKeySecret&", text.encode(), hashlib.sha1).digest()
        signed = Utils.get_rpcsignature({"AccessKeyId": KEY.id, "Action": "X"}, "GET", KEY.secret)
        assert signed == base64.b64encode(digest).decode()

    def test_a_changed_parameter_is_refused(self, verifier: SignatureVerifier) -> None:
        request = self._request()
        changed = [(n, "m-2" if n == "ImageId" else v) for n, v in request.query]
        assert _code(verifier, replace(request, query=changed)) == "SignatureDoesNotMatch"

    def test_a_header_that_nobody_signed_names_no_action(self, verifier: SignatureVerifier) -> None:
        request = replace(self._request(), headers=[("x-acs-action", "DeleteInstance")])
        assert verifier.verify(request) is KEY
        assert request.named("x-acs-action", "Action") == "DescribeInstances"

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            ("", "MissingSecurityToken"),
            ("other", "InvalidSecurityToken.MismatchWithAccessKey"),
            ("the token", ""),
        ],
    )
    def test_a_sessions_token(self, verifier: SignatureVerifier, token: str, code: str) -> None:
        request = self._request(SESSION, SecurityToken=token)
        if code:
            assert _code(verifier, request) == code
        else:
            assert verifier.verify(request) is SESSION

    def test_the_method_is_signed(self, verifier: SignatureVerifier) -> None:
        assert _code(verifier, replace(self._request(), method="POST")) == "SignatureDoesNotMatch"

    def test_a_refusal_shows_what_should_have_been_signed(self, verifier: SignatureVerifier) -> None:
        with pytest.raises(ApiError, match="server string to sign is:GET&%2F&AccessKeyId%3D"):
            verifier.verify(self._request(AccessKey(KEY.id, "guessed")))

    def test_a_nonce_is_good_for_once(self, verifier: SignatureVerifier) -> None:
        verifier.verify(self._request())
        assert _code(verifier, self._request()) == "SignatureNonceUsed"

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"SignatureMethod": "HMAC-MD5"}, "IncompleteSignature"),
            ({"SignatureVersion": "2.0"}, "IncompleteSignature"),
            ({"SignatureNonce": ""}, "MissingParameter"),
            ({"AccessKeyId": "nobody"}, "InvalidAccessKeyId.NotFound"),
            ({"Timestamp": "2023-11-14T22:30:20Z"}, "InvalidTimeStamp.Expired"),
            ({"Timestamp": "2023-11-14 22:13:20"}, "InvalidTimeStamp.Format"),
            ({"Timestamp": "2020-01-01T00:00:00Z"}, "InvalidTimeStamp.Expired"),
        ],
    )
    def test_refusals(self, verifier: SignatureVerifier, change: dict[str, str], code: str) -> None:
        assert _code(verifier, self._request(**change)) == code
