"""Role sessions (RRSA) against an STS that verifies tokens, ends sessions and refuses."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from caa.config import AlibabaCloudSettings, load
from caa.errors import CaaError, PermissionDeniedError, StartupError
from caa.fakecloud import Fault, LocalCloud
from caa.providers.alibabacloud import AlibabaCloud
from caa.providers.alibabacloud.credentials import RoleSession

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakeProvider = Callable[..., AlibabaCloud]
MakePodVm = Callable[..., Any]
Until = Callable[[Callable[[], object], str], Awaitable[None]]


class Clock:
    """The time, as long as nobody moves it on."""

    def __init__(self) -> None:
        self.moved = 0.0

    def __call__(self) -> float:
        return time.time() + self.moved


@pytest.fixture
async def rrsa_cloud(start_cloud: StartCloud) -> LocalCloud:
    return await start_cloud(credentials="rrsa")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def session(rrsa_cloud: LocalCloud, clock: Clock) -> AsyncIterator[RoleSession]:
    session = RoleSession(settings_of(rrsa_cloud), clock)
    yield session
    await session.close()


def settings_of(cloud: LocalCloud) -> AlibabaCloudSettings:
    return load({}, cloud.environment).alibabacloud


def key_of(session: RoleSession) -> str:
    return str(session.get_credentials().get_access_key_id())


def assumed(cloud: LocalCloud) -> int:
    return sum(call.outcome == "ok" for call in cloud.calls.of("AssumeRoleWithOIDC"))


async def test_one_session_serves_many_at_once(rrsa_cloud: LocalCloud, session: RoleSession) -> None:
    await asyncio.gather(*(session.ready() for _ in range(10)))
    assert assumed(rrsa_cloud) == 1
    assert session.sdk.get_credential().security_token


async def test_renewal_does_not_hold_up_a_request(rrsa_cloud: LocalCloud, session: RoleSession) -> None:
    await session.ready()
    first = key_of(session)
    rrsa_cloud.faults.add(Fault(action="AssumeRoleWithOIDC", delay=0.3))
    renewal = session._renew()
    await session.ready()
    assert key_of(session) == first
    assert not renewal.done()
    await renewal
    assert key_of(session) != first


async def test_a_session_is_renewed_before_it_ends_without_being_asked(
    start_cloud: StartCloud, until: Until
) -> None:
    cloud = await start_cloud(credentials="rrsa", session_seconds=2)
    session = RoleSession(settings_of(cloud))
    try:
        await session.ready()
        await until(lambda: assumed(cloud) >= 2, "a renewal")
    finally:
        await session.close()


async def test_a_failed_renewal_leaves_the_session_in_use(
    rrsa_cloud: LocalCloud, session: RoleSession, clock: Clock
) -> None:
    await session.ready()
    first = key_of(session)
    rrsa_cloud.faults.add(Fault(action="AssumeRoleWithOIDC", code="NoPermission", status=403))
    with pytest.raises(PermissionDeniedError):
        await session._renew()
    await session.ready()
    assert key_of(session) == first
    assert session._timer is not None

    # Once it has ended, a request waits for a new one, and is told if there is none.
    clock.moved = 3600
    rrsa_cloud.faults.add(Fault(action="AssumeRoleWithOIDC", code="NoPermission", status=403))
    with pytest.raises(PermissionDeniedError, match="AssumeRoleWithOIDC: NoPermission"):
        await session.ready()


async def test_the_token_is_read_anew_each_time(rrsa_cloud: LocalCloud, session: RoleSession) -> None:
    file = Path(rrsa_cloud.environment["ALIBABA_CLOUD_OIDC_TOKEN_FILE"])
    await session.ready()
    first = key_of(session)
    file.write_text(rrsa_cloud.issuer.mint(rrsa_cloud.settings.service_account, seconds=-60))
    with pytest.raises(PermissionDeniedError, match=r"AuthenticationFail\.OIDCToken\.Expired"):
        await session.renew()
    file.write_text(rrsa_cloud.mint_token() + "\n")
    assert await session.renew()
    assert key_of(session) != first


async def test_a_token_that_has_gone(rrsa_cloud: LocalCloud, session: RoleSession, tmp_path: Path) -> None:
    file = Path(rrsa_cloud.environment["ALIBABA_CLOUD_OIDC_TOKEN_FILE"])
    kept = file.rename(tmp_path / "kept")
    with pytest.raises(CaaError, match=f"ALIBABA_CLOUD_OIDC_TOKEN_FILE={file}: No such file"):
        await session.ready()
    kept.rename(file)
    await session.ready()


async def test_what_sts_answers_is_told(rrsa_cloud: LocalCloud, make_provider: MakeProvider) -> None:
    file = Path(rrsa_cloud.environment["ALIBABA_CLOUD_OIDC_TOKEN_FILE"])
    token = rrsa_cloud.issuer.mint("system:serviceaccount:default:other", seconds=60)
    file.write_text(token)
    with pytest.raises(
        StartupError,
        match=r"^AssumeRoleWithOIDC: AuthenticationFail\.NoPermission for role acs:ram::\d+:role/caa-alibaba:"
        r" There is no permission \(request [-0-9A-F]+\): the role's trust policy must name.*",
    ) as caught:
        await make_provider(rrsa_cloud).check(verify=False)
    assert token not in str(caught.value)


async def test_an_sts_in_trouble_is_asked_again(rrsa_cloud: LocalCloud, session: RoleSession) -> None:
    rrsa_cloud.faults.add(Fault(action="AssumeRoleWithOIDC", drop="after"))
    rrsa_cloud.faults.add(Fault(action="AssumeRoleWithOIDC", code="Throttling.User", status=400))
    await session.ready()
    assert assumed(rrsa_cloud) == 1


async def test_a_session_that_the_cloud_calls_expired_is_replaced(
    rrsa_cloud: LocalCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    provider = make_provider(rrsa_cloud)
    vm = pod_vm(provider)
    await vm.launch()
    rrsa_cloud.faults.add(
        Fault(action="DescribeInstanceAttribute", code="InvalidSecurityToken.Expired", status=403)
    )
    assert await vm.finish()
    assert assumed(rrsa_cloud) == 2


async def test_an_expired_session_of_somebody_elses_is_told(
    cloud: LocalCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud.faults.add(Fault(action="RunInstances", code="InvalidSecurityToken.Expired", status=403))
    with pytest.raises(PermissionDeniedError, match="give a new ALIBABACLOUD_SECURITY_TOKEN"):
        await pod_vm(make_provider(cloud)).launch()


async def test_closing_in_the_middle_of_a_renewal(rrsa_cloud: LocalCloud, until: Until) -> None:
    session = RoleSession(settings_of(rrsa_cloud))
    rrsa_cloud.faults.add(Fault(action="AssumeRoleWithOIDC", delay=0.2))
    waiting = asyncio.create_task(session.ready())
    await until(lambda: rrsa_cloud.calls.of("AssumeRoleWithOIDC"), "the request")
    waiting.cancel()
    await asyncio.wait([waiting])
    await session.close()
    assert session._timer is None
