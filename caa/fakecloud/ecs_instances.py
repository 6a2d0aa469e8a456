"""ECS actions on instances."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from caa.fakecloud.actions import Action
from caa.fakecloud.clock import timestamp
from caa.fakecloud.eips import Eips
from caa.fakecloud.enis import Eni, Enis
from caa.fakecloud.errors import ApiError
from caa.fakecloud.idempotency import ClientTokens
from caa.fakecloud.instances import Instance, Instances, not_found
from caa.fakecloud.orders import read_order
from caa.fakecloud.paging import page
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.tags import show_tags, wanted_tags
from caa.fakecloud.templates import Templates

DRY_RUN = ApiError(400, "DryRunOperation", "Request validation has been passed with DryRun flag set.")


class InstanceActions:
    def __init__(
        self,
        region: Region,
        instances: Instances,
        enis: Enis,
        eips: Eips,
        templates: Templates,
        tokens: ClientTokens,
    ) -> None:
        self._region = region
        self._instances = instances
        self._enis = enis
        self._eips = eips
        self._templates = templates
        self._tokens = tokens

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "RunInstances": self.run_instances,
            "DeleteInstance": self.delete_instance,
            "DescribeInstanceAttribute": self.describe_instance_attribute,
            "DescribeInstances": self.describe_instances,
        }

    def run_instances(self, parameters: Parameters) -> dict[str, Any]:
        def create() -> dict[str, Any]:
            order = read_order(self._templates.fill_in(parameters), self._region, self._enis)
            self._instances.check_quota()
            if parameters.boolean("DryRun"):
                raise DRY_RUN
            instance = self._instances.create(order)
            return {
                "OrderId": str(int(instance.created_at * 1000)),
                "TradePrice": 0.0,
                "InstanceIdSets": {"InstanceIdSet": [instance.id]},
            }

        return self._tokens.once("RunInstances", parameters.values, create)

    def delete_instance(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("InstanceId", "Force", "DryRun")
        instance_id, force = parameters.required("InstanceId"), parameters.boolean("Force")
        self._instances.check_deletion(instance_id, force=force)
        if parameters.boolean("DryRun"):
            raise DRY_RUN
        self._instances.delete(instance_id, force=force)
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
            "PrivateIpAddresses",
            "Tag.*",
            "PageNumber",
            "PageSize",
            "MaxResults",
            "NextToken",
        )
        self._region.check(parameters)
        filters = tuple(self._filters(parameters))
        chosen = [
            each
            for each in self._instances
            if self._instances.visible(each.id) and all(keep(each) for keep in filters)
        ]
        part, answer = page(parameters, chosen[::-1])
        return answer | {"Instances": {"Instance": [self._describe_listed(each) for each in part]}}

    def _filters(self, parameters: Parameters) -> Iterable[Callable[[Instance], bool]]:
        values = parameters.values
        if (ids := parameters.json_list("InstanceIds")) is not None:
            yield lambda each: each.id in ids
        if (addresses := parameters.json_list("PrivateIpAddresses")) is not None:
            yield lambda each: str(each.address) in addresses
        name = parameters.name_pattern("InstanceName")
        yield lambda each: name.fullmatch(each.order.name) is not None
        if wanted_status := values.get("Status"):
            yield lambda each: self._instances.status(each) == wanted_status
        if vswitch := values.get("VSwitchId"):
            yield lambda each: each.order.pool.vswitch.id == vswitch
        if zone := values.get("ZoneId"):
            yield lambda each: each.order.pool.vswitch.zone_id == zone
        if vpc := values.get("VpcId"):
            yield lambda _: vpc == self._region.vpc_id
        has_tags = wanted_tags(parameters)
        yield lambda each: has_tags(each.tags)

    def _describe(self, instance: Instance) -> dict[str, Any]:
        """The fields that DescribeInstanceAttribute and DescribeInstances share."""
        order = instance.order
        known = self._instances.has_addresses(instance)
        return {
            "InstanceId": instance.id,
            "InstanceName": order.name,
            "Status": self._instances.status(instance),
            "RegionId": self._region.id,
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
            "SecurityGroupIds": {"SecurityGroupId": list(instance.primary.security_group_ids)},
            "VpcAttributes": {
                "VpcId": self._region.vpc_id,
                "VSwitchId": order.pool.vswitch.id,
                "PrivateIpAddress": {"IpAddress": [str(instance.address)] if known else []},
                "NatIpAddress": "",
            },
            "PublicIpAddress": {
                "IpAddress": [str(instance.public_address)] if known and instance.public_address else []
            },
            "EipAddress": self._elastic_address(instance.primary),
            "InnerIpAddress": {"IpAddress": []},
            "OperationLocks": {"LockReason": []},
            "SecurityOptions": {"ConfidentialComputingMode": "TDX" if order.confidential else ""},
            "StoppedMode": "Not-applicable",
        }

    def _elastic_address(self, primary: Eni) -> dict[str, Any]:
        eip = self._eips.of(primary)
        if eip is None:
            return {"IpAddress": "", "AllocationId": "", "InternetChargeType": ""}
        return {
            "IpAddress": str(eip.address),
            "AllocationId": eip.id,
            "InternetChargeType": eip.order.internet_charge_type,
            "Bandwidth": eip.order.mbps,
        }

    def _describe_listed(self, instance: Instance) -> dict[str, Any]:
        order = instance.order
        known = self._instances.has_addresses(instance)
        interfaces = self._instances.interfaces(instance) if known else []
        return self._describe(instance) | {
            "IoOptimized": True,
            "GPUAmount": order.type.gpus,
            "GPUSpec": order.type.gpu,
            "InstanceTypeFamily": order.type.family,
            "KeyPairName": order.key_pair,
            "NetworkInterfaces": {"NetworkInterface": [_describe_interface(each) for each in interfaces]},
            "Tags": show_tags(instance.tags),
        }


def _describe_interface(eni: Eni) -> dict[str, Any]:
    return {
        "NetworkInterfaceId": eni.id,
        "Type": "Primary" if eni.primary else "Secondary",
        "MacAddress": eni.mac,
        "PrimaryIpAddress": str(eni.address),
        "PrivateIpSets": {"PrivateIpSet": [{"PrivateIpAddress": str(eni.address), "Primary": True}]},
    }
