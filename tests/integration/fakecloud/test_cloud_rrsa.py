"""A service account's token against a session: alibabacloud_credentials, unmodified."""

import asyncio
import base64
import json
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_ecs20140526.models import DescribeInstanceAttributeRequest
from alibabacloud_tea_openapi.exceptions import ClientException
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from caa.fakecloud import LocalCloud
from caa.polling import growing, poll

NOBODY = DescribeInstanceAttributeRequest(instance_id="i-1")


async def _code(ecs: Any) -> str:
    with pytest.raises(ClientException) as refusal:
        await ecs.describe_instance_attribute_async(NOBODY)
    return str(refusal.value.code)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_role_session_may_call(
    start_cloud: Any, sdk: Any, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    async with start_cloud(tls=tls) as cloud:
        if tls:
            # The credentials package has no option for a CA; OpenSSL's own variable reaches it.
            monkeypatch.setenv("SSL_CERT_FILE", cloud.environment["ALIBABACLOUD_CA_FILE"])
        ecs = sdk.ecs(cloud, credential=sdk.credential(cloud))
        # Signed with the session's key and token; it is only the instance that is not there.
        assert await _code(ecs) == "InvalidInstanceId.NotFound"
        with pytest.raises(ClientException) as refusal:
            await asyncio.to_thread(ecs.describe_instance_attribute, NOBODY)
        assert refusal.value.code == "InvalidInstanceId.NotFound"
        assert len(cloud.calls.of("AssumeRoleWithOIDC")) == 1


async def test_sync_and_async_providers(start_cloud: Any, sdk: Any) -> None:
    async with start_cloud() as cloud:
        one = await asyncio.to_thread(sdk.role(cloud).get_credentials)
        two = await sdk.role(cloud).get_credentials_async()
        for each in (one, two):
            assert each.get_access_key_id().startswith("STS.")
            assert cloud.keys.find(each.get_access_key_id()).session_token == each.get_security_token()
        assert one.get_access_key_id() != two.get_access_key_id()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"seconds": -1}, "AuthenticationFail.OIDCToken.Expired"),
        ({"audience": "kubernetes.default.svc"}, "AuthenticationFail.OIDCToken.AudienceNotMatch"),
        ({"subject": "system:serviceaccount:default:default"}, "AuthenticationFail.NoPermission"),
    ],
)
async def test_a_token_that_the_role_does_not_trust(
    start_cloud: Any, sdk: Any, tmp_path: Path, order: dict[str, Any], message: str
) -> None:
    async with start_cloud() as cloud, aiohttp.ClientSession(cloud.ecs_endpoint) as http:
        async with http.post("/local/token", json=order) as answer:
            token = (await answer.json())["token"]
        (tmp_path / "token").write_text(token)
        provider = sdk.role(cloud, oidc_token_file_path=str(tmp_path / "token"))
        with pytest.raises(CredentialException, match=message):
            await provider.get_credentials_async()
        with pytest.raises(CredentialException, match="http_code: 401"):
            await asyncio.to_thread(provider.get_credentials)


async def test_a_role_that_is_not_there(start_cloud: Any, sdk: Any) -> None:
    async with start_cloud() as cloud:
        provider = sdk.role(cloud, role_arn="acs:ram::1:role/none")
        with pytest.raises(CredentialException, match=r"EntityNotExist\.Role"):
            await provider.get_credentials_async()


async def test_an_expired_session(start_cloud: Any, sdk: Any) -> None:
    async with start_cloud(session_seconds=0) as cloud:
        session = cloud.keys.issue(0)
        ecs = sdk.ecs(
            cloud,
            access_key_id=session.id,
            access_key_secret=session.secret,
            security_token=session.session_token,
        )
        assert await _code(ecs) == "InvalidSecurityToken.Expired"


async def test_a_session_that_ends_soon_is_renewed_by_the_package(start_cloud: Any, sdk: Any) -> None:
    """It renews from 15 minutes before the end: with a session no longer than that, at each call."""
    async with start_cloud(session_seconds=600) as cloud:
        ecs = sdk.ecs(cloud, credential=sdk.credential(cloud))
        for _ in range(3):
            assert await _code(ecs) == "InvalidInstanceId.NotFound"
        assert len(cloud.calls.of("AssumeRoleWithOIDC")) == 3


async def test_the_folder(start_cloud: Any) -> None:
    async with start_cloud(tls=True) as cloud:
        folder = cloud.settings.dir
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("env", "token"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        shell = await asyncio.create_subprocess_exec(
            "sh", "-c", "set -a; . ./env; exec env", cwd=folder, stdout=asyncio.subprocess.PIPE, env={}
        )
        output, _ = await shell.communicate()
        sourced = dict(line.split("=", 1) for line in output.decode().splitlines())
        assert cloud.environment.items() <= sourced.items()
        assert Path(sourced["ALIBABA_CLOUD_OIDC_TOKEN_FILE"]).read_text().count(".") == 2
    assert list(folder.iterdir()) == []


async def test_the_token_is_replaced_before_it_expires(start_cloud: Any) -> None:
    def end() -> int:
        claims = path.read_text().split(".")[1]
        return int(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])

    async with start_cloud(token_seconds=1) as cloud:
        path = cloud.settings.dir / "token"
        first = end()

        async def later() -> tuple[bool | None, str]:
            return end() > first or None, "the first token"

        assert await poll(later, what="another token", pauses=growing(0.05), timeout=10)


async def test_anybody_can_verify_a_token_with_what_the_issuer_publishes(start_cloud: Any) -> None:
    def number(text: str) -> int:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))

    async with start_cloud() as cloud, aiohttp.ClientSession() as http:
        token = (cloud.settings.dir / "token").read_text()
        header, claims, signature = (
            base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")
        )
        issuer = json.loads(claims)["iss"]
        async with http.get(f"{issuer}/.well-known/openid-configuration") as answer:
            configuration = await answer.json()
        assert configuration["issuer"] == issuer
        async with http.get(configuration["jwks_uri"]) as answer:
            [key] = (await answer.json())["keys"]
        assert json.loads(header)["kid"] == key["kid"]
        public = rsa.RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key()
        public.verify(signature, token.rpartition(".")[0].encode(), padding.PKCS1v15(), hashes.SHA256())


async def test_static_keys_in_the_environment(cloud: LocalCloud, sdk: Any) -> None:
    environment = cloud.environment
    assert "ALIBABA_CLOUD_ROLE_ARN" not in environment
    ecs = sdk.ecs(
        cloud,
        access_key_id=environment["ALIBABACLOUD_ACCESS_KEY_ID"],
        access_key_secret=environment["ALIBABACLOUD_ACCESS_KEY_SECRET"],
    )
    assert await _code(ecs) == "InvalidInstanceId.NotFound"
