"""What each call is about: the resources that a policy must allow the action with, as ARNs.

The forms of the ARNs are those of the RAM authorization pages of ECS and VPC, and so is the rule that an
action which makes something is authorised with all of its kind (`instance/*`), and with each thing that it
uses. Which parameters name such things is assumed where those pages don't say it.
"""

import re
from collections.abc import Iterator, Mapping

_BY_ACTION: Mapping[str, tuple[str, ...]] = {
    "ecs:RunInstances": (
        "ecs:instance/*",
        "ecs:image/{ImageId}",
        "ecs:keypair/{KeyPairName}",
        "ecs:launchtemplate/{LaunchTemplateId}",
        "ecs:eni/{NetworkInterface.N.NetworkInterfaceId}",
        "ecs:securitygroup/{SecurityGroupId}",
        "ecs:securitygroup/{SecurityGroupIds.N}",
        "ecs:securitygroup/{NetworkInterface.N.SecurityGroupId}",
        "ecs:securitygroup/{NetworkInterface.N.SecurityGroupIds.N}",
        "vpc:vswitch/{VSwitchId}",
        "vpc:vswitch/{NetworkInterface.N.VSwitchId}",
    ),
    "ecs:DeleteInstance": ("ecs:instance/{InstanceId}",),
    "ecs:DescribeInstanceAttribute": ("ecs:instance/{InstanceId}",),
    "ecs:DescribeInstances": ("ecs:instance/*",),
    "ecs:CreateNetworkInterface": (
        "ecs:eni/*",
        "ecs:securitygroup/{SecurityGroupId}",
        "ecs:securitygroup/{SecurityGroupIds.N}",
        "vpc:vswitch/{VSwitchId}",
    ),
    "ecs:DeleteNetworkInterface": ("ecs:eni/{NetworkInterfaceId}",),
    "ecs:AttachNetworkInterface": ("ecs:eni/{NetworkInterfaceId}", "ecs:instance/{InstanceId}"),
    "ecs:DetachNetworkInterface": ("ecs:eni/{NetworkInterfaceId}", "ecs:instance/{InstanceId}"),
    "ecs:ModifyNetworkInterfaceAttribute": (
        "ecs:eni/{NetworkInterfaceId}",
        "ecs:securitygroup/{SecurityGroupId.N}",
    ),
    "ecs:DescribeNetworkInterfaceAttribute": ("ecs:eni/{NetworkInterfaceId}",),
    "ecs:DescribeNetworkInterfaces": ("ecs:eni/*",),
    "ecs:DescribeSecurityGroups": ("ecs:securitygroup/*",),
    "ecs:DescribeSecurityGroupAttribute": ("ecs:securitygroup/{SecurityGroupId}",),
    "ecs:DescribeKeyPairs": ("ecs:keypair/*",),
    "ecs:CreateLaunchTemplate": ("ecs:launchtemplate/*",),
    "ecs:DescribeLaunchTemplates": ("ecs:launchtemplate/*",),
    "ecs:DescribeLaunchTemplateVersions": ("ecs:launchtemplate/{LaunchTemplateId}",),
    "ecs:DescribeImages": ("ecs:image/*",),
    "ecs:ImportImage": ("ecs:image/*",),
    "ecs:DeleteImage": ("ecs:image/{ImageId}",),
    "vpc:DescribeVSwitchAttributes": ("vpc:vswitch/{VSwitchId}",),
    "vpc:DescribeVSwitches": ("vpc:vswitch/*",),
    "vpc:AllocateEipAddress": ("vpc:eip/*",),
    "vpc:ReleaseEipAddress": ("vpc:eip/{AllocationId}",),
    "vpc:AssociateEipAddress": ("vpc:eip/{AllocationId}",),
    "vpc:UnassociateEipAddress": ("vpc:eip/{AllocationId}",),
    "vpc:DescribeEipAddresses": ("vpc:eip/*",),
}
"""A parameter's value stands for it; N is each number that the request has. What a request does not name is
left out."""

_TAGGING = frozenset({"TagResources", "UntagResources", "ListTagResources"})
"""These name the kind of their resources too."""


def resources_of(
    service: str, action: str, parameters: Mapping[str, str], *, region: str, account: str
) -> list[str]:
    """The ARNs that the call must be allowed with: all of them. Never none: a call that names no resource,
    and an action without a rule, is about every resource of the service.
    """
    if action in _TAGGING:
        named = list(_tagged(service, parameters))
    else:
        rules = _BY_ACTION.get(f"{service}:{action}", ())
        named = [each for rule in rules for each in _filled(rule, parameters)]
    return [_arn(each, region, account) for each in named or [f"{service}:*"]]


def _arn(resource: str, region: str, account: str) -> str:
    service, _, relative = resource.partition(":")
    return f"acs:{service}:{region}:{account}:{relative}"


def _filled(rule: str, parameters: Mapping[str, str]) -> Iterator[str]:
    prefix, brace, parameter = rule.rstrip("}").partition("{")
    if not brace:
        yield rule
        return
    wanted = re.compile(r"\.".join(r"\d+" if part == "N" else part for part in parameter.split(".")))
    for name, value in parameters.items():
        if value and wanted.fullmatch(name):
            yield prefix + value


def _tagged(service: str, parameters: Mapping[str, str]) -> Iterator[str]:
    yield from _filled(f"{service}:{parameters.get('ResourceType', '').lower()}/{{ResourceId.N}}", parameters)
