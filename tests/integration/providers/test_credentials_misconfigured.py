"""Each way of being misconfigured has its own message, which names the remedy; and STS in trouble."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from caa.config import load
from caa.errors import CaaError
from caa.fakecloud import Fault, LocalCloud
from caa.providers.alibabacloud import credentials as module
from caa.providers.alibabacloud.credentials import RoleSession
from caa.providers.alibabacloud.errors import Kind, rule_for

StartCloud = Callable[..., Awaitable[LocalCloud]]

SUBJECT = "system:serviceaccount:confidential-containers-system:cloud-api-adaptor"


@pytest.fixture
async def rrsa(start_cloud: StartCloud) -> LocalCloud:
    return await start_cloud(credentials="rrsa")


def session_of(cloud: LocalCloud, **environ: str) -> RoleSession:
    settings = load({}, dict(cloud.environment) | environ).alibabacloud
    return RoleSession(settings, sts_timeout=1.0)


def token_file(cloud: LocalCloud) -> Path:
    return Path(cloud.environment["ALIBABA_CLOUD_OIDC_TOKEN_FILE"])


def minted(
    seconds: float = 60, audience: str = "sts.aliyuncs.com", **claims: str
) -> Callable[[LocalCloud], None]:
    def write(cloud: LocalCloud) -> None:
        subject = claims.pop("sub", SUBJECT)
        token_file(cloud).write_text(cloud.issuer.mint(subject, seconds=seconds, audience=audience, **claims))

    return write


def forged(cloud: LocalCloud) -> None:
    head, claims, signature = cloud.mint_token().split(".")
    token_file(cloud).write_text(f"{head}.{claims}.{signature[::-1]}")


def nothing(_cloud: LocalCloud) -> None:
    pass


OTHER_ROLE = {"ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1000000000000001:role/other"}
OTHER_PROVIDER = {"ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1000000000000001:oidc-provider/other"}
NO_STS = {"ALIBABACLOUD_STS_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("prepare", "environ", "told"),
    [
        (lambda cloud: token_file(cloud).unlink(), {}, "OIDC_TOKEN_FILE=.*: No such file.*token volume"),
        (lambda cloud: token_file(cloud).write_text(""), {}, "OIDC_TOKEN_FILE=.*: the file is empty"),
        (
            lambda cloud: token_file(cloud).write_text("x"),
            {},
            "OIDC_TOKEN_FILE=.*: it holds no JSON Web Token",
        ),
        (minted(-60), {}, r"Token\.Expired.*the kubelet replaces the token.*this node's clock; .* expiry 20"),
        (
            minted(audience="kubernetes"),
            {},
            "AudienceNotMatch.*must name the same audience.*audience kubernetes",
        ),
        (
            minted(iss="https://else.example"),
            {},
            "IssuerNotMatch.*another cluster's.*issuer https://else.example",
        ),
        (
            minted(sub="system:serviceaccount:x:y"),
            {},
            "NoPermission.*trust policy must.*subject system:s.*:x:y",
        ),
        (forged, {}, r"InvalidSignature.*could not verify the token.*fingerprints"),
        (nothing, OTHER_ROLE, "EntityNotExist.Role.*role/other.*check ALIBABA_CLOUD_ROLE_ARN"),
        (
            nothing,
            OTHER_PROVIDER,
            "NoPermission.*no such OIDC provider: check ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
        ),
        (nothing, NO_STS, "AssumeRoleWithOIDC.*Connection refused.*ALIBABACLOUD_STS_ENDPOINT"),
    ],
)
async def test_each_has_its_own_message(
    rrsa: LocalCloud, prepare: Callable[[LocalCloud], object], environ: dict[str, str], told: str
) -> None:
    prepare(rrsa)
    session = session_of(rrsa, **environ)
    try:
        with pytest.raises(CaaError, match=told) as caught:
            await session.ready()
        if token_file(rrsa).exists():
            held = token_file(rrsa).read_text()
            assert len(held) < 10 or held not in str(caught.value)
    finally:
        await session.close()


async def test_a_clock_that_is_an_hour_ahead(rrsa: LocalCloud) -> None:
    session = RoleSession(load({}, rrsa.environment).alibabacloud, lambda: time.time() + 3700)
    try:
        with pytest.raises(CaaError, match=r"a session that ended at .*check this node's clock"):
            await session.ready()
    finally:
        await session.close()


async def test_a_clock_that_is_behind_does_not_lengthen_a_session(rrsa: LocalCloud) -> None:
    session = RoleSession(load({}, rrsa.environment).alibabacloud, lambda: time.time() - 600)
    try:
        await session.ready()
        assert (session.left() or 0) <= module.SESSION_SECONDS
    finally:
        await session.close()


async def test_sts_down_the_old_session_serves_until_it_ends(rrsa: LocalCloud) -> None:
    moved = 0.0
    session = RoleSession(
        load({}, rrsa.environment).alibabacloud, lambda: time.time() + moved, sts_timeout=0.3
    )
    try:
        await session.ready()
        key = session.get_credentials()
        rrsa.faults.add(Fault(action="AssumeRoleWithOIDC", code="InternalError", share=1.0))
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(CaaError, match="InternalError"):
                    await session._renew()
                await session.ready()
                assert session.get_credentials() is key
        warnings = [entry for entry in logs if entry["log_level"] == "warning" and "left" in entry]
        assert len(warnings) == 3
        assert all(entry["left"] > 3000 for entry in warnings)
        moved = 3601.0
        assert session.left() == 0.0
        with pytest.raises(CaaError, match="InternalError"):
            await session.ready()
    finally:
        await session.close()


async def test_many_whose_session_ended_share_one_refresh(rrsa: LocalCloud) -> None:
    """Their answers come one after the other: the last hear of it when the next session is there already."""
    session = session_of(rrsa)
    try:
        await session.ready()
        await asyncio.gather(*(session.renew() for _ in range(20)))
        assert await session.renew()
        assert len(rrsa.calls.of("AssumeRoleWithOIDC")) == 2
        await session.ready()
        assert await session.renew()
        assert len(rrsa.calls.of("AssumeRoleWithOIDC")) == 3
    finally:
        await session.close()


def test_errors_are_told_apart_by_message() -> None:
    """STS has one code for two causes."""
    code = "AuthenticationFail.NoPermission"
    messages = ("There is no permission", "Parameter OIDCProviderArn is not valid")
    trust, provider = (rule_for(code, message, 401) for message in messages)
    assert trust.kind is provider.kind is Kind.DENIED
    assert "trust policy" in trust.remedy
    assert "OIDC provider" in provider.remedy
