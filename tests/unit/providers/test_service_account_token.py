import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import FailedPreconditionError
from caa.providers.alibabacloud.token import parse, read_token


def jwt(claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJSUzI1NiJ9.{part}.c2lnbmF0dXJl"


CLAIMS: dict[str, Any] = {
    "iss": "https://oidc.example",
    "aud": ["sts.aliyuncs.com"],
    "sub": "system:serviceaccount:ns:name",
    "exp": 2_000_000_000,
}


def test_claims() -> None:
    token = parse(jwt(CLAIMS))
    assert token.expires == 2e9
    assert token.service_account == "ns:name"
    assert str(token) == (
        "issuer https://oidc.example, audience sts.aliyuncs.com, subject system:serviceaccount:ns:name,"
        " expiry 2033-05-18T03:33:20Z"
    )
    assert token.text not in repr(token)


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({}, "issuer none, audience none, subject none, expiry none"),
        ({"aud": "one"}, "audience one,"),
        ({"aud": ["a", 2]}, "audience a, 2,"),
        ({"exp": "soon"}, "expiry none"),
        ({"exp": 1e300}, "expiry none"),
        ({"sub": "a\x1b[31m\nb"}, "subject a?[31m?b,"),
    ],
)
def test_odd_claims(claims: dict[str, Any], told: str) -> None:
    assert told in str(parse(jwt(claims)))


@given(st.text() | st.lists(st.text(alphabet="abcDEF019-_="), min_size=3, max_size=3).map(".".join))
def test_anything_else_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(\d+ parts|its claims|more than)") as caught:
        parse(text)
    assert len(text) < 20 or text not in str(caught.value)


@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "exp"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_any_claims_can_be_shown(claims: dict[str, Any]) -> None:
    assert "\n" not in str(parse(jwt(claims)))


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda _: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_text("\n"), "the file is empty"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "it is not text"),
        (lambda path: path.write_text("hunter2"), r"no JSON Web Token \(1 parts"),
        (lambda path: path.write_text("a.%.c"), r"no JSON Web Token \(its claims are not base64 of JSON"),
        (lambda path: path.write_text(jwt([])), r"no JSON Web Token \(its claims are no JSON object"),
        (lambda path: path.write_text("x" * 30_000), r"no JSON Web Token \(more than 20000"),
    ],
)
def test_files_that_hold_no_token(tmp_path: Path, prepare: Callable[[Path], object], why: str) -> None:
    path = tmp_path / "token"
    prepare(path)
    with pytest.raises(
        FailedPreconditionError, match=rf"^ALIBABA_CLOUD_OIDC_TOKEN_FILE={path}: .*{why}"
    ) as caught:
        read_token(path)
    assert "the pod needs the service account token volume for it" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_with_a_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(jwt(CLAIMS | {"exp": time.time()}) + "\n")
    assert read_token(path).subject == CLAIMS["sub"]
