"""ECS actions that tell what the region offers: instance types, security groups, key pairs."""

from collections.abc import Mapping
from typing import Any

from caa.fakecloud.actions import Action
from caa.fakecloud.errors import invalid
from caa.fakecloud.instance_types import INSTANCE_TYPES, InstanceType
from caa.fakecloud.paging import page, token_page
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.security_groups import Rule, SecurityGroup
from caa.fakecloud.tags import show_tags


class OfferActions:
    def __init__(self, region: Region) -> None:
        self._region = region

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "DescribeInstanceTypes": self.instance_types,
            "DescribeAvailableResource": self.available_resource,
            "DescribeSecurityGroups": self.security_groups,
            "DescribeSecurityGroupAttribute": self.security_group,
            "DescribeKeyPairs": self.key_pairs,
        }

    def instance_types(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("InstanceTypes.*", "InstanceTypeFamily", "MaxResults", "NextToken")
        wanted = parameters.texts("InstanceTypes")
        family = parameters.text("InstanceTypeFamily")
        found = [
            each
            for each in INSTANCE_TYPES.values()
            if (not wanted or each.id in wanted) and family in ("", each.family)
        ]
        part, answer = token_page(parameters, found, default=100)
        return answer | {"InstanceTypes": {"InstanceType": [_instance_type(each) for each in part]}}

    def available_resource(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "DestinationResource",
            "InstanceChargeType",
            "InstanceType",
            "ZoneId",
            "Cores",
            "Memory",
            "IoOptimized",
            "NetworkCategory",
            "ResourceType",
        )
        self._region.check(parameters)
        if parameters.required("DestinationResource") != "InstanceType":
            raise invalid("DestinationResource", "The local cloud only tells of InstanceType.")
        wanted, zone = parameters.text("InstanceType"), parameters.text("ZoneId")
        cores = parameters.integer("Cores", 0, low=1, high=1024)
        memory = parameters.text("Memory")
        types = [
            each
            for each in INSTANCE_TYPES.values()
            if wanted in ("", each.id)
            and cores in (0, each.vcpus)
            and memory in ("", f"{each.memory_gib:g}", f"{each.memory_gib:.1f}")
        ]
        zones = [self._zone(each, types) for each in self._region.zones if zone in ("", each)]
        return {"AvailableZones": {"AvailableZone": [each for each in zones if each]}}

    def _zone(self, zone: str, types: list[InstanceType]) -> dict[str, Any] | None:
        """None where none of them is sold."""
        stock = self._region.stock
        if stock.is_closed(zone):
            return None
        offers = [
            {"Value": each.id, "Status": status, "StatusCategory": category}
            for each in types
            if stock.offers(zone, each.id)
            for status, category in [_availability(left=stock.left(zone, each.id))]
        ]
        if not offers:
            return None
        any_left = any(offer["Status"] == "Available" for offer in offers)
        status, category = _availability(left=None if any_left else 0)
        resource = {"Type": "InstanceType", "SupportedResources": {"SupportedResource": offers}}
        return {
            "RegionId": self._region.id,
            "ZoneId": zone,
            "Status": status,
            "StatusCategory": category,
            "AvailableResources": {"AvailableResource": [resource]},
        }

    def security_groups(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "SecurityGroupId",
            "SecurityGroupIds",
            "VpcId",
            "PageNumber",
            "PageSize",
            "MaxResults",
            "NextToken",
        )
        self._region.check(parameters)
        one, vpc = parameters.text("SecurityGroupId"), parameters.text("VpcId")
        several = parameters.json_list("SecurityGroupIds")
        found = [
            each
            for each in self._region.settings.security_groups
            if one in ("", each.id) and vpc in ("", each.vpc_id) and (several is None or each.id in several)
        ]
        part, answer = page(parameters, found)
        groups = [_security_group(each) for each in part]
        return answer | {"RegionId": self._region.id, "SecurityGroups": {"SecurityGroup": groups}}

    def security_group(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "SecurityGroupId", "Direction", "NicType", "MaxResults", "NextToken")
        self._region.check(parameters)
        group = self._region.security_group(parameters.required("SecurityGroupId"))
        direction = parameters.text("Direction", "all")
        if direction not in ("all", "ingress", "egress"):
            raise invalid("Direction", "It must be ingress, egress or all.")
        rules = group.rules if direction != "egress" else ()
        part, answer = token_page(parameters, rules, default=500, largest=1000)
        return answer | {
            "RegionId": self._region.id,
            "SecurityGroupId": group.id,
            "SecurityGroupName": group.name,
            "Description": "",
            "VpcId": group.vpc_id,
            "InnerAccessPolicy": "Accept",
            "Permissions": {"Permission": [_permission(each) for each in part]},
        }

    def key_pairs(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "KeyPairName", "PageNumber", "PageSize")
        self._region.check(parameters)
        pattern = parameters.name_pattern("KeyPairName")
        found = [name for name in self._region.settings.key_pairs if pattern.fullmatch(name)]
        part, answer = page(parameters, found, largest=50)
        return answer | {"KeyPairs": {"KeyPair": [{"KeyPairName": name} for name in part]}}


def _availability(*, left: int | None) -> tuple[str, str]:
    return ("SoldOut", "WithoutStock") if left == 0 else ("Available", "WithStock")


def _instance_type(each: InstanceType) -> dict[str, Any]:
    return {
        "InstanceTypeId": each.id,
        "InstanceTypeFamily": each.family,
        "InstanceFamilyLevel": "EnterpriseLevel",
        "CpuArchitecture": "X86",
        "CpuCoreCount": each.vcpus,
        "MemorySize": each.memory_gib,
        "GPUAmount": each.gpus,
        "GPUSpec": each.gpu,
        "EniQuantity": each.enis,
        "NvmeSupport": "supported",
    }


def _security_group(group: SecurityGroup) -> dict[str, Any]:
    return {
        "SecurityGroupId": group.id,
        "SecurityGroupName": group.name,
        "SecurityGroupType": "normal",
        "Description": "",
        "VpcId": group.vpc_id,
        "RuleCount": len(group.rules),
        "ServiceManaged": False,
        "Tags": show_tags({}),
    }


def _permission(rule: Rule) -> dict[str, Any]:
    return {
        "Direction": "ingress",
        "IpProtocol": rule.protocol,
        "PortRange": rule.ports,
        "SourceCidrIp": rule.source,
        "SourceGroupId": "",
        "SourcePortRange": "",
        "DestCidrIp": "",
        "DestGroupId": "",
        "Policy": "Accept" if rule.accept else "Drop",
        "Priority": str(rule.priority),
        "NicType": "intranet",
        "Description": "",
    }
