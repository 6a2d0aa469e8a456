"""What the account's identities may do."""

from dataclasses import dataclass

from caa.fakecloud.errors import ApiError

PUBLISHED = frozenset(
    {
        "ecs:RunInstances",
        "ecs:DeleteInstance",
        "ecs:DescribeInstanceAttribute",
        "ecs:CreateNetworkInterface",
        "ecs:DeleteNetworkInterface",
        "ecs:AttachNetworkInterface",
        "ecs:ModifyNetworkInterfaceAttribute",
        "ecs:DescribeNetworkInterfaceAttribute",
        "vpc:DescribeVSwitchAttributes",
        "vpc:AllocateEipAddress",
        "vpc:ReleaseEipAddress",
        "vpc:AssociateEipAddress",
        "vpc:UnassociateEipAddress",
        "vpc:DescribeEipAddresses",
    }
)
"""The actions of the RAM policy in the published installation guide: what users have granted."""


@dataclass(frozen=True)
class Policy:
    """A list of allowed actions (`service:Action`); None allows everything."""

    allowed: frozenset[str] | None = PUBLISHED

    def authorize(self, action: str) -> None:
        """Raises Forbidden.RAM unless `action` is allowed."""
        if self.allowed is None or action in self.allowed:
            return
        raise ApiError(
            403,
            "Forbidden.RAM",
            "User not authorized to operate on the specified resource, or this API doesn't support RAM.",
            details={"AccessDeniedDetail": {"AuthAction": action, "NoPermissionType": "ImplicitDeny"}},
        )
