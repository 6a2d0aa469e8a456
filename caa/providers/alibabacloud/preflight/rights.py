"""Which of the rights are granted.

That is found out by requests that can't have an effect: a dry run where the action has one, and else
something about a resource that does not exist. It is assumed that the cloud looks at rights before it looks
for the resource, so that Forbidden.RAM and NotFound tell them apart; an answer about parameters is reported
as one that tells nothing.
"""

from fnmatch import fnmatchcase
from typing import Any

from caa.checking import Finding, failed, ok, skipped, warning
from caa.providers.alibabacloud.errors import ApiError, Kind, explained
from caa.providers.alibabacloud.preflight.questions import NO_RIGHT, Questions
from caa.providers.alibabacloud.preflight.subject import Subject
from caa.providers.alibabacloud.ram import Need, Right, needs

_NOBODY = "0" * 20
"""What stands in the ids of resources that don't exist."""
_SAYS_NOTHING = (
    "Missing*",
    "InvalidParameter*",
    "InvalidAction*",
    "Unsupported*",
    "InvalidRegionId*",
    "*.Malformed",
)
"""Refusals that may well come before any look at rights."""
_FLAGS = {Need.FEWER_CALLS: "fewer-calls", Need.GC: "gc", Need.CHECK: "check"}


class RightChecks:
    def __init__(self, subject: Subject, questions: Questions) -> None:
        self._subject = subject
        self._settings = subject.settings
        self._questions = questions

    async def right(self, right: Right) -> Finding:
        if not self._is_needed(right):
            return skipped("not needed")
        if right.action == "vpc:AllocateEipAddress":
            # It has no dry run, and which parameters it looks at before it allocates is not documented.
            return skipped("can't be told without allocating one")
        try:
            await self._try(right)
        except ApiError as error:
            if error.code in NO_RIGHT:
                return self._lacking(right)
            if error.kind is Kind.DENIED:
                return failed(str(explained(error)))
            if any(fnmatchcase(error.code, pattern) for pattern in _SAYS_NOTHING):
                return skipped(f"can't be told from {error.code}: {error.message}")
        return ok(right.why)

    def _is_needed(self, right: Right) -> bool:
        features = needs(
            second_interface=self._subject.second_interface, public_ip=self._settings.use_public_ip
        )
        if right.action == "ecs:DescribeNetworkInterfaces":
            return Need.SECOND_INTERFACE in features
        return right.optional or bool(right.needs & features)

    def _lacking(self, right: Right) -> Finding:
        if not right.optional:
            flags = "".join(
                flag
                for flag, on in (
                    (" --second-interface", self._subject.second_interface),
                    (" --public-ip", self._settings.use_public_ip),
                )
                if on
            )
            return failed(f"not granted: {right.why}", f"grant what `caa ram policy{flags}` prints")
        flags = "".join(f" --optional {_FLAGS[need]}" for need in Need if need in right.needs)
        return warning(f"not granted: {right.lost}", f"optional: `caa ram policy{flags}`")

    async def _try(self, right: Right) -> None:
        """A request for which it takes the right, and that has no effect."""
        if right.action == "ecs:RunInstances":
            await self._questions.dry_run()
            return
        region = {"RegionId": self._settings.region}
        page = region | {"PageSize": 10}
        instance = {"InstanceId": f"i-{_NOBODY}"}
        eip = region | {"AllocationId": f"eip-{_NOBODY}"}
        eni = {"InstanceId": f"eni-{_NOBODY}", "InstanceType": "NetworkInterface"}
        vswitch = next(iter(self._settings.vswitch_ids), f"vsw-{_NOBODY}")
        group = next(iter(self._settings.security_group_ids), f"sg-{_NOBODY}")
        requests: dict[str, dict[str, Any]] = {
            "ecs:DeleteInstance": instance | {"DryRun": "true", "Force": "true"},
            "ecs:DescribeInstanceAttribute": instance,
            "vpc:DescribeVSwitchAttributes": region | {"VSwitchId": vswitch},
            "ecs:CreateNetworkInterface": region | {"VSwitchId": f"vsw-{_NOBODY}", "SecurityGroupId": group},
            "ecs:DeleteNetworkInterface": region | {"NetworkInterfaceId": f"eni-{_NOBODY}"},
            "ecs:DescribeNetworkInterfaceAttribute": region | {"NetworkInterfaceId": f"eni-{_NOBODY}"},
            "vpc:AssociateEipAddress": eip | eni,
            "vpc:UnassociateEipAddress": eip | eni,
            "vpc:ReleaseEipAddress": eip,
            "vpc:DescribeEipAddresses": page,
            "ecs:DescribeInstances": page,
            "ecs:DescribeInstanceTypes": {"InstanceTypes": list(self._subject.types or ("ecs.g8i.xlarge",))},
            "ecs:DescribeNetworkInterfaces": page,
        }
        product, _, action = right.action.partition(":")
        client = self._subject.ecs if product == "ecs" else self._subject.vpc
        await self._questions.ask(client, action, **requests[right.action])
