"""ECS actions on network interfaces."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from caa.fakecloud.actions import Action
from caa.fakecloud.clock import timestamp
from caa.fakecloud.eips import Eips, EipStatus
from caa.fakecloud.eni_orders import eni_name, read_eni_order
from caa.fakecloud.enis import STEADY, Eni, Enis, require_status
from caa.fakecloud.errors import ApiError
from caa.fakecloud.idempotency import ClientTokens
from caa.fakecloud.instances import Instance, Instances
from caa.fakecloud.paging import page
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.tags import show_tags, wanted_tags

MAX_PAGE = 500


class EniActions:
    def __init__(
        self, region: Region, instances: Instances, enis: Enis, eips: Eips, tokens: ClientTokens
    ) -> None:
        self._region = region
        self._instances = instances
        self._enis = enis
        self._eips = eips
        self._tokens = tokens

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "CreateNetworkInterface": self.create,
            "DeleteNetworkInterface": self.delete,
            "AttachNetworkInterface": self.attach,
            "DetachNetworkInterface": self.detach,
            "ModifyNetworkInterfaceAttribute": self.modify,
            "DescribeNetworkInterfaceAttribute": self.describe_one,
            "DescribeNetworkInterfaces": self.describe,
        }

    def create(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "VSwitchId",
            "SecurityGroupId",
            "SecurityGroupIds.*",
            "NetworkInterfaceName",
            "Description",
            "PrimaryIpAddress",
            "DeleteOnRelease",
            "InstanceType",
            "ClientToken",
            "Tag.*",
        )

        def create() -> dict[str, Any]:
            self._region.check(parameters)
            order = read_eni_order(parameters, self._region)
            return self._describe_new(self._enis.create(order))

        return self._tokens.once("CreateNetworkInterface", parameters.values, create)

    def delete(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "NetworkInterfaceId")
        self._region.check(parameters)
        self._enis.delete(self._named(parameters))
        return {}

    def attach(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "NetworkInterfaceId", "InstanceId")
        self._region.check(parameters)
        self._instances.attach(self._named(parameters), self._instance(parameters))
        return {}

    def detach(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "NetworkInterfaceId", "InstanceId")
        self._region.check(parameters)
        self._instances.detach(self._named(parameters), self._instance(parameters))
        return {}

    def modify(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "NetworkInterfaceId",
            "NetworkInterfaceName",
            "Description",
            "SecurityGroupId.*",
            "DeleteOnRelease",
        )
        self._region.check(parameters)
        eni = self._named(parameters)
        require_status(eni, *STEADY)
        groups = self._region.check_security_groups(parameters.texts("SecurityGroupId"))
        name = eni_name(parameters)
        delete_on_release = parameters.boolean("DeleteOnRelease", default=eni.delete_on_release)
        if eni.primary and not delete_on_release:
            raise ApiError(
                403,
                "InvalidOperation.InvalidEniType",
                "The operation is not allowed in the current ENI type.",
            )
        eni.security_group_ids = groups or eni.security_group_ids
        eni.name = name or eni.name
        eni.description = parameters.text("Description", eni.description)
        eni.delete_on_release = delete_on_release
        return {}

    def describe_one(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "NetworkInterfaceId")
        self._region.check(parameters)
        return self._describe(self._named(parameters))

    def describe(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "NetworkInterfaceId.*",
            "NetworkInterfaceName",
            "InstanceId",
            "PrimaryIpAddress",
            "SecurityGroupId",
            "Status",
            "Type",
            "VSwitchId",
            "VpcId",
            "Tag.*",
            "PageNumber",
            "PageSize",
            "MaxResults",
            "NextToken",
        )
        self._region.check(parameters)
        filters = tuple(self._filters(parameters))
        chosen = [each for each in self._enis if all(keep(each) for keep in filters)]
        part, answer = page(parameters, chosen[::-1], largest=MAX_PAGE)
        return answer | {
            "NetworkInterfaceSets": {"NetworkInterfaceSet": [self._describe(each) for each in part]}
        }

    def _filters(self, parameters: Parameters) -> Iterable[Callable[[Eni], bool]]:
        values = parameters.values
        if ids := parameters.texts("NetworkInterfaceId"):
            yield lambda eni: eni.id in ids
        if name := values.get("NetworkInterfaceName"):
            yield lambda eni: eni.name == name
        if instance := values.get("InstanceId"):
            yield lambda eni: eni.instance == instance
        if address := values.get("PrimaryIpAddress"):
            yield lambda eni: str(eni.address) == address
        if group := values.get("SecurityGroupId"):
            yield lambda eni: group in eni.security_group_ids
        if status := values.get("Status"):
            yield lambda eni: eni.status == status
        if kind := values.get("Type"):
            yield lambda eni: _type(eni) == kind
        if vswitch := values.get("VSwitchId"):
            yield lambda eni: eni.pool.vswitch.id == vswitch
        if vpc := values.get("VpcId"):
            yield lambda _: vpc == self._region.vpc_id
        has_tags = wanted_tags(parameters)
        yield lambda eni: has_tags(eni.tags)

    def _named(self, parameters: Parameters) -> Eni:
        return self._enis.find(parameters.required("NetworkInterfaceId"))

    def _instance(self, parameters: Parameters) -> Instance:
        instance = self._instances.visible(parameters.required("InstanceId"))
        if instance is None:
            raise ApiError(404, "InvalidEcsId.NotFound", "The specified EcsId is not found.")
        return instance

    def _describe_new(self, eni: Eni) -> dict[str, Any]:
        """The fields that CreateNetworkInterface and the describing actions share."""
        address = str(eni.address)
        return {
            "NetworkInterfaceId": eni.id,
            "NetworkInterfaceName": eni.name,
            "Description": eni.description,
            "Status": eni.status,
            "Type": _type(eni),
            "MacAddress": eni.mac,
            "PrivateIpAddress": address,
            "PrivateIpSets": {"PrivateIpSet": [{"PrivateIpAddress": address, "Primary": True}]},
            "SecurityGroupIds": {"SecurityGroupId": list(eni.security_group_ids)},
            "VSwitchId": eni.pool.vswitch.id,
            "VpcId": self._region.vpc_id,
            "ZoneId": eni.pool.vswitch.zone_id,
            "ServiceManaged": False,
            "Tags": show_tags(eni.tags),
        }

    def _describe(self, eni: Eni) -> dict[str, Any]:
        eip = self._eips.of(eni)
        public = {}
        if eip and eip.status is EipStatus.IN_USE:
            public = {"PublicIpAddress": str(eip.address), "AllocationId": eip.id}
        shared = self._describe_new(eni)
        shared["PrivateIpSets"]["PrivateIpSet"][0]["AssociatedPublicIp"] = public
        return shared | {
            "CreationTime": timestamp(eni.created_at),
            "DeleteOnRelease": eni.delete_on_release,
            "InstanceId": eni.instance or "",
            "Attachment": {"InstanceId": eni.instance} if eni.instance else {},
            "AssociatedPublicIp": public,
        }


def _type(eni: Eni) -> str:
    return "Primary" if eni.primary else "Secondary"
