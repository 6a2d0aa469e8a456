"""Asking the cloud on behalf of checks that run side by side: each question once."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from caa.errors import CaaError
from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.errors import ApiError
from caa.providers.alibabacloud.preflight.subject import Subject
from caa.providers.alibabacloud.retry import jittered, persist

T = TypeVar("T")

ASK_TIMEOUT = 12.0
"""Seconds for each question, repetitions included."""
NO_RIGHT = frozenset({"Forbidden.RAM", "Forbidden.NoPermission", "Forbidden.Unauthorized", "NoPermission"})
"""Codes that say that a right is not granted."""


class Questions:
    """Must be closed."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._answers: dict[str, asyncio.Task[Any]] = {}

    async def close(self) -> None:
        """End what checks that were given up have asked."""
        for answer in self._answers.values():
            answer.cancel()
        await asyncio.gather(*self._answers.values(), return_exceptions=True)

    async def ask(self, client: Client, action: str, **request: Any) -> dict[str, Any]:
        """Raises ApiError, or DeadlineExceededError if there is no answer."""

        async def try_once() -> tuple[dict[str, Any] | None, str]:
            return await client.call(action, request), ""

        return await persist(
            try_once, what=f"{action} to be answered", timeout=ASK_TIMEOUT, pauses=jittered(0.3, 3.0)
        )

    async def once(self, question: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to what several checks ask for; a check that is given up leaves it to the others."""
        if question not in self._answers:
            self._answers[question] = asyncio.ensure_future(ask())
        answer: T = await asyncio.shield(self._answers[question])
        return answer

    async def dry_run(self) -> dict[str, Any]:
        """RunInstances may be asked for rarely, so it is asked for once. Raises ApiError, at best with
        DryRunOperation."""
        request = {**(self._subject.run_instances or {}), "DryRun": "true"}
        request.pop("ClientToken", None)
        return await self.once("dry run", partial(self.ask, self._subject.ecs, "RunInstances", **request))

    async def zone(self, vswitch: str) -> str:
        try:
            return str((await self.vswitch(vswitch)).get("ZoneId", "")) if vswitch else ""
        except (ApiError, CaaError):
            return ""  # its own check tells

    async def vswitch(self, vswitch: str) -> dict[str, Any]:
        ask = partial(
            self.ask,
            self._subject.vpc,
            "DescribeVSwitchAttributes",
            RegionId=self._subject.settings.region,
            VSwitchId=vswitch,
        )
        return await self.once(vswitch, ask)

    async def security_group(self, group: str) -> dict[str, Any]:
        ask = partial(
            self.ask,
            self._subject.ecs,
            "DescribeSecurityGroupAttribute",
            RegionId=self._subject.settings.region,
            SecurityGroupId=group,
        )
        return await self.once(group, ask)
