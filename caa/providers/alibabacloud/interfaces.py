"""Elastic network interfaces, for pods whose traffic leaves by their VM."""

from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.creation import Creation
from caa.providers.alibabacloud.errors import ApiError, Kind, explaining
from caa.providers.alibabacloud.retry import jittered, persist

TIMEOUT = 120.0
"""Seconds for an ENI to be gone: it goes after its instance."""


class Interfaces:
    def __init__(self, ecs: Client, region: str) -> None:
        self._ecs = ecs
        self._region = region
        self.creation = Creation(ecs, "CreateNetworkInterface", lambda answer: answer["NetworkInterfaceId"])

    async def delete(self, eni: str) -> None:
        """Returns when it is deleted or was gone; waits while an instance that is going has it. Raises
        CaaError.
        """
        request = {"RegionId": self._region, "NetworkInterfaceId": eni}

        async def ask() -> tuple[bool | None, str]:
            try:
                await self._ecs.call("DeleteNetworkInterface", request)
            except ApiError as error:
                if error.kind is not Kind.NOT_FOUND:
                    raise
            return True, ""

        with explaining(f" for {eni}"):
            await persist(
                ask,
                what=f"{eni} to be deleted",
                timeout=TIMEOUT,
                pauses=jittered(0.5, 5.0),
                waiting_for=(Kind.NOT_YET,),
            )
