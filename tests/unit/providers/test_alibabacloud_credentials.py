from collections.abc import Callable

import pytest
import structlog

from caa.config import AlibabaCloudSettings
from caa.errors import StartupError
from caa.providers.alibabacloud.credentials import AccessKey, RoleSession, credentials_for

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
    assert credentials.left() is None


@pytest.mark.parametrize("role", [RRSA, {"ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/caa"}, {}])
def test_what_is_passed_over_is_told(make_settings: MakeSettings, role: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as logs:
        credentials_for(make_settings(**role))
    assert [entry["passed_over"] for entry in logs] == ([", ".join(role)] if role else [])
    assert "key-secret" not in str(logs)


def test_a_security_token_without_its_key(make_settings: MakeSettings) -> None:
    with pytest.raises(StartupError, match="ALIBABACLOUD_SECURITY_TOKEN is set but its key is not") as caught:
        credentials_for(make_settings(**NO_KEY, **RRSA, ALIBABACLOUD_SECURITY_TOKEN="some-token"))
    assert "some-token" not in str(caught.value)


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
    assert f"without {given} the role (RRSA) would be used" in str(caught.value)
    with pytest.raises(StartupError, match=r"an access key is both of them$"):
        credentials_for(make_settings(**(NO_KEY | {given: "half-of-a-key"})))


def test_a_role(make_settings: MakeSettings) -> None:
    credentials = credentials_for(make_settings(**NO_KEY, **RRSA))
    assert isinstance(credentials, RoleSession)
    assert credentials.left() == 0.0


@pytest.mark.parametrize("missing", RRSA)
def test_one_variable_of_the_role_is_missing(make_settings: MakeSettings, missing: str) -> None:
    with pytest.raises(StartupError, match=f"^{missing} not set"):
        credentials_for(make_settings(**(NO_KEY | RRSA | {missing: ""})))


def test_nothing_at_all_explains_both_ways(make_settings: MakeSettings) -> None:
    with pytest.raises(StartupError, match="no credentials") as caught:
        credentials_for(make_settings(**NO_KEY))
    for name in (*NO_KEY, *RRSA):
        assert name in str(caught.value)
