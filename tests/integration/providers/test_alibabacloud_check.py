"""What is found out at startup."""

from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from typing import Any

import pytest
import structlog

from caa.errors import StartupError
from caa.fakecloud import Fault, LocalCloud, VSwitch
from caa.providers.alibabacloud import AlibabaCloud
from caa.providers.alibabacloud import provider as provider_module

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakeProvider = Callable[..., AlibabaCloud]
MakePodVm = Callable[..., Any]


@pytest.mark.parametrize("credentials", ["rrsa", "keys"])
@pytest.mark.parametrize("tls", [False, True])
async def test_all_is_well(
    start_cloud: StartCloud, make_provider: MakeProvider, credentials: str, tls: bool
) -> None:
    cloud = await start_cloud(credentials=credentials, tls=tls)
    await make_provider(cloud).check(verify=True)
    assert ("RunInstances", "DryRunOperation") in [(call.action, call.outcome) for call in cloud.calls]
    assert not list(cloud.instances)


async def test_nothing_costs_without_verify(cloud: LocalCloud, provider: AlibabaCloud) -> None:
    await provider.check(verify=False)
    assert not cloud.calls.of("RunInstances")


async def test_a_private_ca_has_to_be_given(start_cloud: StartCloud, make_provider: MakeProvider) -> None:
    cloud = await start_cloud(credentials="keys", tls=True)
    with pytest.raises(StartupError, match=r"untrusted certificate.*ALIBABACLOUD_CA_FILE"):
        await make_provider(cloud, ALIBABACLOUD_CA_FILE="").check(verify=False)


async def test_no_such_vswitch(cloud: LocalCloud, make_provider: MakeProvider) -> None:
    known = cloud.environment["VSWITCH_ID"]
    provider = make_provider(cloud, VSWITCH_ID=f"{known},vsw-missing")
    told = r"^no such vSwitch vsw-missing in region cn-beijing: .*InvalidVSwitchId\.NotFound.*\(request "
    with pytest.raises(StartupError, match=told):
        await provider.check(verify=False)


async def test_a_vswitch_of_another_vpc(cloud: LocalCloud, make_provider: MakeProvider) -> None:
    provider = make_provider(cloud)
    provider._settings = type(provider._settings)(**(vars(provider._settings) | {"vpc_id": "vpc-other"}))
    with pytest.raises(StartupError, match="is in vpc-2zelocalcloud0000000, not in vpc-other"):
        await provider.check(verify=False)


async def test_a_wrong_key(cloud: LocalCloud, make_provider: MakeProvider) -> None:
    with pytest.raises(
        StartupError, match=r"SignatureDoesNotMatch.*ALIBABACLOUD_ACCESS_KEY_SECRET"
    ) as caught:
        await make_provider(cloud, ALIBABACLOUD_ACCESS_KEY_SECRET="wrong-secret").check(verify=False)
    assert "wrong-secret" not in str(caught.value)
    with pytest.raises(StartupError, match=r"InvalidAccessKeyId\.NotFound"):
        await make_provider(cloud, ALIBABACLOUD_ACCESS_KEY_ID="LTAI-other").check(verify=False)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("IMAGEID", "m-missing", r"InvalidImageId\.NotFound.*check IMAGEID"),
        ("SECURITY_GROUP_IDS", "sg-missing", r"InvalidSecurityGroupId\.NotFound.*check SECURITY_GROUP_IDS"),
        ("KEYNAME", "missing", r"InvalidKeyPairName\.NotFound.*check KEYNAME"),
        ("PODVM_INSTANCE_TYPE", "ecs.missing.large", r"InvalidInstanceType.*for ecs\.missing\.large"),
        ("PODVM_INSTANCE_TYPE", "ecs.c7.large", r"for ecs\.c7\.large in cn-beijing-i.*TDX.*DISABLECVM=true"),
        ("SYSTEM_DISK_SIZE", "10", r"InvalidSystemDiskSize"),
    ],
)
async def test_verify_finds_a_bad_setting(
    cloud: LocalCloud, make_provider: MakeProvider, setting: str, value: str, told: str
) -> None:
    provider = make_provider(cloud, **{setting: value})
    await provider.check(verify=False)
    with pytest.raises(StartupError, match=rf"(?m)^a pod VM, by dry run: RunInstances: .*{told}"):
        await provider.check(verify=True)


async def test_a_right_beyond_the_policy_is_named_and_lived_without(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm
) -> None:
    with structlog.testing.capture_logs() as logs:
        await provider.check(verify=False)
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["action"] == "ecs:DescribeInstanceTypes"
    assert "built-in table" in warning["lost"]
    assert pod_vm(provider).types == ["ecs.g8i.xlarge"]


async def test_not_even_the_policys_rights(cloud: LocalCloud, provider: AlibabaCloud) -> None:
    cloud.faults.add(Fault(action="DescribeVSwitchAttributes", code="Forbidden.RAM", status=403))
    with structlog.testing.capture_logs() as logs:
        await provider.check(verify=False)
    assert "vpc:DescribeVSwitchAttributes" in {entry.get("action") for entry in logs}


async def test_sizes_come_from_the_cloud_where_it_tells_them(
    start_cloud: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start_cloud(credentials="keys", allow=("ecs:DescribeInstanceTypes",))
    types = "ecs.g8i.48xlarge,ecs.c8i.24xlarge,ecs.c8i.large"
    provider = make_provider(cloud, PODVM_INSTANCE_TYPES=types)
    # The built-in table does not have this one.
    wanted = {"vcpus": 90, "memory_mib": 100_000}
    assert pod_vm(provider, **wanted).types[0] == "ecs.g8i.48xlarge"
    await provider.check(verify=False)
    assert pod_vm(provider, **wanted).types[0] == "ecs.c8i.24xlarge"
    assert len(cloud.calls.of("DescribeInstanceTypes")) == 1


async def test_messages_name_the_zone_of_the_vswitch(
    start_cloud: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    vswitch = VSwitch("vsw-h", "cn-beijing-h", IPv4Network("10.64.32.0/24"))
    cloud = await start_cloud(credentials="keys", vswitches=(vswitch,))
    provider = make_provider(cloud)
    await provider.check(verify=False)
    with pytest.raises(
        Exception, match=r"ecs\.g8i\.xlarge in cn-beijing-h.*such as ecs\.g8i\.\* in cn-beijing-i"
    ):
        await pod_vm(provider).launch()


async def test_a_cloud_that_is_not_there(
    cloud: LocalCloud, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "CHECK_TIMEOUT", 0.5)
    await cloud.close()
    with pytest.raises(StartupError, match=r"Connection refused.*check REGION"):
        await make_provider(cloud).check(verify=False)
