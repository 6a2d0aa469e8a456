import base64
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from caa.fakecloud import FakeCloudSettings, NoBoot, VSwitch
from caa.fakecloud.actions import Service
from caa.fakecloud.addresses import Addresses
from caa.fakecloud.ecs import ecs as ecs_service
from caa.fakecloud.eips import Eips
from caa.fakecloud.enis import EniOrder, Enis
from caa.fakecloud.errors import ApiError
from caa.fakecloud.instances import Instances
from caa.fakecloud.orders import Order, read_order
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.security_groups import SecurityGroup
from caa.fakecloud.stock import Stock
from caa.fakecloud.templates import Templates
from caa.fakecloud.timings import Timings
from caa.fakecloud.vswitches import AddressPool

SETTINGS = FakeCloudSettings(
    dir=Path("/nonexistent"),
    vswitches=(
        VSwitch("vsw-i", "cn-beijing-i", IPv4Network("10.64.0.0/24")),
        VSwitch("vsw-l", "cn-beijing-l", IPv4Network("10.64.1.0/24")),
        VSwitch("vsw-z", "cn-beijing-z", IPv4Network("10.64.2.0/24")),
        VSwitch("vsw-tiny", "cn-beijing-i", IPv4Network("10.64.3.0/29")),
    ),
    security_groups=(
        SecurityGroup("sg-1", "vpc-1"),
        SecurityGroup("sg-2", "vpc-1"),
        SecurityGroup("sg-other", "vpc-2"),
    ),
    closed_zones=("cn-beijing-z",),
    not_offered=(("cn-beijing-l", "ecs.c6.xlarge"),),
    stock={("cn-beijing-i", "ecs.g8i.24xlarge"): 0},
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


def _region() -> Region:
    return Region(SETTINGS, [AddressPool(each) for each in SETTINGS.vswitches])


class _NoTime:
    def now(self) -> float:
        return 0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing waits here")


def _enis(quota: int = 10) -> Enis:
    return Enis(_NoTime(), Timings(), quota=quota)


def _read(changes: Mapping[str, str | None], region: Region | None = None, enis: Enis | None = None) -> Order:
    values = {name: value for name, value in ({**GOOD, **changes}).items() if value is not None}
    return read_order(Parameters(values), region or _region(), enis or _enis())


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
    order = read_order(Parameters({name: GOOD[name] for name in needed}), _region(), _enis())
    assert (order.user_data, order.tags, order.confidential, order.disk_gib) == (b"", {}, False, 40)


NO_TDX: dict[str, str | None] = {"SecurityOptions.ConfidentialComputingMode": None}
ENI_LIMIT = "EniPerInstanceLimitExceeded"
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
        ({"UserData": "%%%"}, 400, "InvalidUserData.Base64FormatInvalid"),
        ({"UserData": "é"}, 400, "InvalidUserData.Base64FormatInvalid"),
        ({"UserData": BIG}, 400, "InvalidUserData.SizeExceeded"),
        ({"Tag.2.Key": "acs:x"}, 400, "InvalidTagKey.Malformed"),
        ({"Tag.2.Key": None, "Tag.2.Value": "x"}, 400, "InvalidTagKey.Malformed"),
        ({"Tag.2.Key": "k" * 129}, 400, "InvalidTagKey.Malformed"),
        ({"Tag.1.Value": "http://x"}, 400, "InvalidTagValue.Malformed"),
        ({"Tag.2.Key": "team"}, 400, "Duplicate.TagKey"),
        ({f"Tag.{n}.Key": f"k{n}" for n in range(3, 22)}, 400, "InvalidTagCount"),
        ({"SystemDisk.Category": "floppy"}, 400, "InvalidSystemDiskCategory.ValueNotSupported"),
        ({"SystemDisk.Size": "10"}, 400, "InvalidSystemDiskSize.ValueNotSupported"),
        ({"SystemDisk.Size": "²"}, 400, "InvalidSystemDiskSize.ValueNotSupported"),
        ({"SecurityOptions.ConfidentialComputingMode": "SGX"}, 400, "InvalidParameter"),
        ({"KeyPairName": "none"}, 404, "InvalidKeyPairName.NotFound"),
        ({"InternetChargeType": "Free"}, 400, "InvalidInternetChargeType.ValueNotSupported"),
        ({"InternetMaxBandwidthOut": "101"}, 400, "InvalidParameter"),
        ({"HibernationOptions.Configured": "true"}, 400, "UnsupportedParameter"),
        ({"InstanceType": "ecs.g8i.24xlarge"}, 403, "OperationDenied.NoStock"),
        (NO_TDX | {"VSwitchId": "vsw-z"}, 403, "Zone.NotOnSale"),
        (
            NO_TDX | {"VSwitchId": "vsw-l", "InstanceType": "ecs.c6.xlarge"},
            403,
            "InvalidResourceType.NotSupported",
        ),
        ({"PrivateIpAddress": "10.64.0"}, 400, "InvalidPrivateIpAddress.Malformed"),
        ({"PrivateIpAddress": "10.64.1.5"}, 400, "InvalidPrivateIpAddress"),
        ({"PrivateIpAddress": "10.64.0.253"}, 400, "InvalidPrivateIpAddress"),
        ({"NetworkInterface.1.InstanceType": "Primary"}, 400, "InvalidParameter"),
        ({"NetworkInterface.1.VSwitchId": "vsw-none"}, 404, "InvalidVSwitchId.NotFound"),
        ({"NetworkInterface.1.VSwitchId": "vsw-l"}, 403, "InvalidOperation.AvailabilityZoneMismatch"),
        ({"NetworkInterface.1.SecurityGroupId": "sg-none"}, 404, "InvalidSecurityGroupId.NotFound"),
        ({"NetworkInterface.1.NetworkInterfaceName": "1st"}, 400, "InvalidParameter"),
        ({"NetworkInterface.1.NetworkInterfaceId": "eni-none"}, 404, "InvalidEniId.NotFound"),
        ({"NetworkInterface.1.PrimaryIpAddress": "10.64.1.9"}, 403, "InvalidVSwitchId.IpInvalid"),
        ({"NetworkInterface.1.QueueNumber": "2"}, 400, "UnsupportedParameter"),
        ({f"NetworkInterface.{n}.InstanceType": "Secondary" for n in range(1, 4)}, 403, ENI_LIMIT),
        (
            {"PrivateIpAddress": "10.64.0.9", "NetworkInterface.1.PrimaryIpAddress": "10.64.0.9"},
            400,
            "InvalidPrivateIpAddress.Duplicated",
        ),
    ],
)
def test_refusals(changes: dict[str, str | None], status: int, code: str) -> None:
    with pytest.raises(ApiError) as refusal:
        _read(changes)
    assert (refusal.value.status, refusal.value.code) == (status, code)


class TestInterfaces:
    def test_what_is_not_said_is_as_with_the_primary_one(self) -> None:
        order = _read(
            {"NetworkInterface.1.InstanceType": "Secondary", "NetworkInterface.1.NetworkInterfaceName": "nic"}
        )
        [new] = order.interfaces
        assert isinstance(new, EniOrder)
        assert (new.pool, new.security_group_ids) == (order.pool, ("sg-1", "sg-2"))
        assert (new.name, new.delete_on_release) == ("nic", True)

    def test_one_of_its_own(self) -> None:
        order = _read(
            {
                "NetworkInterface.1.VSwitchId": "vsw-tiny",
                "NetworkInterface.1.SecurityGroupIds.1": "sg-2",
                "NetworkInterface.1.PrimaryIpAddress": "10.64.3.2",
                "NetworkInterface.1.DeleteOnRelease": "false",
                "NetworkInterface.1.Description": "for the pod",
            }
        )
        [new] = order.interfaces
        assert isinstance(new, EniOrder)
        assert (new.pool.vswitch.id, new.security_group_ids) == ("vsw-tiny", ("sg-2",))
        assert (str(new.address), new.delete_on_release) == ("10.64.3.2", False)
        assert new.description == "for the pod"

    def test_one_that_exists(self) -> None:
        region, enis = _region(), _enis()
        eni = enis.create(EniOrder(pool=region.vswitch("vsw-tiny"), security_group_ids=("sg-1",)))
        named = {"NetworkInterface.1.NetworkInterfaceId": eni.id}
        assert _read(named, region, enis).interfaces == (eni,)
        for changes, code in (
            ({"NetworkInterface.1.VSwitchId": "vsw-i"}, "InvalidParameter.Conflict"),
            ({"NetworkInterface.1.DeleteOnRelease": "true"}, "InvalidParameter.Conflict"),
            ({"NetworkInterface.2.NetworkInterfaceId": eni.id}, "InvalidParameter.Conflict"),
            (NO_TDX | {"VSwitchId": "vsw-l"}, "InvalidOperation.AvailabilityZoneMismatch"),
        ):
            with pytest.raises(ApiError, match=code):
                _read(named | changes, region, enis)
        enis.attach(eni, "i-1")
        with pytest.raises(ApiError, match=r"InvalidEniState.*Attaching"):
            _read(named, region, enis)

    def test_the_vswitch_must_have_an_address_for_each(self) -> None:
        region = _region()
        tiny = region.vswitch("vsw-tiny")  # with four
        tiny.take(IPv4Address("10.64.3.1"))
        tiny.take(IPv4Address("10.64.3.2"))
        two = {"VSwitchId": "vsw-tiny", "NetworkInterface.1.InstanceType": "Secondary"}
        assert _read(two, region)
        tiny.take(IPv4Address("10.64.3.3"))
        with pytest.raises(ApiError, match=r"QuotaExceeded\.PrivateIpAddress"):
            _read(two, region)
        assert _read({"VSwitchId": "vsw-tiny"}, region)
        with pytest.raises(ApiError, match=r"InvalidPrivateIpAddress\.Duplicated"):
            _read({"VSwitchId": "vsw-tiny", "PrivateIpAddress": "10.64.3.3"}, region)
        tiny.allocate()
        with pytest.raises(ApiError, match=r"QuotaExceeded\.PrivateIpAddress"):
            _read({"VSwitchId": "vsw-tiny"}, region)

    def test_the_account_has_a_quota(self) -> None:
        with pytest.raises(ApiError, match="MaxEniCountExceeded"):
            _read({f"NetworkInterface.{n}.InstanceType": "Secondary" for n in (1, 2)}, enis=_enis(quota=1))
        assert _read({"NetworkInterface.1.InstanceType": "Secondary"}, enis=_enis(quota=1))


class TestTemplates:
    @pytest.fixture
    def templates(self) -> Templates:
        return Templates(
            _NoTime(), {"podvm": {"KeyPairName": "local-key", "Tag.1.Key": "from", "Amount": "1"}}
        )

    def _filled(self, templates: Templates, **values: str) -> dict[str, str]:
        return templates.fill_in(Parameters(values)).values

    def test_what_the_request_says_goes_on_top(self, templates: Templates) -> None:
        filled = self._filled(templates, LaunchTemplateName="podvm", Amount="2", ImageId="m-1")
        assert filled == {"KeyPairName": "local-key", "Tag.1.Key": "from", "Amount": "2", "ImageId": "m-1"}

    def test_a_list_counts_as_a_whole(self, templates: Templates) -> None:
        filled = templates.fill_in(Parameters({"LaunchTemplateName": "podvm", "Tag.2.Key": "mine"})).values
        assert filled == {"KeyPairName": "local-key", "Amount": "1", "Tag.2.Key": "mine"}

    def test_one_group_or_several_is_the_same_thing(self, templates: Templates) -> None:
        templates.create("groups", {"SecurityGroupId": "sg-1"})
        own = {"SecurityGroupIds.1": "sg-2"}
        assert templates.fill_in(Parameters(own | {"LaunchTemplateName": "groups"})).values == own

    def test_by_id_and_version(self, templates: Templates) -> None:
        [template] = templates
        assert self._filled(templates, LaunchTemplateId=template.id, LaunchTemplateVersion="1")
        assert self._filled(templates, ImageId="m-1") == {"ImageId": "m-1"}

    @pytest.mark.parametrize(
        ("values", "status", "code"),
        [
            ({"LaunchTemplateName": "none"}, 404, "InvalidLaunchTemplate.NotFound"),
            ({"LaunchTemplateId": "lt-none"}, 404, "InvalidLaunchTemplate.NotFound"),
            (
                {"LaunchTemplateName": "podvm", "LaunchTemplateVersion": "2"},
                404,
                "InvalidLaunchTemplateVersion.NotFound",
            ),
            ({"LaunchTemplateVersion": "1"}, 400, "MissingParameter"),
        ],
    )
    def test_no_such_template(
        self, templates: Templates, values: dict[str, str], status: int, code: str
    ) -> None:
        with pytest.raises(ApiError) as refusal:
            self._filled(templates, **values)
        assert (refusal.value.status, refusal.value.code) == (status, code)


class TestRunInstances:
    @pytest.fixture
    async def instances(self, clock: Any) -> AsyncIterator[Instances]:
        public = Addresses(IPv4Address("198.18.0.1"), IPv4Address("198.18.0.9"))
        enis = Enis(clock, Timings(), quota=10)
        instances = Instances(
            NoBoot(), clock, Timings(), 0, enis=enis, public_addresses=public, stock=Stock()
        )
        yield instances
        await instances.close()

    @pytest.fixture
    def ecs(self, instances: Instances, clock: Any) -> Service:
        enis = Enis(clock, Timings(), quota=10)
        public = Addresses(IPv4Address("198.18.1.1"), IPv4Address("198.18.1.9"))
        eips = Eips(clock, Timings(), public, quota=10)
        return ecs_service(_region(), instances, enis, eips, Templates(clock))

    def _run(self, ecs: Service, **changes: str) -> str:
        ids = ecs.actions["RunInstances"](Parameters(GOOD | changes))["InstanceIdSets"]["InstanceIdSet"]
        assert len(ids) == 1
        return str(ids[0])

    async def test_a_token_makes_one_instance(self, ecs: Service, instances: Instances) -> None:
        assert self._run(ecs, ClientToken="t") == self._run(ecs, ClientToken="t")
        assert len(list(instances)) == 1
        assert self._run(ecs, ClientToken="u") != self._run(ecs, ClientToken="t")

    async def test_without_a_token_each_call_makes_one(self, ecs: Service) -> None:
        assert self._run(ecs) != self._run(ecs)

    async def test_a_token_outlives_its_instance(
        self, ecs: Service, instances: Instances, clock: Any
    ) -> None:
        instance_id = self._run(ecs, ClientToken="t")
        await clock.advance(10)
        instances.delete(instance_id, force=True)
        await clock.advance(10)
        assert self._run(ecs, ClientToken="t") == instance_id
        assert list(instances) == []

    async def test_a_token_with_other_parameters_is_refused(self, ecs: Service, instances: Instances) -> None:
        self._run(ecs, ClientToken="t")
        with pytest.raises(ApiError, match="IdempotentParameterMismatch"):
            self._run(ecs, ClientToken="t", InstanceName="podvm-other")
        assert len(list(instances)) == 1

    async def test_a_refused_call_leaves_its_token_free(self, ecs: Service) -> None:
        with pytest.raises(ApiError, match="InvalidImageId"):
            self._run(ecs, ClientToken="t", ImageId="m-none")
        assert self._run(ecs, ClientToken="t")

    @pytest.mark.parametrize("token", ["x" * 65, "é"])
    async def test_what_is_no_token(self, ecs: Service, token: str) -> None:
        with pytest.raises(ApiError, match="InvalidClientToken"):
            self._run(ecs, ClientToken=token)

    async def test_a_dry_run_makes_nothing(self, ecs: Service, instances: Instances) -> None:
        with pytest.raises(ApiError, match="DryRunOperation"):
            self._run(ecs, ClientToken="t", DryRun="true")
        with pytest.raises(ApiError, match="InvalidImageId"):
            self._run(ecs, DryRun="true", ImageId="m-none")
        assert list(instances) == []
        assert self._run(ecs, ClientToken="t")
