"""How many instances of each type can still be had, zone by zone."""

from collections.abc import Collection, Mapping

from caa.fakecloud.errors import ApiError
from caa.fakecloud.instance_types import InstanceType


class Stock:
    """Without limit, where no number is set."""

    def __init__(
        self,
        left: Mapping[tuple[str, str], int] | None = None,
        *,
        closed_zones: Collection[str] = (),
        not_offered: Collection[tuple[str, str]] = (),
    ) -> None:
        """`left` and `not_offered` are by zone and instance type."""
        self._left = dict(left or {})
        self._closed_zones = frozenset(closed_zones)
        self._not_offered = frozenset(not_offered)

    @property
    def limits(self) -> list[tuple[tuple[str, str], int]]:
        """What there is of where a number is set, by zone and type."""
        return sorted(self._left.items())

    def left(self, zone: str, instance_type: str) -> int | None:
        """None: any number."""
        return self._left.get((zone, instance_type))

    def set(self, zone: str, instance_type: str, left: int | None) -> None:
        """How many more there are from now on; None: any number."""
        if left is None:
            self._left.pop((zone, instance_type), None)
        else:
            self._left[zone, instance_type] = left

    def is_closed(self, zone: str) -> bool:
        return zone in self._closed_zones

    def offers(self, zone: str, instance_type: str) -> bool:
        """Whether that type is sold there at all."""
        return (zone, instance_type) not in self._not_offered

    def check(self, zone: str, instance_type: InstanceType) -> None:
        """Raises ApiError if no instance of that type can be had there now."""
        if self.is_closed(zone):
            raise ApiError(
                403,
                "Zone.NotOnSale",
                "The resource in the specified zone is no longer available for sale. Please try other regions"
                " and zones.",
            )
        if not self.offers(zone, instance_type.id):
            raise ApiError(
                403,
                "InvalidResourceType.NotSupported",
                "This resource type is not supported. Please try other resource types.",
            )
        if self.left(zone, instance_type.id) == 0:
            raise ApiError(
                403,
                "OperationDenied.NoStock",
                "The requested resource is sold out in the specified zone; try other types of resources or"
                " other regions and zones.",
            )

    def take(self, zone: str, instance_type: InstanceType) -> None:
        """One less. Raises ApiError as `check` does."""
        self.check(zone, instance_type)
        self._add(zone, instance_type, -1)

    def put_back(self, zone: str, instance_type: InstanceType) -> None:
        self._add(zone, instance_type, 1)

    def _add(self, zone: str, instance_type: InstanceType, change: int) -> None:
        left = self.left(zone, instance_type.id)
        if left is not None:
            self.set(zone, instance_type.id, left + change)
