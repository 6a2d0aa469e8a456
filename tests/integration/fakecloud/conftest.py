"""A local cloud per test, and the unmodified SDKs pointed at it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_credentials.client import Client as CredentialClient
from alibabacloud_credentials.provider import OIDCRoleArnCredentialsProvider
from alibabacloud_ecs20140526.client import Client as EcsClient
from alibabacloud_ecs20140526.models import RunInstancesRequest
from alibabacloud_tea_openapi.utils_models import Config
from alibabacloud_vpc20160428.client import Client as VpcClient
from darabonba.core import DaraCore
from Tea.core import TeaCore

from caa.fakecloud import FakeCloudSettings, LocalCloud, Timings

QUICK = Timings(**{each.name: 0 for each in fields(Timings) if each.name != "importing"})

StartCloud = Callable[..., AbstractAsyncContextManager[LocalCloud]]


@pytest.fixture(autouse=True)
def _close_sessions() -> Iterator[None]:
    """The SDKs keep their connections in class attributes until the process ends."""
    yield
    for core in (DaraCore, TeaCore):
        while core._sessions:
            core._sessions.popitem()[1].close()


@pytest.fixture
def start_cloud(tmp_path: Path) -> StartCloud:
    @contextlib.asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[LocalCloud]:
        async with LocalCloud(FakeCloudSettings(dir=tmp_path / "cloud", **settings)) as cloud:
            yield cloud

    return start


@pytest.fixture
async def cloud(start_cloud: StartCloud) -> AsyncIterator[LocalCloud]:
    async with start_cloud(credentials="keys", timings=QUICK, policy="full") as cloud:
        yield cloud


class Sdk:
    """The unmodified clients, set up for a local cloud."""

    def config(self, cloud: LocalCloud, **more: Any) -> Config:
        protocol, _, endpoint = cloud.environment["ALIBABACLOUD_ECS_ENDPOINT"].partition("://")
        known = {
            "endpoint": endpoint,
            "protocol": protocol,
            "region_id": cloud.environment["REGION"],
            "ca": cloud.environment.get("ALIBABACLOUD_CA_FILE"),
        }
        if "credential" not in more:
            known |= {"access_key_id": cloud.keys.own.id, "access_key_secret": cloud.keys.own.secret}
        return Config(**(known | more))

    def ecs(self, cloud: LocalCloud, **more: Any) -> EcsClient:
        return EcsClient(self.config(cloud, **more))

    def vpc(self, cloud: LocalCloud, **more: Any) -> VpcClient:
        return VpcClient(self.config(cloud, **more))

    def role(self, cloud: LocalCloud, **more: Any) -> OIDCRoleArnCredentialsProvider:
        """What gets a session with the service account's token."""
        known = {
            "role_arn": cloud.environment["ALIBABA_CLOUD_ROLE_ARN"],
            "oidc_provider_arn": cloud.environment["ALIBABA_CLOUD_OIDC_PROVIDER_ARN"],
            "oidc_token_file_path": cloud.environment["ALIBABA_CLOUD_OIDC_TOKEN_FILE"],
            # With its scheme: the provider has no other way to speak plain HTTP.
            "sts_endpoint": cloud.environment["ALIBABACLOUD_STS_ENDPOINT"],
        }
        return OIDCRoleArnCredentialsProvider(**(known | more))

    def credential(self, cloud: LocalCloud) -> CredentialClient:
        return CredentialClient(provider=self.role(cloud))

    def run_request(self, cloud: LocalCloud, **changes: Any) -> RunInstancesRequest:
        environment = cloud.environment
        known = {
            "region_id": environment["REGION"],
            "image_id": environment["IMAGEID"],
            "instance_type": "ecs.g8i.xlarge",
            "v_switch_id": environment["VSWITCH_ID"],
            "security_group_ids": [environment["SECURITY_GROUP_IDS"]],
            "amount": 1,
            "instance_name": "podvm-nginx-12345678",
        }
        return RunInstancesRequest(**(known | changes))


@pytest.fixture
def sdk() -> Sdk:
    return Sdk()


@pytest.fixture
def ecs(cloud: LocalCloud, sdk: Sdk) -> EcsClient:
    return sdk.ecs(cloud)
