"""What requests say of network interfaces, checked and made into orders."""

import re
from collections.abc import Sequence

from caa.fakecloud.enis import Eni, EniOrder, Enis, EniStatus, require_secondary, require_status
from caa.fakecloud.errors import ApiError, invalid
from caa.fakecloud.instance_types import InstanceType
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region, read_address
from caa.fakecloud.tags import read_tags
from caa.fakecloud.vswitches import AddressPool

NAME = re.compile(r"(?!https?://)[^\W\d_][\w.:-]{1,127}")
"""Of an interface, an instance, a launch template."""

_ACCEPTED = (
    "DeleteOnRelease",
    "Description",
    "InstanceType",
    "NetworkInterfaceId",
    "NetworkInterfaceName",
    "PrimaryIpAddress",
    "SecurityGroupId",
    "SecurityGroupIds.*",
    "VSwitchId",
)


def read_eni_order(parameters: Parameters, region: Region) -> EniOrder:
    """What CreateNetworkInterface asks for; whether it can be had is not looked at.

    Raises ApiError with the code that the API reference gives for what is wrong.
    """
    if parameters.text("InstanceType", "Secondary") != "Secondary":
        raise ApiError(
            403, "InvalidOperation.InvalidEniType", "The operation is not allowed in the current ENI type."
        )
    return EniOrder(
        pool=region.vswitch(parameters.required("VSwitchId")),
        security_group_ids=region.some_security_groups(parameters),
        address=read_address(parameters, "PrimaryIpAddress"),
        name=eni_name(parameters),
        description=parameters.text("Description"),
        tags=read_tags(parameters),
        delete_on_release=parameters.boolean("DeleteOnRelease"),
    )


def read_interfaces(
    parameters: Parameters, region: Region, enis: Enis, pool: AddressPool, groups: Sequence[str]
) -> Sequence[EniOrder | Eni]:
    """The secondary ones of RunInstances, which can be had. What is not said of one is as with the instance's
    primary one. Raises ApiError.
    """
    interfaces: list[EniOrder | Eni] = []
    for fields in parameters.objects("NetworkInterface"):
        of = Parameters(fields)
        of.accept(*_ACCEPTED)
        if of.text("InstanceType", "Secondary") != "Secondary":
            raise invalid(
                "NetworkInterface.N.InstanceType",
                "The local cloud takes the primary one's values from VSwitchId, SecurityGroupIds and"
                " PrivateIpAddress only.",
            )
        if of.text("NetworkInterfaceId"):
            interfaces.append(_existing(of, enis, pool))
            continue
        wanted = region.vswitch(of.text("VSwitchId", pool.vswitch.id))
        check_zone(wanted, pool)
        order = EniOrder(
            pool=wanted,
            security_group_ids=region.security_groups(of) or groups,
            address=read_address(of, "PrimaryIpAddress"),
            name=eni_name(of),
            description=of.text("Description"),
            delete_on_release=of.boolean("DeleteOnRelease", default=True),
        )
        enis.check_address(order)
        interfaces.append(order)
    enis.check_quota(sum(isinstance(each, EniOrder) for each in interfaces))
    existing = [each for each in interfaces if isinstance(each, Eni)]
    if len(set(existing)) != len(existing):
        raise ApiError(400, "InvalidParameter.Conflict", "NetworkInterfaceId: each can be attached once.")
    return tuple(interfaces)


def _existing(of: Parameters, enis: Enis, pool: AddressPool) -> Eni:
    others = of.values.keys() - {"NetworkInterfaceId", "InstanceType"}
    if others:
        raise ApiError(
            400,
            "InvalidParameter.Conflict",
            f"NetworkInterfaceId can't be specified at the same time as {min(others)}.",
        )
    eni = enis.find(of.text("NetworkInterfaceId"))
    require_secondary(eni)
    require_status(eni, EniStatus.AVAILABLE)
    check_zone(eni.pool, pool)
    return eni


def eni_name(parameters: Parameters) -> str:
    """Of a network interface. The rule is the same as for an instance's."""
    name = parameters.text("NetworkInterfaceName")
    if name and not NAME.fullmatch(name):
        raise invalid("NetworkInterfaceName")
    return name


def check_eni_limit(instance_type: InstanceType, wanted: int) -> None:
    """Raises ApiError if an instance of that type can't have so many network interfaces."""
    if wanted > instance_type.enis:
        raise ApiError(
            403,
            "EniPerInstanceLimitExceeded",
            f"The number of ENI exceeds the limit for the type of instance: {instance_type.id} can have"
            f" {instance_type.enis}.",
        )


def check_zone(eni_pool: AddressPool, instance_pool: AddressPool) -> None:
    """Raises ApiError unless a network interface is in its instance's zone."""
    if eni_pool.vswitch.zone_id != instance_pool.vswitch.zone_id:
        raise ApiError(
            403,
            "InvalidOperation.AvailabilityZoneMismatch",
            "The specified VSwitch, ENI and instance are not in the same zone.",
        )
