"""What RunInstances is sent, checked and made into an order for an instance."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caa.fakecloud.errors import ApiError, invalid, missing
from caa.fakecloud.instance_types import INSTANCE_TYPES, InstanceType
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.settings import FakeCloudSettings, Image
from caa.fakecloud.vswitches import AddressPool

MAX_USER_DATA = 32 * 1024
"""Bytes before base64."""
MAX_TAGS = 20
MAX_SECURITY_GROUPS = 5

_INSTANCE_NAME = re.compile(r"(?!https?://)[^\W\d_][\w.:-]{1,127}")
_DISK_SIZES = {
    "cloud_essd": range(20, 2049),
    "cloud_auto": range(20, 2049),
    "cloud_essd_entry": range(20, 2049),
    "cloud_ssd": range(20, 501),
    "cloud_efficiency": range(20, 501),
}
DEFAULT_DISK = "cloud_essd"

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


def read_order(parameters: Parameters, settings: FakeCloudSettings, pools: Sequence[AddressPool]) -> Order:
    """Check everything that RunInstances was sent, as the cloud does before it makes anything.

    Raises ApiError with the code that the API reference gives for what is wrong.
    """
    parameters.accept(*_ACCEPTED)
    check_region(parameters, settings)
    for name in ("Amount", "MinAmount"):
        if parameters.integer(name, 1, low=1, high=100) != 1:
            raise invalid(name, "The local cloud makes one instance a call.")
    if parameters.text("InstanceChargeType", "PostPaid") != "PostPaid":
        raise ApiError(
            404,
            "InvalidInstanceChargeType.NotFound",
            "The InstanceChargeType does not exist in our records.",
        )
    image = _image(parameters, settings)
    instance_type = _instance_type(parameters)
    pool = _vswitch(parameters, pools)
    disk_category, disk_gib = _system_disk(parameters, image.size_gib)
    internet_charge_type, internet_mbps = _internet(parameters)
    return Order(
        name=_instance_name(parameters),
        image_id=image.id,
        type=instance_type,
        pool=pool,
        security_group_ids=_security_groups(parameters, settings),
        user_data=_user_data(parameters),
        tags=_tags(parameters),
        key_pair=_key_pair(parameters, settings),
        confidential=_confidential(parameters, instance_type, pool.vswitch.zone_id),
        disk_category=disk_category,
        disk_gib=disk_gib,
        internet_charge_type=internet_charge_type,
        internet_mbps=internet_mbps,
        host_name=parameters.text("HostName"),
        description=parameters.text("Description"),
    )


def check_region(parameters: Parameters, settings: FakeCloudSettings) -> None:
    if parameters.required("RegionId") != settings.region:
        raise ApiError(404, "InvalidRegionId.NotFound", "The specified RegionId does not exist.")


def _image(parameters: Parameters, settings: FakeCloudSettings) -> Image:
    wanted = parameters.required("ImageId")
    for image in settings.images:
        if image.id == wanted:
            return image
    raise ApiError(404, "InvalidImageId.NotFound", "The specified ImageId does not exist.")


def _vswitch(parameters: Parameters, pools: Sequence[AddressPool]) -> AddressPool:
    wanted = parameters.required("VSwitchId")
    for pool in pools:
        if pool.vswitch.id == wanted:
            if parameters.text("ZoneId", pool.vswitch.zone_id) != pool.vswitch.zone_id:
                raise ApiError(
                    400, "InvalidParameter.Mismatch", "Specified virtual switch is not in the specified zone."
                )
            return pool
    raise ApiError(404, "InvalidVSwitchId.NotFound", "Specified virtual switch does not exist.")


def _key_pair(parameters: Parameters, settings: FakeCloudSettings) -> str:
    name = parameters.text("KeyPairName")
    if name and name not in settings.key_pairs:
        raise ApiError(
            404,
            "InvalidKeyPairName.NotFound",
            'The specified parameter "KeyPairName" does not exist in our records.',
        )
    return name


def _security_groups(parameters: Parameters, settings: FakeCloudSettings) -> Sequence[str]:
    vpcs = dict(settings.security_groups)
    one = parameters.text("SecurityGroupId")
    several = parameters.texts("SecurityGroupIds")
    if one and several:
        raise ApiError(
            400,
            "InvalidParameter.Conflict",
            "SecurityGroupId and SecurityGroupIds can't be specified at the same time.",
        )
    ids = [one] if one else several
    if not ids:
        raise missing("SecurityGroupId")
    if len(ids) > MAX_SECURITY_GROUPS or len(set(ids)) != len(ids):
        raise invalid("SecurityGroupIds", f"At most {MAX_SECURITY_GROUPS}, each once.")
    for each in ids:
        if each not in vpcs:
            raise ApiError(
                404,
                "InvalidSecurityGroupId.NotFound",
                f"The specified SecurityGroupId {each} does not exist.",
            )
        if vpcs[each] != settings.vpc_id:
            raise ApiError(
                400,
                "InvalidParameter.Mismatch",
                "Specified security group and virtual switch are not in the same VPC.",
            )
    return tuple(ids)


def _instance_type(parameters: Parameters) -> InstanceType:
    name = parameters.required("InstanceType")
    if name not in INSTANCE_TYPES:
        raise ApiError(
            400,
            "InvalidInstanceType.ValueNotSupported",
            "The specified InstanceType does not exist or beyond the permitted range.",
        )
    return INSTANCE_TYPES[name]


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
    if name and not _INSTANCE_NAME.fullmatch(name):
        raise ApiError(
            400, "InvalidInstanceName.Malformed", 'The specified parameter "InstanceName" is not valid.'
        )
    return name


def _user_data(parameters: Parameters) -> bytes:
    try:
        data = base64.b64decode(parameters.text("UserData"), validate=True)
    except ValueError:  # also what b64decode raises for text that is not ASCII
        raise ApiError(
            403, "InvalidUserData.Base64FormatInvalid", "The specified UserData is not valid."
        ) from None
    if len(data) > MAX_USER_DATA:
        raise ApiError(
            400, "InvalidUserData.SizeExceeded", 'The specified parameter "UserData" exceeds the size.'
        )
    return data


def _tags(parameters: Parameters) -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag in parameters.objects("Tag"):
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not 0 < len(key) <= 128 or key.lower().startswith(("aliyun", "acs:")) or "://" in key:
            raise ApiError(400, "InvalidTagKey.Malformed", "The specified Tag.n.Key is not valid.")
        if len(value) > 128 or "://" in value:
            raise ApiError(400, "InvalidTagValue.Malformed", "The specified Tag.n.Value is not valid.")
        if key in tags:
            raise ApiError(400, "Duplicate.TagKey", "The Tag.N.Key contain duplicate key.")
        tags[key] = value
    if len(tags) > MAX_TAGS:
        raise ApiError(400, "InvalidParameter.TagKey", f"At most {MAX_TAGS} tags can be specified.")
    return tags


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
