"""What carries a node's mark in the cloud: for finding what no journal knows of any more.

Instances are marked by tags. ENIs and EIPs are marked by their descriptions, since tagging those while they
are made takes a right that the published policy does not have.
"""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.errors import ApiError, Kind
from caa.providers.alibabacloud.retry import jittered, persist
from caa.providers.base import Stray

TIMEOUT = 60.0
"""Seconds for one page of a list."""
PAGE = 100

_MARK = re.compile(r"caa-node=(\S+) caa-vpc=(\S*) caa-sandbox=(\S+)")


def tags(node: str, sandbox: str, pod: str, namespace: str) -> dict[str, str]:
    return {"caa-node": node, "caa-sandbox": sandbox, "caa-pod": pod, "caa-namespace": namespace}


def mark(node: str, vpc: str, sandbox: str) -> str:
    """The description of an ENI or EIP. An EIP belongs to no VPC, so it has to be told."""
    return f"caa-node={node} caa-vpc={vpc} caa-sandbox={sandbox}"


class Strays:
    def __init__(self, ecs: Client, vpc: Client, region: str, node: str) -> None:
        self._ecs = ecs
        self._vpc = vpc
        self._region = region
        self._node = node

    async def instances(self, vpc: str, **only: Any) -> list[Stray]:
        """Raises ApiError, as all of these."""
        tag = [{"Key": "caa-node", "Value": self._node}]
        found = []
        async for each in self._pages(
            self._ecs, "DescribeInstances", "Instances", "Instance", VpcId=vpc, Tag=tag, **only
        ):
            its = {tag["TagKey"]: tag["TagValue"] for tag in (each.get("Tags") or {}).get("Tag", ())}
            # The filter is the cloud's; what is deleted on the strength of it is checked here once more.
            if its.get("caa-node") == self._node and its.get("caa-sandbox"):
                found.append(
                    Stray(
                        "instance",
                        str(each["InstanceId"]),
                        str(each.get("InstanceName", "")),
                        its["caa-sandbox"],
                        str(each.get("CreationTime", "")),
                    )
                )
        return found

    async def enis(self, vpc: str, **only: Any) -> list[Stray]:
        listed = self._pages(
            self._ecs,
            "DescribeNetworkInterfaces",
            "NetworkInterfaceSets",
            "NetworkInterfaceSet",
            VpcId=vpc,
            **only,
        )
        return [
            Stray(
                "ENI",
                str(each["NetworkInterfaceId"]),
                str(each.get("NetworkInterfaceName", "")),
                sandbox,
                str(each.get("CreationTime", "")),
            )
            async for each in listed
            if each.get("Type") != "Primary" and (sandbox := self._marked(each.get("Description"), vpc))
        ]

    async def eips(self, vpc: str, **only: Any) -> list[Stray]:
        listed = self._pages(self._vpc, "DescribeEipAddresses", "EipAddresses", "EipAddress", **only)
        return [
            Stray(
                "EIP",
                str(each["AllocationId"]),
                str(each.get("Name", "")),
                sandbox,
                str(each.get("AllocationTime", "")),
            )
            async for each in listed
            # The API's own spelling, and the right one should it ever come.
            if (sandbox := self._marked(each.get("Descritpion") or each.get("Description"), vpc))
        ]

    async def tags_of(self, instance_id: str) -> dict[str, str]:
        """Empty, too, if lists do not show the instance for want of the right to it. Raises ApiError, as the
        next three.
        """
        ids = f'["{instance_id}"]'
        async for each in self._pages(
            self._ecs, "DescribeInstances", "Instances", "Instance", InstanceIds=ids
        ):
            if each.get("InstanceId") == instance_id:
                return {tag["TagKey"]: tag["TagValue"] for tag in (each.get("Tags") or {}).get("Tag", ())}
        return {}

    async def eips_of(self, sandbox: str) -> dict[str, str]:
        """The EIPs of a sandbox of any node, and what each is bound to (empty: nothing)."""
        listed = self._pages(self._vpc, "DescribeEipAddresses", "EipAddresses", "EipAddress")
        return {
            str(each["AllocationId"]): str(each.get("InstanceId") or "")
            async for each in listed
            if _is_of(sandbox, each.get("Descritpion") or each.get("Description"))
        }

    async def enis_of(self, sandbox: str) -> list[str]:
        """The secondary ENIs of a sandbox of any node."""
        action, outer = "DescribeNetworkInterfaces", "NetworkInterfaceSets"
        return [
            str(each["NetworkInterfaceId"])
            async for each in self._pages(self._ecs, action, outer, "NetworkInterfaceSet")
            if each.get("Type") != "Primary" and _is_of(sandbox, each.get("Description"))
        ]

    async def is_eni_of(self, eni: str, sandbox: str) -> bool:
        request = {"RegionId": self._region, "NetworkInterfaceId": eni}
        try:
            told = await self._ecs.call("DescribeNetworkInterfaceAttribute", request)
        except ApiError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return False
        return _is_of(sandbox, told.get("Description"))

    def _marked(self, description: object, vpc: str) -> str:
        """The sandbox that an ENI or EIP was made for; empty if it is not this node's."""
        match = _MARK.fullmatch(str(description or ""))
        return match[3] if match and (match[1], match[2]) == (self._node, vpc) else ""

    async def _pages(
        self, client: Client, action: str, outer: str, inner: str, **only: Any
    ) -> AsyncIterator[Mapping[str, Any]]:
        for number in range(1, 1000):
            request = {"RegionId": self._region, "PageNumber": number, "PageSize": PAGE, **only}

            async def ask(request: Mapping[str, Any] = request) -> tuple[dict[str, Any] | None, str]:
                return await client.call(action, request), ""

            answer = await persist(ask, what=action, timeout=TIMEOUT, pauses=jittered(0.5, 8.0))
            listed = (answer.get(outer) or {}).get(inner) or []
            for each in listed:
                yield each
            if len(listed) < PAGE:
                return


def _is_of(sandbox: str, description: object) -> bool:
    match = _MARK.fullmatch(str(description or ""))
    return match is not None and match[3] == sandbox
