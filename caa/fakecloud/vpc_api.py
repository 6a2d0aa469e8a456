"""The VPC API, version 2016-04-28: vSwitches, and elastic IP addresses with their tags."""

from collections.abc import Mapping
from typing import Any

from caa.fakecloud.actions import Action, Service
from caa.fakecloud.eips import Eips
from caa.fakecloud.enis import Enis
from caa.fakecloud.instances import Instances
from caa.fakecloud.paging import number_page
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.tags import TagActions, show_tags
from caa.fakecloud.vpc_eips import EipActions
from caa.fakecloud.vswitches import AddressPool

VERSION = "2016-04-28"


def vpc(region: Region, instances: Instances, enis: Enis, eips: Eips) -> Service:
    tags = TagActions({"EIP": lambda: {each.id: each.tags for each in eips}}, untag="UnTagResources")
    addresses = EipActions(region, instances, enis, eips)
    actions = {**VSwitchActions(region).actions, **addresses.actions, **tags.actions}
    return Service("vpc", VERSION, actions)


class VSwitchActions:
    def __init__(self, region: Region) -> None:
        self._region = region

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "DescribeVSwitchAttributes": self.describe_one,
            "DescribeVSwitches": self.describe,
        }

    def describe_one(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "VSwitchId")
        self._region.check_optional(parameters)
        return self._describe(self._region.vswitch(parameters.required("VSwitchId")))

    def describe(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "VpcId", "VSwitchId", "ZoneId", "PageNumber", "PageSize")
        self._region.check_optional(parameters)
        vpc_id, vswitch = parameters.text("VpcId"), parameters.text("VSwitchId")
        zone = parameters.text("ZoneId")
        found = [
            pool
            for pool in self._region.pools
            if vpc_id in ("", self._region.vpc_id)
            and (not vswitch or pool.vswitch.id in vswitch.split(","))
            and zone in ("", pool.vswitch.zone_id)
        ]
        part, answer = number_page(parameters, found, largest=50)
        shown = [self._describe(pool) | {"Tags": show_tags({}, "Key", "Value")} for pool in part]
        return answer | {"VSwitches": {"VSwitch": shown}}

    def _describe(self, pool: AddressPool) -> dict[str, Any]:
        return {
            "VSwitchId": pool.vswitch.id,
            "VSwitchName": "",
            "Description": "",
            "VpcId": self._region.vpc_id,
            "ZoneId": pool.vswitch.zone_id,
            "CidrBlock": str(pool.vswitch.cidr),
            "AvailableIpAddressCount": pool.available,
            "Status": "Available",
            "IsDefault": False,
        }
