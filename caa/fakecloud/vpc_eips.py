"""VPC actions on elastic IP addresses."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from caa.fakecloud.actions import Action
from caa.fakecloud.clock import timestamp
from caa.fakecloud.eips import Eip, EipOrder, Eips
from caa.fakecloud.enis import STEADY as STEADY_ENI
from caa.fakecloud.enis import Eni, Enis
from caa.fakecloud.errors import ApiError
from caa.fakecloud.idempotency import ClientTokens
from caa.fakecloud.instances import STEADY, Instances
from caa.fakecloud.paging import number_page
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.tags import read_tags, show_tags, wanted_tags

_MAX_MBPS = {"PayByTraffic": 200, "PayByBandwidth": 500}


class EipActions:
    def __init__(self, region: Region, instances: Instances, enis: Enis, eips: Eips) -> None:
        self._region = region
        self._instances = instances
        self._enis = enis
        self._eips = eips
        self._tokens = ClientTokens()

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "AllocateEipAddress": self.allocate,
            "ReleaseEipAddress": self.release,
            "AssociateEipAddress": self.associate,
            "UnassociateEipAddress": self.unassociate,
            "DescribeEipAddresses": self.describe,
        }

    def allocate(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "Bandwidth",
            "ClientToken",
            "Description",
            "ISP",
            "InstanceChargeType",
            "InternetChargeType",
            "Name",
            "Netmode",
            "Tag.*",
        )

        def allocate() -> dict[str, Any]:
            self._region.check(parameters)
            eip = self._eips.allocate(_read_order(parameters))
            return {
                "AllocationId": eip.id,
                "EipAddress": str(eip.address),
                "OrderId": int(eip.created_at * 1000),
            }

        return self._tokens.once("AllocateEipAddress", parameters.values, allocate)

    def release(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "AllocationId")
        self._region.check_optional(parameters)
        self._eips.release(self._named(parameters))
        return {}

    def associate(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "AllocationId",
            "InstanceId",
            "InstanceType",
            "InstanceRegionId",
            "PrivateIpAddress",
            "Mode",
            "ClientToken",
        )

        def associate() -> dict[str, Any]:
            self._region.check_optional(parameters)
            eip, eni = self._named(parameters), self._target(parameters)
            only = {"PrivateIpAddress": str(eni.address), "Mode": "NAT", "InstanceRegionId": self._region.id}
            if any(parameters.text(name, value) != value for name, value in only.items()):
                raise ApiError(400, "InvalidParameter", "The specified parameter is not valid.")
            self._check_target(eni)
            self._eips.associate(eip, eni)
            return {}

        return self._tokens.once("AssociateEipAddress", parameters.values, associate)

    def unassociate(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "AllocationId",
            "InstanceId",
            "InstanceType",
            "PrivateIpAddress",
            "Force",
            "ClientToken",
        )

        def unassociate() -> dict[str, Any]:
            self._region.check_optional(parameters)
            eip = self._named(parameters)
            if eip.eni and parameters.text("InstanceId", eip.instance or "") != eip.instance:
                raise ApiError(400, "InvalidInstanceId.NotFound", "Specified instance does not exist.")
            if eip.eni and eip.eni.status not in STEADY_ENI:
                raise _incorrect_instance_status() if eip.eni.primary else _incorrect_eni_status()
            self._eips.unassociate(eip)
            return {}

        return self._tokens.once("UnassociateEipAddress", parameters.values, unassociate)

    def describe(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "AllocationId",
            "AssociatedInstanceId",
            "AssociatedInstanceType",
            "ChargeType",
            "EipAddress",
            "EipName",
            "Status",
            "Tag.*",
            "PageNumber",
            "PageSize",
        )
        self._region.check(parameters)
        filters = tuple(_filters(parameters))
        chosen = [eip for eip in self._eips if all(keep(eip) for keep in filters)]
        part, answer = number_page(parameters, chosen[::-1])
        return answer | {"EipAddresses": {"EipAddress": [self._describe(eip) for eip in part]}}

    def _named(self, parameters: Parameters) -> Eip:
        return self._eips.find(parameters.required("AllocationId"))

    def _target(self, parameters: Parameters) -> Eni:
        """The interface to associate with: an instance's primary one, or the secondary one that is named."""
        wanted = parameters.required("InstanceId")
        match parameters.text("InstanceType", "EcsInstance"):
            case "EcsInstance":
                instance = self._instances.visible(wanted)
                if instance:
                    return instance.primary
            case "NetworkInterface":
                for eni in self._enis:
                    if eni.id == wanted and not eni.primary:
                        return eni
            case _:
                raise ApiError(
                    400,
                    "InvalidInstanceType.ValueNotSupported",
                    "The specified value of InstanceType is not supported.",
                )
        raise ApiError(404, "InvalidInstanId.NotFound", "Specified instance does not exist.")  # spelt so

    def _check_target(self, eni: Eni) -> None:
        """Raises ApiError unless that interface can get an elastic address now."""
        if not eni.primary:
            if eni.status not in STEADY_ENI:
                raise _incorrect_eni_status()
            return
        instance = self._instances.visible(eni.instance or "")
        if instance is None or self._instances.status(instance) not in STEADY:
            raise _incorrect_instance_status()
        if instance.public_address:
            raise ApiError(
                400,
                "InvalidStatus.InstanceHasBandWidth",
                "The specified instance bandwidth invalid.",
            )

    def _describe(self, eip: Eip) -> dict[str, Any]:
        return {
            "AllocationId": eip.id,
            "IpAddress": str(eip.address),
            "Name": eip.name,
            "Description": eip.order.description,
            "Status": eip.status,
            "InstanceId": eip.instance or "",
            "InstanceType": eip.target_type,
            "InstanceRegionId": self._region.id if eip.eni else "",
            "PrivateIpAddress": str(eip.eni.address) if eip.eni else "",
            "VpcId": self._region.vpc_id if eip.eni else "",
            "Mode": "NAT" if eip.eni else "",
            "RegionId": self._region.id,
            "Bandwidth": str(eip.order.mbps),
            "EipBandwidth": str(eip.order.mbps),
            "ChargeType": "PostPaid",
            "InternetChargeType": eip.order.internet_charge_type,
            "AllocationTime": timestamp(eip.created_at),
            "BusinessStatus": "Normal",
            "ISP": "BGP",
            "Netmode": "public",
            "ServiceManaged": 0,
            "OperationLocks": {"LockReason": []},
            "Tags": show_tags(eip.tags, "Key", "Value"),
        }


def _read_order(parameters: Parameters) -> EipOrder:
    for name, only in (("InstanceChargeType", "PostPaid"), ("ISP", "BGP"), ("Netmode", "public")):
        if parameters.text(name, only) != only:
            raise ApiError(400, "InvalidParameter", f'Specified value of "{name}" is not valid')
    charge_type = parameters.text("InternetChargeType", "PayByBandwidth")
    if charge_type not in _MAX_MBPS:
        raise ApiError(400, "InvalidParameter", 'Specified value of "InternetChargeType" is not valid')
    mbps = parameters.text("Bandwidth", "5")
    if not mbps.isdecimal() or not 1 <= int(mbps) <= _MAX_MBPS[charge_type]:
        raise ApiError(400, "InvalidParameter", 'Specified value of "Bandwidth" is not valid.')
    return EipOrder(
        mbps=int(mbps),
        internet_charge_type=charge_type,
        name=parameters.text("Name"),
        description=parameters.text("Description"),
        tags=read_tags(parameters),
    )


def _filters(parameters: Parameters) -> Iterable[Callable[[Eip], bool]]:
    values = parameters.values
    if ids := values.get("AllocationId"):
        yield lambda eip: eip.id in ids.split(",")
    if addresses := values.get("EipAddress"):
        yield lambda eip: str(eip.address) in addresses.split(",")
    if name := values.get("EipName"):
        yield lambda eip: eip.name == name
    if status := values.get("Status"):
        yield lambda eip: eip.status == status
    if kind := values.get("AssociatedInstanceType"):
        yield lambda eip: eip.target_type == kind
    if instance := values.get("AssociatedInstanceId"):
        yield lambda eip: eip.instance is not None and eip.instance in instance.split(",")
    if charge_type := values.get("ChargeType"):
        yield lambda _: charge_type == "PostPaid"
    has_tags = wanted_tags(parameters)
    yield lambda eip: has_tags(eip.tags)


def _incorrect_eni_status() -> ApiError:
    return ApiError(
        400,
        "InvalidStatus.EniStatusNotSupport",
        "The current status of the network interface does not support this operation.",
    )


def _incorrect_instance_status() -> ApiError:
    return ApiError(
        400, "IncorrectInstanceStatus", "The current status of instance does not support this operation."
    )
