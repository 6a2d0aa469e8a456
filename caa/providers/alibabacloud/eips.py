"""Elastic IP addresses, for second interfaces."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.creation import Creation
from caa.providers.alibabacloud.errors import ApiError, Kind, explaining
from caa.providers.alibabacloud.retry import jittered, persist

TIMEOUT = 120.0
"""Seconds for an EIP to be bound, or to be gone."""


class Eips:
    """What it does converges: it looks at the EIP's state and takes the step that leads on from there, so a
    lost answer, or a process that ended half-way, makes no difference.
    """

    def __init__(self, vpc: Client, region: str) -> None:
        self._vpc = vpc
        self._region = region
        self.creation = Creation(vpc, "AllocateEipAddress", lambda answer: answer["AllocationId"])

    async def bind(self, eip: str, eni: str) -> None:
        """Returns when the EIP is the ENI's. Raises CaaError."""
        asked = False

        async def step() -> tuple[bool | None, str]:
            nonlocal asked
            if not asked:
                asked = True  # refused or not, the next step looks what came of it
                await self._call("AssociateEipAddress", eip, InstanceId=eni, InstanceType="NetworkInterface")
                return None, "asked for"
            status, holder = await self._look(eip)
            if status == "InUse" and holder == eni:
                return True, ""
            asked = status != "Available"
            return None, status or "not found"

        await self._converge(step, f"{eip} to be bound to {eni}", eip, jittered(0.5, 3.0))

    async def release(self, eip: str) -> None:
        """Returns when the EIP is no longer the account's. Raises CaaError."""

        async def step() -> tuple[bool | None, str]:
            status, holder = await self._look(eip)
            if not status:
                return True, ""
            if status == "InUse":
                await self._call(
                    "UnassociateEipAddress", eip, InstanceId=holder, InstanceType="NetworkInterface"
                )
            if status == "Available":
                await self._call("ReleaseEipAddress", eip)
                return True, ""
            return None, status

        # An instance on its way out lets go of its interface's EIP only when it is gone.
        await self._converge(step, f"{eip} to be released", eip, jittered(1.0, 5.0))

    async def _converge(
        self,
        step: Callable[[], Awaitable[tuple[bool | None, str]]],
        what: str,
        eip: str,
        pauses: Iterator[float],
    ) -> None:
        with explaining(f" for {eip}"):
            await persist(step, what=what, timeout=TIMEOUT, pauses=pauses, waiting_for=(Kind.NOT_YET,))

    async def _look(self, eip: str) -> tuple[str, str]:
        """Its status, and what it is bound to. Empty: there is no such EIP."""
        answer = await self._vpc.call("DescribeEipAddresses", {"RegionId": self._region, "AllocationId": eip})
        listed = (answer.get("EipAddresses") or {}).get("EipAddress") or ()
        found: Mapping[str, Any] = next((each for each in listed if each.get("AllocationId") == eip), {})
        return str(found.get("Status", "")), str(found.get("InstanceId", ""))

    async def _call(self, action: str, eip: str, **more: str) -> None:
        try:
            await self._vpc.call(action, {"RegionId": self._region, "AllocationId": eip, **more})
        except ApiError as error:
            # Somebody else, or an earlier try, was there first: the next look tells.
            if error.kind is not Kind.NOT_FOUND:
                raise
