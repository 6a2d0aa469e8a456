"""What RunInstances is sent, checked and made into an order for an instance."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from caa.fakecloud.eni_orders import NAME, check_eni_limit, read_interfaces
from caa.fakecloud.enis import Eni, EniOrder, Enis
from caa.fakecloud.errors import ApiError, invalid
from caa.fakecloud.instance_types import InstanceType
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region, read_address
from caa.fakecloud.tags import read_tags
from caa.fakecloud.vswitches import AddressPool

MAX_USER_DATA = 32 * 1024
"""Bytes before base64."""
DEFAULT_DISK = "cloud_essd"

_DISK_SIZES = {
    "cloud_essd": range(20, 2049),
    "cloud_auto": range(20, 2049),
    "cloud_essd_entry": range(20, 2049),
    "cloud_ssd": range(20, 501),
    "cloud_efficiency": range(20, 501),
}

_ACCEPTED = (
    "Amount",
    "ClientToken",
    "Description",
    "DryRun",
    "HostName",
    "ImageId",
    "InstanceChargeType",
    "InstanceName",
    "InstanceType",
    "InternetChargeType",
    "InternetMaxBandwidthOut",
    "KeyPairName",
    "MinAmount",
    "NetworkInterface.*",
    "PrivateIpAddress",
    "RegionId",
    "SecurityGroupId",
    "SecurityGroupIds.*",
    "SecurityOptions.ConfidentialComputingMode",
    "SystemDisk.Category",
    "SystemDisk.Size",
    "Tag.*",
    "UserData",
    "VSwitchId",
    "ZoneId",
)


@dataclass(frozen=True)
class Order:
    """An instance that is asked for, and can be had."""

    name: str
    image_id: str
    type: InstanceType
    pool: AddressPool
    security_group_ids: Sequence[str]
    user_data: bytes = field(default=b"", repr=False)
    tags: Mapping[str, str] = field(default_factory=dict)
    key_pair: str = ""
    confidential: bool = False
    disk_category: str = ""
    disk_gib: int = 0
    internet_charge_type: str = ""
    internet_mbps: int = 0
    """Above zero: with a public address."""
    host_name: str = ""
    description: str = ""
    address: IPv4Address | None = None
    """The primary private one; None: any of the vSwitch's."""
    interfaces: Sequence[EniOrder | Eni] = ()
    """Secondary ones: to be made, or to be attached."""


def read_order(parameters: Parameters, region: Region, enis: Enis) -> Order:
    """Check everything that RunInstances was sent, as the cloud does before it makes anything.

    Raises ApiError with the code that the API reference gives for what is wrong.
    """
    parameters.accept(*_ACCEPTED)
    region.check(parameters)
    for name in ("Amount", "MinAmount"):
        if parameters.integer(name, 1, low=1, high=100) != 1:
            raise invalid(name, "The local cloud makes one instance a call.")
    if parameters.text("InstanceChargeType", "PostPaid") != "PostPaid":
        raise ApiError(
            404,
            "InvalidInstanceChargeType.NotFound",
            "The InstanceChargeType does not exist in our records.",
        )
    image = region.image(parameters)
    instance_type = region.instance_type(parameters)
    pool = _vswitch(parameters, region)
    zone = pool.vswitch.zone_id
    groups = region.some_security_groups(parameters)
    disk_category, disk_gib = _system_disk(parameters, image.size_gib)
    internet_charge_type, internet_mbps = _internet(parameters)
    order = Order(
        name=_instance_name(parameters),
        image_id=image.id,
        type=instance_type,
        pool=pool,
        security_group_ids=groups,
        user_data=_user_data(parameters),
        tags=read_tags(parameters),
        key_pair=region.key_pair(parameters),
        confidential=_confidential(parameters, instance_type, zone),
        disk_category=disk_category,
        disk_gib=disk_gib,
        internet_charge_type=internet_charge_type,
        internet_mbps=internet_mbps,
        host_name=parameters.text("HostName"),
        description=parameters.text("Description"),
        address=_address(parameters, pool),
        interfaces=read_interfaces(parameters, region, enis, pool, groups),
    )
    check_eni_limit(instance_type, 1 + len(order.interfaces))
    _check_addresses(order)
    region.stock.check(zone, instance_type)
    return order


def _vswitch(parameters: Parameters, region: Region) -> AddressPool:
    pool = region.vswitch(parameters.required("VSwitchId"))
    if parameters.text("ZoneId", pool.vswitch.zone_id) != pool.vswitch.zone_id:
        raise ApiError(
            400, "InvalidParameter.Mismatch", "Specified virtual switch is not in the specified zone."
        )
    return pool


def _address(parameters: Parameters, pool: AddressPool) -> IPv4Address | None:
    address = read_address(parameters, "PrivateIpAddress")
    if address is not None and address not in pool:
        raise ApiError(
            400,
            "InvalidPrivateIpAddress",
            "Specified private IP address is not in the CIDR block of virtual switch.",
        )
    if address is not None and pool.is_taken(address):
        raise ApiError(
            400, "InvalidPrivateIpAddress.Duplicated", "Specified private IP address is duplicated."
        )
    return address


def _check_addresses(order: Order) -> None:
    """That there are enough for the instance's interfaces together, and that no two want the same one."""
    new = [EniOrder(pool=order.pool, security_group_ids=(), address=order.address)]
    new += [each for each in order.interfaces if isinstance(each, EniOrder)]
    wanted = [each.address for each in new if each.address]
    if len(set(wanted)) != len(wanted):
        raise ApiError(
            400, "InvalidPrivateIpAddress.Duplicated", "Specified private IP address is duplicated."
        )
    for pool in {each.pool for each in new}:
        if sum(each.pool is pool for each in new) > pool.available:
            raise ApiError(
                400, "QuotaExceeded.PrivateIpAddress", "Don't have enough private IPs in this switch."
            )


def _confidential(parameters: Parameters, instance_type: InstanceType, zone: str) -> bool:
    mode = parameters.text("SecurityOptions.ConfidentialComputingMode")
    if not mode:
        return False
    if mode != "TDX":
        raise invalid("SecurityOptions.ConfidentialComputingMode", "It must be TDX.")
    if zone not in instance_type.tdx_zones:
        raise ApiError(
            400,
            "InvalidInstanceType.ValueNotSupported",
            f"The specified InstanceType {instance_type.id} does not support ConfidentialComputingMode TDX"
            f" in zone {zone}.",
        )
    return True


def _instance_name(parameters: Parameters) -> str:
    name = parameters.text("InstanceName")
    if name and not NAME.fullmatch(name):
        raise ApiError(
            400, "InvalidInstanceName.Malformed", 'The specified parameter "InstanceName" is not valid.'
        )
    return name


def _user_data(parameters: Parameters) -> bytes:
    try:
        data = base64.b64decode(parameters.text("UserData"), validate=True)
    except ValueError:  # also what b64decode raises for text that is not ASCII
        raise ApiError(
            400, "InvalidUserData.Base64FormatInvalid", "The specified UserData is not valid."
        ) from None
    if len(data) > MAX_USER_DATA:
        raise ApiError(
            400, "InvalidUserData.SizeExceeded", 'The specified parameter "UserData" exceeds the size.'
        )
    return data


def _system_disk(parameters: Parameters, image_gib: int) -> tuple[str, int]:
    category = parameters.text("SystemDisk.Category", DEFAULT_DISK)
    sizes = _DISK_SIZES.get(category)
    if sizes is None:
        raise ApiError(
            400,
            "InvalidSystemDiskCategory.ValueNotSupported",
            'The specified parameter "SystemDisk.Category" is not valid.',
        )
    size = parameters.text("SystemDisk.Size", str(max(image_gib, 40)))
    if not size.isdecimal() or int(size) not in sizes:
        raise ApiError(
            400,
            "InvalidSystemDiskSize.ValueNotSupported",
            f"The specified parameter SystemDisk.Size must be from {sizes[0]} to {sizes[-1]} for {category}.",
        )
    if int(size) < image_gib:
        raise ApiError(
            404,
            "InvalidSystemDiskSize.LessThanImageSize",
            "The specified parameter SystemDisk.Size is less than the image size.",
        )
    return category, int(size)


def _internet(parameters: Parameters) -> tuple[str, int]:
    charge_type = parameters.text("InternetChargeType", "PayByTraffic")
    if charge_type not in ("PayByTraffic", "PayByBandwidth"):
        raise ApiError(
            400,
            "InvalidInternetChargeType.ValueNotSupported",
            "The specified InternetChargeType is not valid.",
        )
    return charge_type, parameters.integer("InternetMaxBandwidthOut", 0, low=0, high=100)
