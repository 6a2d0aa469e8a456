from collections.abc import Callable
from pathlib import Path

import pytest

from caa.config import AlibabaCloudSettings
from caa.errors import FailedPreconditionError, StartupError
from caa.providers.alibabacloud.credentials import AccessKey, RoleSession, credentials_for, read_token

MakeSettings = Callable[..., AlibabaCloudSettings]

NO_KEY = {"ALIBABACLOUD_ACCESS_KEY_ID": "", "ALIBABACLOUD_ACCESS_KEY_SECRET": ""}
RRSA = {
    "ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/caa",
    "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1:oidc-provider/x",
    "ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/var/run/token",
}


def test_an_access_key_comes_first(make_settings: MakeSettings) -> None:
    credentials = credentials_for(make_settings(**RRSA))
    assert isinstance(credentials, AccessKey)
    key = credentials.sdk.get_credential()
    assert (key.access_key_id, key.access_key_secret, key.security_token) == ("LTAI-id", "key-secret", None)


def test_an_access_key_with_a_session_token(make_settings: MakeSettings) -> None:
    credentials = credentials_for(make_settings(ALIBABACLOUD_SECURITY_TOKEN="token"))
    assert credentials.sdk.get_credential().security_token == "token"


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("ALIBABACLOUD_ACCESS_KEY_ID", "ALIBABACLOUD_ACCESS_KEY_SECRET"),
        ("ALIBABACLOUD_ACCESS_KEY_SECRET", "ALIBABACLOUD_ACCESS_KEY_ID"),
    ],
)
def test_half_an_access_key(make_settings: MakeSettings, given: str, missing: str) -> None:
    with pytest.raises(StartupError, match=f"{given} is set but {missing} is not") as caught:
        credentials_for(make_settings(**(NO_KEY | RRSA | {given: "half-of-a-key"})))
    assert "half-of-a-key" not in str(caught.value)


def test_a_role(make_settings: MakeSettings) -> None:
    assert isinstance(credentials_for(make_settings(**NO_KEY, **RRSA)), RoleSession)


@pytest.mark.parametrize("missing", RRSA)
def test_one_variable_of_the_role_is_missing(make_settings: MakeSettings, missing: str) -> None:
    with pytest.raises(StartupError, match=f"^{missing} not set"):
        credentials_for(make_settings(**(NO_KEY | RRSA | {missing: ""})))


def test_nothing_at_all_explains_both_ways(make_settings: MakeSettings) -> None:
    with pytest.raises(StartupError, match="no credentials") as caught:
        credentials_for(make_settings(**NO_KEY))
    for name in (*NO_KEY, *RRSA):
        assert name in str(caught.value)


def test_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for prepare, why in (
        (lambda: None, "No such file"),
        (lambda: path.write_text("\n"), "empty"),
        (lambda: path.write_bytes(b"\xff\xfe"), "not text"),
    ):
        prepare()
        with pytest.raises(FailedPreconditionError, match=rf"ALIBABA_CLOUD_OIDC_TOKEN_FILE={path}: .*{why}"):
            read_token(path)
    path.write_text("ey.ey.x\n")
    assert read_token(path) == "ey.ey.x"
    with pytest.raises(FailedPreconditionError, match="Is a directory"):
        read_token(tmp_path)
