"""Role sessions that live a second, service account tokens that are replaced, and creates all the while."""

import asyncio
from collections.abc import Awaitable, Callable

from caa.config import load
from caa.fakecloud import Fault, LocalCloud
from caa.providers.alibabacloud.client import ECS, Client
from caa.providers.alibabacloud.credentials import RoleSession

StartCloud = Callable[..., Awaitable[LocalCloud]]

CREATES, SESSIONS = 200, 5


async def test_creates_never_notice(start_cloud: StartCloud) -> None:
    cloud = await start_cloud(credentials="rrsa", session_seconds=1, token_seconds=6)
    settings = load({}, cloud.environment).alibabacloud
    credentials = RoleSession(settings)
    ecs = Client(
        ECS, endpoint=settings.ecs_endpoint, region=settings.region, ca_file="", credentials=credentials
    )
    # What goes wrong at STS meanwhile is its own business.
    for call in (3, 5):
        cloud.faults.add(Fault(action="AssumeRoleWithOIDC", nth=call, code="InternalError", status=500))

    async def create(number: int) -> str:
        request = {
            "RegionId": settings.region,
            "ImageId": settings.image_id,
            "InstanceType": "ecs.g8i.xlarge",
            "VSwitchId": settings.vswitch_ids[0],
            "SecurityGroupIds": list(settings.security_group_ids),
            "InstanceName": f"podvm-{number}",
            "ClientToken": f"token-{number}",
        }
        answer = await ecs.call("RunInstances", request)
        instance: str = answer["InstanceIdSets"]["InstanceIdSet"][0]
        return instance

    def sessions() -> int:
        return sum(call.outcome == "ok" for call in cloud.calls.of("AssumeRoleWithOIDC"))

    try:
        made = set()
        number = 0
        while number < CREATES or sessions() < SESSIONS:
            made |= set(await asyncio.gather(*(create(number + i) for i in range(4))))
            number += 4
            await asyncio.sleep(0.06)  # spreads them over several sessions: the load's own pace
        assert len(made) == number
        outcomes = {call.outcome for call in cloud.calls.of("RunInstances")}
        # A key that ended on the way is replaced, and the request signed anew.
        assert outcomes <= {"ok", "InvalidSecurityToken.Expired"}
    finally:
        await ecs.close()
        await credentials.close()
