"""What the daemon may have to do in an account: each action that it calls, why, and when. The policies to
grant, the checks of what is granted and the documentation are made from this one table.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from caa.providers.alibabacloud.token import AUDIENCE

SERVICE_ACCOUNT = "confidential-containers-system:cloud-api-adaptor"
"""Namespace and name of the service account in the published manifests."""


class Need(Enum):
    """When a right is asked for. The values are for people."""

    ALWAYS = "always"
    SECOND_INTERFACE = "with a second interface"
    EIP = "with a second interface and public addresses"
    FEWER_CALLS = "optional: fewer calls"
    GC = "optional: finding leftovers"
    CHECK = "optional: caa check"


OPTIONAL = (Need.FEWER_CALLS, Need.GC, Need.CHECK)
"""Beyond the published policy: the daemon does its work without."""


@dataclass(frozen=True)
class Right:
    action: str
    """As RAM names it, such as ecs:RunInstances."""
    why: str
    needs: frozenset[Need]
    lost: str = ""
    """Without it, where it is optional."""
    regional: bool = False
    """May be granted for the resources of one region: the ECS API reference lists resources that the action
    can be limited to ("RAM authorization")."""

    @property
    def optional(self) -> bool:
        return self.needs.issubset(OPTIONAL)


def _right(action: str, why: str, *needs: Need, lost: str = "", regional: bool = False) -> Right:
    return Right(action, why, frozenset(needs), lost, regional)


RIGHTS = (
    _right("ecs:RunInstances", "creates the pod VM", Need.ALWAYS, regional=True),
    _right("ecs:DeleteInstance", "deletes it", Need.ALWAYS, regional=True),
    _right("ecs:DescribeInstanceAttribute", "learns the VM's addresses and state", Need.ALWAYS),
    _right("vpc:DescribeVSwitchAttributes", "checks the vSwitch and learns its zone", Need.ALWAYS),
    _right(
        "ecs:CreateNetworkInterface", "makes a VM's second interface", Need.SECOND_INTERFACE, regional=True
    ),
    _right("ecs:DeleteNetworkInterface", "deletes it", Need.SECOND_INTERFACE, regional=True),
    _right("ecs:DescribeNetworkInterfaceAttribute", "lets the reaper see whose one is", Need.EIP),
    _right("vpc:AllocateEipAddress", "makes a public address for it", Need.EIP),
    _right("vpc:AssociateEipAddress", "gives it to the interface", Need.EIP),
    _right("vpc:DescribeEipAddresses", "waits for that; finds leftovers", Need.EIP),
    _right("vpc:UnassociateEipAddress", "takes it back", Need.EIP),
    _right("vpc:ReleaseEipAddress", "gives it up", Need.EIP),
    _right(
        "ecs:DescribeInstances",
        "asks for all VMs at once; finds leftovers",
        Need.FEWER_CALLS,
        Need.GC,
        lost="each new VM is asked for by itself; `caa gc` finds no VMs",
    ),
    _right(
        "ecs:DescribeInstanceTypes",
        "learns the sizes of instance types",
        Need.FEWER_CALLS,
        lost="only the sizes of common instance types are known",
    ),
    _right(
        "ecs:DescribeNetworkInterfaces",
        "finds leftover interfaces",
        Need.GC,
        lost="`caa gc` finds no interfaces",
    ),
    _right("ecs:DescribeSecurityGroupAttribute", "checks what the security groups let pass", Need.CHECK),
    _right("ecs:DescribeImages", "checks the image", Need.CHECK),
    _right("ecs:DescribeAvailableResource", "checks the stock of the instance types", Need.CHECK),
    _right("ecs:DescribeKeyPairs", "checks the key pair", Need.CHECK),
)

IMAGE_ACTIONS = ("ecs:ImportImage", "ecs:DescribeImages", "ecs:DescribeTasks", "ecs:DescribeTaskAttribute")
BUCKET_ACTIONS = (
    "oss:GetBucketInfo",
    "oss:PutObject",
    "oss:GetObject",
    "oss:DeleteObject",
    "oss:ListMultipartUploads",
    "oss:ListParts",
    "oss:AbortMultipartUpload",
)
"""What `caa image import` calls, in the name of whoever runs it: no right of the daemon's."""

PUBLISHED: Mapping[str, Any] = {
    "Version": "1",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "ecs:RunInstances",
                "ecs:DeleteInstance",
                "ecs:DescribeInstanceAttribute",
                "ecs:CreateNetworkInterface",
                "ecs:DeleteNetworkInterface",
                "ecs:AttachNetworkInterface",
                "ecs:ModifyNetworkInterfaceAttribute",
                "ecs:DescribeNetworkInterfaceAttribute",
            ],
            "Resource": "*",
        },
        {"Effect": "Allow", "Action": "vpc:DescribeVSwitchAttributes", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": [
                "vpc:AllocateEipAddress",
                "vpc:ReleaseEipAddress",
                "vpc:AssociateEipAddress",
                "vpc:UnassociateEipAddress",
                "vpc:DescribeEipAddresses",
                "vpc:DescribeVSwitchAttributes",
            ],
            "Resource": "*",
        },
    ],
}
"""The policy of the cloud-api-adaptor's installation guide for Alibaba Cloud."""


def needs(*, second_interface: bool, public_ip: bool) -> frozenset[Need]:
    """What has to be granted for these features."""
    found = {Need.ALWAYS}
    if second_interface:
        found.add(Need.SECOND_INTERFACE)
        if public_ip:
            found.add(Need.EIP)
    return frozenset(found)


def rights(wanted: Collection[Need]) -> Iterator[Right]:
    return (right for right in RIGHTS if right.needs.intersection(wanted))


def policy(wanted: Collection[Need], *, region: str = "") -> dict[str, Any]:
    """The policy document that grants them. With a `region`, instances and interfaces are made and deleted
    there only.
    """
    granted = list(rights(wanted))
    regional = [right.action for right in granted if region and right.regional]
    statements = [_allow([right.action for right in granted if right.action not in regional], "*")]
    if regional:
        statements.insert(0, _allow(regional, [f"acs:{service}:{region}:*:*" for service in ("ecs", "vpc")]))
    return {"Version": "1", "Statement": statements}


def image_policy(bucket: str) -> dict[str, Any]:
    """The policy document for who imports images by way of this bucket."""
    resources = [f"acs:oss:*:*:{bucket}", f"acs:oss:*:*:{bucket}/*"]
    return {
        "Version": "1",
        "Statement": [_allow(list(IMAGE_ACTIONS), "*"), _allow(list(BUCKET_ACTIONS), resources)],
    }


def _allow(actions: list[str], resources: str | list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def trust(
    *, issuer: str, provider_arn: str, service_accounts: Iterable[str] = (SERVICE_ACCOUNT,)
) -> dict[str, Any]:
    """The trust policy of a role for the service accounts (NAMESPACE:NAME) of the issuer's cluster."""
    return {
        "Version": "1",
        "Statement": [
            {
                "Action": "sts:AssumeRole",
                "Condition": {
                    "StringEquals": {
                        "oidc:aud": [AUDIENCE],
                        "oidc:iss": [issuer],
                        "oidc:sub": [f"system:serviceaccount:{account}" for account in service_accounts],
                    }
                },
                "Effect": "Allow",
                "Principal": {"Federated": [provider_arn]},
            }
        ],
    }
