"""What the region holds that requests name: vSwitches, security groups, images, key pairs, stock."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from caa.fakecloud.errors import ApiError, invalid, missing
from caa.fakecloud.instance_types import INSTANCE_TYPES, InstanceType
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.security_groups import SecurityGroup
from caa.fakecloud.settings import FakeCloudSettings, Image
from caa.fakecloud.stock import Stock
from caa.fakecloud.vswitches import AddressPool

MAX_SECURITY_GROUPS = 5


class Region:
    """Each method gives what a parameter names. Raises ApiError, as the API reference has it, if there is
    no such thing.
    """

    def __init__(
        self,
        settings: FakeCloudSettings,
        pools: Sequence[AddressPool],
        stock: Stock | None = None,
        find_image: Callable[[str], Image | None] | None = None,
    ) -> None:
        """`find_image` gives an image of that id that an instance can be made of; the settings' images, if
        it is not given.
        """
        self.settings = settings
        self.pools = tuple(pools)
        self.stock = stock or Stock(
            settings.stock, closed_zones=settings.closed_zones, not_offered=settings.not_offered
        )
        images = {image.id: image for image in settings.images}
        self._find_image = find_image or images.get

    @property
    def id(self) -> str:
        return self.settings.region

    @property
    def vpc_id(self) -> str:
        return self.settings.vpc_id

    @property
    def zones(self) -> Sequence[str]:
        return sorted({pool.vswitch.zone_id for pool in self.pools})

    def check(self, parameters: Parameters) -> None:
        """That the request, which must say so, is for this region."""
        self._check_is(parameters.required("RegionId"))

    def check_optional(self, parameters: Parameters) -> None:
        """As `check`, for the actions that need not be told the region."""
        self._check_is(parameters.text("RegionId", self.id))

    def _check_is(self, region: str) -> None:
        if region != self.id:
            raise ApiError(404, "InvalidRegionId.NotFound", "The specified RegionId does not exist.")

    def image(self, parameters: Parameters) -> Image:
        image = self._find_image(parameters.required("ImageId"))
        if image is None:
            raise ApiError(404, "InvalidImageId.NotFound", "The specified ImageId does not exist.")
        return image

    def instance_type(self, parameters: Parameters) -> InstanceType:
        name = parameters.required("InstanceType")
        if name not in INSTANCE_TYPES:
            raise ApiError(
                400,
                "InvalidInstanceType.ValueNotSupported",
                "The specified InstanceType does not exist or beyond the permitted range.",
            )
        return INSTANCE_TYPES[name]

    def vswitch(self, vswitch_id: str) -> AddressPool:
        for pool in self.pools:
            if pool.vswitch.id == vswitch_id:
                return pool
        raise ApiError(404, "InvalidVSwitchId.NotFound", "Specified virtual switch does not exist.")

    def key_pair(self, parameters: Parameters) -> str:
        """Its name, or nothing if none is named."""
        name = parameters.text("KeyPairName")
        if name and name not in self.settings.key_pairs:
            raise ApiError(
                404,
                "InvalidKeyPairName.NotFound",
                'The specified parameter "KeyPairName" does not exist in our records.',
            )
        return name

    def security_group(self, group_id: str) -> SecurityGroup:
        for group in self.settings.security_groups:
            if group.id == group_id:
                return group
        raise ApiError(
            404,
            "InvalidSecurityGroupId.NotFound",
            f"The specified SecurityGroupId {group_id} does not exist.",
        )

    def security_groups(self, parameters: Parameters) -> tuple[str, ...]:
        """The ids in SecurityGroupId or SecurityGroupIds.N; empty if there are none. They have to be of the
        VPC.
        """
        one, several = parameters.text("SecurityGroupId"), parameters.texts("SecurityGroupIds")
        if one and several:
            raise ApiError(
                400,
                "InvalidParameter.Conflict",
                "SecurityGroupId and SecurityGroupIds can't be specified at the same time.",
            )
        return self.check_security_groups([one] if one else several)

    def check_security_groups(self, ids: Sequence[str]) -> tuple[str, ...]:
        if len(ids) > MAX_SECURITY_GROUPS or len(set(ids)) != len(ids):
            raise invalid("SecurityGroupIds", f"At most {MAX_SECURITY_GROUPS}, each once.")
        for each in ids:
            if self.security_group(each).vpc_id != self.vpc_id:
                raise ApiError(
                    400,
                    "InvalidParameter.Mismatch",
                    "Specified security group and virtual switch are not in the same VPC.",
                )
        return tuple(ids)

    def some_security_groups(self, parameters: Parameters) -> tuple[str, ...]:
        """As `security_groups`, and at least one is needed."""
        groups = self.security_groups(parameters)
        if not groups:
            raise missing("SecurityGroupId")
        return groups


def read_address(parameters: Parameters, name: str) -> IPv4Address | None:
    """None if it is not given. Raises ApiError if it is no address."""
    text = parameters.text(name)
    try:
        return IPv4Address(text) if text else None
    except ValueError:
        raise ApiError(
            400, "InvalidPrivateIpAddress.Malformed", "Specified private IP address is malformed."
        ) from None
