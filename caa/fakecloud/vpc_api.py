"""The VPC API, version 2016-04-28: vSwitches."""

from collections.abc import Sequence
from typing import Any

from caa.fakecloud.actions import Service
from caa.fakecloud.errors import ApiError
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.settings import FakeCloudSettings
from caa.fakecloud.vswitches import AddressPool


class VpcApi:
    def __init__(self, settings: FakeCloudSettings, pools: Sequence[AddressPool]) -> None:
        self._settings = settings
        self._pools = {pool.vswitch.id: pool for pool in pools}

    @property
    def service(self) -> Service:
        return Service("vpc", "2016-04-28", {"DescribeVSwitchAttributes": self.describe_vswitch_attributes})

    def describe_vswitch_attributes(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "VSwitchId")
        if parameters.text("RegionId", self._settings.region) != self._settings.region:
            raise ApiError(404, "InvalidRegionId.NotFound", "The specified RegionId does not exist.")
        pool = self._pools.get(parameters.required("VSwitchId"))
        if pool is None:
            raise ApiError(404, "InvalidVSwitchId.NotFound", "Specified virtual switch does not exist.")
        return {
            "VSwitchId": pool.vswitch.id,
            "VSwitchName": "",
            "Description": "",
            "VpcId": self._settings.vpc_id,
            "ZoneId": pool.vswitch.zone_id,
            "CidrBlock": str(pool.vswitch.cidr),
            "AvailableIpAddressCount": pool.available,
            "Status": "Available",
            "IsDefault": False,
        }
