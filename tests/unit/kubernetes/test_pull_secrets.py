"""Pull secrets: what is read, what is folded, what is refused, and that nothing of it is told."""

import base64
import json
from typing import Any

import pytest

from caa.errors import InvalidArgumentError
from caa.kubernetes.pull_secrets import join, read


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def folded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("entry", "auth"),
    [
        ({"auth": "dTpw"}, "dTpw"),
        ({"auth": "dTpw", "username": "other", "password": "other", "email": "a@b"}, "dTpw"),
        ({"username": "u", "password": "p"}, folded("u:p")),
        ({"auth": "", "username": "u", "password": "pä:ß"}, folded("u:pä:ß")),
        ({"auth": None, "username": "u", "password": "p"}, folded("u:p")),
    ],
)
def test_entry_of_either_type_becomes_auth_alone(entry: dict[str, Any], auth: str) -> None:
    registries = {"registry.example": entry}
    assert read({".dockerconfigjson": encoded({"auths": registries})}) == {"registry.example": auth}
    assert read({".dockercfg": encoded(registries)}) == {"registry.example": auth}


@pytest.mark.parametrize("entry", [{}, {"username": "u"}, {"password": "p"}, {"auth": ""}])
def test_entry_without_credentials_is_left_out(entry: dict[str, str]) -> None:
    assert read({".dockerconfigjson": encoded({"auths": {"a": entry, "b": {"auth": "dTpw"}}})}) == {
        "b": "dTpw"
    }


@pytest.mark.parametrize("document", [{}, {"auths": None}, {"auths": {}}, {"credsStore": "x"}])
def test_document_without_registries(document: Any) -> None:
    assert read({".dockerconfigjson": encoded(document)}) == {}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tls.crt": "hunter2"},
        {".dockerconfigjson": "hunter2 is not base64"},
        {".dockerconfigjson": folded("hunter2 is not JSON")},
        {".dockerconfigjson": base64.b64encode(b"\xff\xfehunter2").decode()},
        {".dockerconfigjson": folded("[" * 100_000)},
        {".dockerconfigjson": encoded(["hunter2"])},
        {".dockerconfigjson": encoded({"auths": ["hunter2"]})},
        {".dockerconfigjson": encoded({"auths": {"a": "hunter2"}})},
        {".dockerconfigjson": encoded({"auths": {"a": {"auth": ["hunter2"]}}})},
        {".dockercfg": encoded({"a": {"username": "u", "password": {"hunter2": 1}}})},
        {".dockercfg": encoded({"a": {"username": "u", "password": "hunter2\ud800"}})},
        {".dockercfg": encoded({f"r{number}": {"auth": "hunter2"} for number in range(300)})},
        {".dockerconfigjson": "A" * 2_000_000},
        {".dockerconfigjson": ["hunter2"]},
    ],
)
def test_what_is_none_is_refused_without_telling_its_content(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        read(data)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_joined_the_last_one_counts_and_the_order_of_registries_does_not() -> None:
    one, other = {"a": "first", "b": "first"}, {"b": "last", "c": "last"}
    document = join([one, other])
    assert document is not None
    assert json.loads(document) == {
        "auths": {"a": {"auth": "first"}, "b": {"auth": "last"}, "c": {"auth": "last"}}
    }
    assert join([{"b": "first", "a": "first"}, other]) == document


def test_nothing_joined_is_no_document() -> None:
    assert join([]) is None
    assert join([{}, {}]) is None
