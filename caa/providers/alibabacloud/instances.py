"""Instances: found, and deleted.

An instance that RunInstances has just named is not found by other calls for a moment: "not found" does not
mean that it is gone, then.
"""

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any

from caa.errors import NotFoundError, UnavailableError
from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.creation import Creation
from caa.providers.alibabacloud.errors import ApiError, Kind, explaining
from caa.providers.alibabacloud.retry import jittered, persist
from caa.providers.alibabacloud.watch import InstanceWatch

ADDRESS_TIMEOUT = 120.0
DELETE_TIMEOUT = 120.0
"""Seconds, both."""

APPEARS_WITHIN = 20.0
"""Seconds in which an instance that RunInstances has named is found by the other calls."""

_FAILED_STATES = frozenset({"Stopping", "Stopped", "Deleted", "Expired", "Locked"})


class Instances:
    def __init__(self, ecs: Client, watch: InstanceWatch, *, public: bool) -> None:
        """`public`: their workers reach them by their public addresses."""
        self._ecs = ecs
        self._watch = watch
        self._public = public
        self._appearing: dict[str, float] = {}
        """Instances that no call but RunInstances has found yet, and until when that may be (loop time)."""
        self.creation = Creation(ecs, "RunInstances", lambda answer: _only(answer["InstanceIdSets"]))

    def made(self, instance_id: str) -> None:
        """RunInstances has named it just now."""
        self._appearing[instance_id] = asyncio.get_running_loop().time() + APPEARS_WITHIN

    async def addresses(self, instance_id: str) -> tuple[IPv4Address, ...]:
        """The addresses in the order of dialling, as soon as all are there. Raises CaaError."""

        def judge(instance: Mapping[str, Any] | None) -> tuple[tuple[IPv4Address, ...] | None, str]:
            if instance is None:
                if self._may_appear(instance_id):
                    return None, "not found yet"
                raise NotFoundError(
                    f"instance {instance_id} is not found: it was deleted behind the daemon's back, or the"
                    " region is wrong (REGION)"
                )
            self._appearing.pop(instance_id, None)
            status = str(instance.get("Status"))
            if status in _FAILED_STATES:
                raise UnavailableError(
                    f"instance {instance_id} became {status} before it had an address:"
                    " its events in the ECS console tell why"
                )
            return _addresses(instance, public=self._public), f"{status}, without all of them"

        with explaining(f" for {instance_id}"):
            return await self._watch.until(
                instance_id, judge, what=f"the addresses of {instance_id}", timeout=ADDRESS_TIMEOUT
            )

    async def delete(self, instance_id: str, *, seen: bool) -> None:
        """Returns when the cloud has accepted it, or knows no such instance. `seen`: other calls than the one
        that made it have found it. Raises CaaError.
        """
        if not seen:  # another process may have made it, a moment ago
            until = asyncio.get_running_loop().time() + APPEARS_WITHIN
            self._appearing.setdefault(instance_id, until)
        request = {"InstanceId": instance_id, "Force": "true"}

        async def ask() -> tuple[bool | None, str]:
            try:
                await self._ecs.call("DeleteInstance", request)
            except ApiError as error:
                if error.kind is Kind.NOT_YET:
                    self._appearing.pop(instance_id, None)
                if error.kind is not Kind.NOT_FOUND:
                    raise
                if self._may_appear(instance_id):
                    return None, str(error)
            return True, ""

        with explaining(f" for {instance_id}"):
            await persist(
                ask,
                what=f"DeleteInstance of {instance_id} to be accepted",
                timeout=DELETE_TIMEOUT,
                pauses=jittered(0.5, 5.0),
                waiting_for=(Kind.NOT_YET,),
            )
        self._appearing.pop(instance_id, None)

    def _may_appear(self, instance_id: str) -> bool:
        return asyncio.get_running_loop().time() < self._appearing.get(instance_id, 0.0)


def _only(sets: Mapping[str, Any]) -> object:
    match sets:
        case {"InstanceIdSet": [instance_id]}:
            return instance_id
    raise LookupError


def _addresses(instance: Mapping[str, Any], *, public: bool) -> tuple[IPv4Address, ...] | None:
    """None while one of them is missing."""
    listed: list[Any] = []
    if public:
        listed.append(_first(instance, "PublicIpAddress"))
    listed.append(_first(instance.get("VpcAttributes") or {}, "PrivateIpAddress"))
    if not all(listed):
        return None
    try:
        return tuple(IPv4Address(str(address)) for address in listed)
    except ValueError as error:
        raise UnavailableError(f"instance {instance.get('InstanceId')}: {error}") from None


def _first(holder: Mapping[str, Any], key: str) -> Any:
    return next(iter((holder.get(key) or {}).get("IpAddress") or ()), None)
