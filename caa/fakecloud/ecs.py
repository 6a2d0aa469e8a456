"""The ECS API, version 2014-05-26: instances and instance types."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from caa.fakecloud.actions import Service
from caa.fakecloud.clock import timestamp
from caa.fakecloud.errors import ApiError
from caa.fakecloud.idempotency import ClientTokens
from caa.fakecloud.instance_types import INSTANCE_TYPES, InstanceType
from caa.fakecloud.instances import Instance, Instances, not_found
from caa.fakecloud.orders import check_region, read_order
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.settings import FakeCloudSettings
from caa.fakecloud.vswitches import AddressPool

MAX_PAGE = 100


class Ecs:
    def __init__(
        self, settings: FakeCloudSettings, instances: Instances, pools: Sequence[AddressPool]
    ) -> None:
        self._settings = settings
        self._instances = instances
        self._pools = pools
        self._tokens = ClientTokens()

    @property
    def service(self) -> Service:
        return Service(
            "ecs",
            "2014-05-26",
            {
                "RunInstances": self.run_instances,
                "DeleteInstance": self.delete_instance,
                "DescribeInstanceAttribute": self.describe_instance_attribute,
                "DescribeInstances": self.describe_instances,
                "DescribeInstanceTypes": self.describe_instance_types,
            },
        )

    def run_instances(self, parameters: Parameters) -> dict[str, Any]:
        def create() -> dict[str, Any]:
            order = read_order(parameters, self._settings, self._pools)
            if parameters.boolean("DryRun"):
                raise ApiError(
                    400, "DryRunOperation", "Request validation has been passed with DryRun flag set."
                )
            instance = self._instances.create(order)
            return {
                "OrderId": str(int(instance.created_at * 1000)),
                "TradePrice": 0.0,
                "InstanceIdSets": {"InstanceIdSet": [instance.id]},
            }

        return self._tokens.once("RunInstances", parameters.values, create)

    def delete_instance(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("InstanceId", "Force")
        instance_id = parameters.required("InstanceId")
        self._instances.delete(instance_id, force=parameters.boolean("Force"))
        return {}

    def describe_instance_attribute(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("InstanceId")
        instance = self._instances.visible(parameters.required("InstanceId"))
        if instance is None:
            raise not_found()
        return self._describe(instance)

    def describe_instances(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "InstanceIds",
            "InstanceName",
            "Status",
            "VSwitchId",
            "VpcId",
            "ZoneId",
            "Tag.*",
            "PageNumber",
            "PageSize",
            "MaxResults",
            "NextToken",
        )
        check_region(parameters, self._settings)
        chosen = [each for each in self._instances if self._instances.visible(each.id)]
        chosen = [each for each in chosen if all(keep(each) for keep in self._filters(parameters))]
        chosen.reverse()
        answer: dict[str, Any] = {"TotalCount": len(chosen)}
        if "MaxResults" in parameters.values or "NextToken" in parameters.values:
            size = parameters.integer("MaxResults", 10, low=1, high=MAX_PAGE)
            start = parameters.integer("NextToken", 0, low=0, high=10**9)
            answer["NextToken"] = str(start + size) if start + size < len(chosen) else ""
        else:
            size = parameters.integer("PageSize", 10, low=1, high=MAX_PAGE)
            page = parameters.integer("PageNumber", 1, low=1, high=10**6)
            start = (page - 1) * size
            answer |= {"PageNumber": page, "PageSize": size}
        page_of = chosen[start : start + size]
        return answer | {"Instances": {"Instance": [self._describe_listed(each) for each in page_of]}}

    def describe_instance_types(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("InstanceTypes.*", "InstanceTypeFamily", "MaxResults", "NextToken")
        wanted = parameters.texts("InstanceTypes")
        family = parameters.text("InstanceTypeFamily")
        found = [
            each
            for each in INSTANCE_TYPES.values()
            if (not wanted or each.id in wanted) and family in ("", each.family)
        ]
        size = parameters.integer("MaxResults", MAX_PAGE, low=1, high=MAX_PAGE)
        start = parameters.integer("NextToken", 0, low=0, high=10**6)
        return {
            "InstanceTypes": {"InstanceType": [_describe_type(each) for each in found[start : start + size]]},
            "NextToken": str(start + size) if start + size < len(found) else "",
        }

    def _filters(self, parameters: Parameters) -> Iterable[Callable[[Instance], bool]]:
        values = parameters.values
        if ids := values.get("InstanceIds"):
            wanted = _json_list("InstanceIds", ids)
            yield lambda each: each.id in wanted
        if name := values.get("InstanceName"):
            pattern = re.compile(".*".join(map(re.escape, name.split("*"))))
            yield lambda each: pattern.fullmatch(each.order.name) is not None
        if wanted_status := values.get("Status"):
            yield lambda each: self._instances.status(each) == wanted_status
        if vswitch := values.get("VSwitchId"):
            yield lambda each: each.order.pool.vswitch.id == vswitch
        if zone := values.get("ZoneId"):
            yield lambda each: each.order.pool.vswitch.zone_id == zone
        if vpc := values.get("VpcId"):
            yield lambda _: vpc == self._settings.vpc_id
        tags = [(tag.get("Key", ""), tag.get("Value")) for tag in parameters.objects("Tag")]
        if tags:
            yield lambda each: all(
                key in each.order.tags and value in (None, each.order.tags[key]) for key, value in tags
            )

    def _describe(self, instance: Instance) -> dict[str, Any]:
        """The fields that DescribeInstanceAttribute and DescribeInstances share."""
        order = instance.order
        known = self._instances.has_addresses(instance)
        return {
            "InstanceId": instance.id,
            "InstanceName": order.name,
            "Status": self._instances.status(instance),
            "RegionId": self._settings.region,
            "ZoneId": order.pool.vswitch.zone_id,
            "ImageId": order.image_id,
            "InstanceType": order.type.id,
            "InstanceChargeType": "PostPaid",
            "InstanceNetworkType": "vpc",
            "InternetChargeType": order.internet_charge_type,
            "InternetMaxBandwidthIn": order.internet_mbps,
            "InternetMaxBandwidthOut": order.internet_mbps,
            "Cpu": order.type.vcpus,
            "Memory": int(order.type.memory_gib * 1024),
            "HostName": order.host_name or instance.id.replace("-", "Z"),
            "Description": order.description,
            "IoOptimized": "optimized",
            "CreationTime": timestamp(instance.created_at),
            "SecurityGroupIds": {"SecurityGroupId": list(order.security_group_ids)},
            "VpcAttributes": {
                "VpcId": self._settings.vpc_id,
                "VSwitchId": order.pool.vswitch.id,
                "PrivateIpAddress": {"IpAddress": [str(instance.address)] if known else []},
                "NatIpAddress": "",
            },
            "PublicIpAddress": {
                "IpAddress": [str(instance.public_address)] if known and instance.public_address else []
            },
            "EipAddress": {"IpAddress": "", "AllocationId": "", "InternetChargeType": ""},
            "InnerIpAddress": {"IpAddress": []},
            "OperationLocks": {"LockReason": []},
            "SecurityOptions": {"ConfidentialComputingMode": "TDX" if order.confidential else ""},
            "StoppedMode": "Not-applicable",
        }

    def _describe_listed(self, instance: Instance) -> dict[str, Any]:
        order = instance.order
        return self._describe(instance) | {
            "IoOptimized": True,
            "GPUAmount": order.type.gpus,
            "GPUSpec": order.type.gpu,
            "InstanceTypeFamily": order.type.family,
            "KeyPairName": order.key_pair,
            "Tags": {"Tag": [{"TagKey": key, "TagValue": value} for key, value in order.tags.items()]},
        }


def _json_list(name: str, text: str) -> list[str]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or len(values) > MAX_PAGE or not all(isinstance(v, str) for v in values):
        raise ApiError(400, f"Invalid{name}.Malformed", f"The specified {name} are not valid.")
    return values


def _describe_type(each: InstanceType) -> dict[str, Any]:
    return {
        "InstanceTypeId": each.id,
        "InstanceTypeFamily": each.family,
        "InstanceFamilyLevel": "EnterpriseLevel",
        "CpuArchitecture": "X86",
        "CpuCoreCount": each.vcpus,
        "MemorySize": each.memory_gib,
        "GPUAmount": each.gpus,
        "GPUSpec": each.gpu,
        "EniQuantity": 4,
        "NvmeSupport": "supported",
    }
