import base64
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from caa.fakecloud import FakeCloudSettings, VSwitch
from caa.fakecloud.ecs import Ecs
from caa.fakecloud.errors import ApiError
from caa.fakecloud.instances import Instances
from caa.fakecloud.orders import Order, read_order
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.timings import Timings
from caa.fakecloud.vswitches import AddressPool

SETTINGS = FakeCloudSettings(
    dir=Path("/nonexistent"),
    vswitches=(
        VSwitch("vsw-i", "cn-beijing-i", IPv4Network("10.64.0.0/24")),
        VSwitch("vsw-l", "cn-beijing-l", IPv4Network("10.64.1.0/24")),
    ),
    security_groups=(("sg-1", "vpc-1"), ("sg-2", "vpc-1"), ("sg-other", "vpc-2")),
    vpc_id="vpc-1",
    policy="full",
)
GOOD = {
    "RegionId": "cn-beijing",
    "Amount": "1",
    "MinAmount": "1",
    "ImageId": "m-2ze1w9aj2aonwckv64cw",
    "InstanceType": "ecs.g8i.xlarge",
    "InstanceChargeType": "PostPaid",
    "InstanceName": "podvm-nginx-12345678",
    "SecurityGroupIds.1": "sg-1",
    "SecurityGroupIds.2": "sg-2",
    "VSwitchId": "vsw-i",
    "UserData": base64.b64encode(b"#cloud-config\n").decode(),
    "Tag.1.Key": "team",
    "Tag.1.Value": "ml",
    "Tag.2.Key": "flag",
    "SystemDisk.Category": "cloud_essd",
    "SystemDisk.Size": "40",
    "SecurityOptions.ConfidentialComputingMode": "TDX",
    "KeyPairName": "local-key",
    "InternetChargeType": "PayByTraffic",
    "InternetMaxBandwidthOut": "100",
}


def _pools() -> list[AddressPool]:
    return [AddressPool(each) for each in SETTINGS.vswitches]


def _read(changes: dict[str, str | None]) -> Order:
    values = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return read_order(Parameters(values), SETTINGS, _pools())


def test_everything_that_is_asked_for_is_in_the_order() -> None:
    order = _read({})
    assert (order.name, order.image_id, order.type.id) == (
        "podvm-nginx-12345678",
        "m-2ze1w9aj2aonwckv64cw",
        "ecs.g8i.xlarge",
    )
    assert order.pool.vswitch.id == "vsw-i"
    assert order.security_group_ids == ("sg-1", "sg-2")
    assert order.user_data == b"#cloud-config\n"
    assert order.tags == {"team": "ml", "flag": ""}
    assert (order.confidential, order.key_pair) == (True, "local-key")
    assert (order.disk_category, order.disk_gib, order.internet_mbps) == ("cloud_essd", 40, 100)


def test_little_needs_to_be_said() -> None:
    needed = ("RegionId", "ImageId", "InstanceType", "VSwitchId", "SecurityGroupIds.1")
    order = read_order(Parameters({name: GOOD[name] for name in needed}), SETTINGS, _pools())
    assert (order.user_data, order.tags, order.confidential, order.disk_gib) == (b"", {}, False, 40)


BIG = base64.b64encode(b"x" * (32 * 1024 + 1)).decode()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"RegionId": None}, 400, "MissingParameter"),
        ({"RegionId": "cn-hangzhou"}, 404, "InvalidRegionId.NotFound"),
        ({"ImageId": None}, 400, "MissingParameter"),
        ({"ImageId": "m-none"}, 404, "InvalidImageId.NotFound"),
        ({"InstanceType": "ecs.none.large"}, 400, "InvalidInstanceType.ValueNotSupported"),
        ({"InstanceType": "ecs.g7.xlarge"}, 400, "InvalidInstanceType.ValueNotSupported"),
        ({"VSwitchId": "vsw-l"}, 400, "InvalidInstanceType.ValueNotSupported"),
        ({"VSwitchId": "vsw-none"}, 404, "InvalidVSwitchId.NotFound"),
        ({"ZoneId": "cn-beijing-l"}, 400, "InvalidParameter.Mismatch"),
        ({"SecurityGroupIds.1": None, "SecurityGroupIds.2": None}, 400, "MissingParameter"),
        ({"SecurityGroupIds.2": "sg-none"}, 404, "InvalidSecurityGroupId.NotFound"),
        ({"SecurityGroupIds.2": "sg-other"}, 400, "InvalidParameter.Mismatch"),
        ({"SecurityGroupIds.2": "sg-1"}, 400, "InvalidParameter"),
        ({"SecurityGroupId": "sg-1"}, 400, "InvalidParameter.Conflict"),
        ({"Amount": "2"}, 400, "InvalidParameter"),
        ({"Amount": "one"}, 400, "InvalidParameter"),
        ({"InstanceChargeType": "PrePaid"}, 404, "InvalidInstanceChargeType.NotFound"),
        ({"InstanceName": "1st"}, 400, "InvalidInstanceName.Malformed"),
        ({"InstanceName": "a" * 129}, 400, "InvalidInstanceName.Malformed"),
        ({"InstanceName": "http://x"}, 400, "InvalidInstanceName.Malformed"),
        ({"UserData": "%%%"}, 403, "InvalidUserData.Base64FormatInvalid"),
        ({"UserData": "é"}, 403, "InvalidUserData.Base64FormatInvalid"),
        ({"UserData": BIG}, 400, "InvalidUserData.SizeExceeded"),
        ({"Tag.2.Key": "acs:x"}, 400, "InvalidTagKey.Malformed"),
        ({"Tag.2.Key": None, "Tag.2.Value": "x"}, 400, "InvalidTagKey.Malformed"),
        ({"Tag.2.Key": "k" * 129}, 400, "InvalidTagKey.Malformed"),
        ({"Tag.1.Value": "http://x"}, 400, "InvalidTagValue.Malformed"),
        ({"Tag.2.Key": "team"}, 400, "Duplicate.TagKey"),
        ({f"Tag.{n}.Key": f"k{n}" for n in range(3, 22)}, 400, "InvalidParameter.TagKey"),
        ({"SystemDisk.Category": "floppy"}, 400, "InvalidSystemDiskCategory.ValueNotSupported"),
        ({"SystemDisk.Size": "10"}, 400, "InvalidSystemDiskSize.ValueNotSupported"),
        ({"SystemDisk.Size": "²"}, 400, "InvalidSystemDiskSize.ValueNotSupported"),
        ({"SecurityOptions.ConfidentialComputingMode": "SGX"}, 400, "InvalidParameter"),
        ({"KeyPairName": "none"}, 404, "InvalidKeyPairName.NotFound"),
        ({"InternetChargeType": "Free"}, 400, "InvalidInternetChargeType.ValueNotSupported"),
        ({"InternetMaxBandwidthOut": "101"}, 400, "InvalidParameter"),
        ({"HibernationOptions.Configured": "true"}, 400, "UnsupportedParameter"),
    ],
)
def test_refusals(changes: dict[str, str | None], status: int, code: str) -> None:
    with pytest.raises(ApiError) as refusal:
        _read(changes)
    assert (refusal.value.status, refusal.value.code) == (status, code)


class _NoMachines:
    async def start(self, machine: Any) -> None: ...
    async def stop(self, instance_id: str) -> None: ...
    async def close(self) -> None: ...


class TestRunInstances:
    @pytest.fixture
    async def instances(self, clock: Any) -> Any:
        instances = Instances(_NoMachines(), clock, Timings(), 0)
        yield instances
        await instances.close()

    @pytest.fixture
    def ecs(self, instances: Instances) -> Ecs:
        return Ecs(SETTINGS, instances, _pools())

    def _run(self, ecs: Ecs, **changes: str) -> str:
        ids = ecs.run_instances(Parameters(GOOD | changes))["InstanceIdSets"]["InstanceIdSet"]
        assert len(ids) == 1
        return str(ids[0])

    async def test_a_token_makes_one_instance(self, ecs: Ecs, instances: Instances) -> None:
        assert self._run(ecs, ClientToken="t") == self._run(ecs, ClientToken="t")
        assert len(list(instances)) == 1
        assert self._run(ecs, ClientToken="u") != self._run(ecs, ClientToken="t")

    async def test_without_a_token_each_call_makes_one(self, ecs: Ecs) -> None:
        assert self._run(ecs) != self._run(ecs)

    async def test_a_token_outlives_its_instance(self, ecs: Ecs, instances: Instances, clock: Any) -> None:
        instance_id = self._run(ecs, ClientToken="t")
        await clock.advance(10)
        instances.delete(instance_id, force=True)
        await clock.advance(10)
        assert self._run(ecs, ClientToken="t") == instance_id
        assert list(instances) == []

    async def test_a_token_with_other_parameters_is_refused(self, ecs: Ecs, instances: Instances) -> None:
        self._run(ecs, ClientToken="t")
        with pytest.raises(ApiError, match="IdempotentParameterMismatch"):
            self._run(ecs, ClientToken="t", InstanceName="podvm-other")
        assert len(list(instances)) == 1

    async def test_a_refused_call_leaves_its_token_free(self, ecs: Ecs) -> None:
        with pytest.raises(ApiError, match="InvalidImageId"):
            self._run(ecs, ClientToken="t", ImageId="m-none")
        assert self._run(ecs, ClientToken="t")

    @pytest.mark.parametrize("token", ["x" * 65, "é"])
    async def test_what_is_no_token(self, ecs: Ecs, token: str) -> None:
        with pytest.raises(ApiError, match="InvalidClientToken"):
            self._run(ecs, ClientToken=token)

    async def test_a_dry_run_makes_nothing(self, ecs: Ecs, instances: Instances) -> None:
        with pytest.raises(ApiError, match="DryRunOperation"):
            self._run(ecs, ClientToken="t", DryRun="true")
        with pytest.raises(ApiError, match="InvalidImageId"):
            self._run(ecs, DryRun="true", ImageId="m-none")
        assert list(instances) == []
        assert self._run(ecs, ClientToken="t")
