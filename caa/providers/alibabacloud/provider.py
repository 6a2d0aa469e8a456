"""Pod VMs on ECS.

Why no step leaves a second or a forgotten instance behind:

- Every RunInstances of a plan carries the plan's client token, so repeating it gives the same instance. So a
  lost answer is found again, by `launch` itself, and by `undo_launch` after a cancellation or a restart. (And
  it takes no right to list instances.)
- A cancelled `launch` may leave a request under way, since a thread can't be stopped. `undo_launch` waits for
  it before it asks, so that no create can come after the delete.
- An instance that RunInstances has just named is not found by other calls for a moment: "not found" does not
  mean that it is gone, then.
"""

import asyncio
import base64
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from ipaddress import IPv4Address
from typing import Any

import structlog

from caa.config import AlibabaCloudSettings
from caa.errors import (
    CaaError,
    DeadlineExceededError,
    FailedPreconditionError,
    StartupError,
    UnavailableError,
)
from caa.providers.alibabacloud.client import ECS, VPC, Client
from caa.providers.alibabacloud.credentials import credentials_for
from caa.providers.alibabacloud.errors import ApiError, Kind, explained, has_tdx
from caa.providers.alibabacloud.retry import jittered, persist
from caa.providers.alibabacloud.sizes import SIZES
from caa.providers.base import LaunchPlan, VmOrder
from caa.providers.instance_types import Demand, Size, choose

log = structlog.get_logger(__name__)

# Seconds. Those who call have deadlines of their own, which are the ones that count.
CHECK_TIMEOUT = 45.0
LAUNCH_TIMEOUT = 300.0
ADDRESS_TIMEOUT = 120.0
DELETE_TIMEOUT = 120.0

APPEARS_WITHIN = 20.0
"""Seconds in which an instance that RunInstances has named is found by the other calls."""
LONGEST_TAG = 128
"""Characters of a tag's value. A pod's name may be longer."""

_NO_INSTANCE = frozenset({Kind.NO_STOCK, Kind.REFUSED})
"""Answers to RunInstances that say that its client token has no instance: a token that has one gives its id,
whatever has become of stock and quota."""
_FAILED_STATES = frozenset({"Stopping", "Stopped", "Deleted", "Expired", "Locked"})


class AlibabaCloud:
    """Implements `caa.providers.Provider`."""

    name = "alibabacloud"

    def __init__(self, settings: AlibabaCloudSettings, *, node: str = "") -> None:
        """`node` is what the instances' tags name as their worker; the host's name if empty.

        Raises StartupError for settings that can't work, without asking the cloud.
        """
        self._settings = settings
        self._node = node or socket.gethostname()
        self._candidates = settings.instance_types or (settings.instance_type,)
        self._default_type = (
            settings.instance_type if settings.instance_type in self._candidates else self._candidates[0]
        )
        self._sizes: Mapping[str, Size] = SIZES
        self._zones: dict[str, str] = {}
        self._appearing: dict[str, float] = {}
        """Instances that no call but RunInstances has found yet, and until when that may be (loop time)."""
        self._refused: set[str] = set()
        """Client tokens whose launch was refused: `undo_launch` need not ask again."""
        self._credentials = credentials_for(settings)
        self._ecs = Client(
            ECS,
            endpoint=settings.ecs_endpoint,
            region=settings.region,
            ca_file=settings.ca_file,
            credentials=self._credentials,
        )
        self._vpc = Client(
            VPC,
            endpoint=settings.vpc_endpoint,
            region=settings.region,
            ca_file=settings.ca_file,
            credentials=self._credentials,
            threads=4,
        )

    async def close(self) -> None:
        await self._ecs.close()
        await self._vpc.close()
        await self._credentials.close()

    async def check(self, *, verify: bool) -> None:
        """Checks credentials and vSwitches and, with `verify`, all else by a dry run of RunInstances. Learns
        the sizes of the instance types and the zones of the vSwitches.
        """
        try:
            await self._credentials.ready()
            for vswitch in self._settings.vswitch_ids:
                await self._check_vswitch(vswitch)
            await self._learn_sizes()
            if verify:
                await self._dry_run()
        except StartupError:
            raise
        except CaaError as error:
            raise StartupError(str(error)) from error

    async def _check_vswitch(self, vswitch: str) -> None:
        settings = self._settings
        question = {"RegionId": settings.region, "VSwitchId": vswitch}
        absent = f"no such vSwitch {vswitch} in region {settings.region}"
        try:
            answer = await _answer(self._vpc, "DescribeVSwitchAttributes", question, CHECK_TIMEOUT)
        except ApiError as error:
            if error.code == "Forbidden.RAM":
                _warn_of(error, "vSwitches are not checked, and messages can't name their zone")
                return
            if fnmatchcase(error.code.lower(), "invalidvswitchid*"):
                raise StartupError(f"{absent}: {error}") from None
            raise explained(error, f" for {vswitch} in {settings.region}") from None
        if answer.get("VSwitchId") != vswitch:
            raise StartupError(f"{absent}: check VSWITCH_ID and REGION")
        vpc = str(answer.get("VpcId", ""))
        if settings.vpc_id and vpc != settings.vpc_id:
            raise StartupError(
                f"vSwitch {vswitch} is in {vpc}, not in {settings.vpc_id}: check VSWITCH_ID and --vpc-id"
            )
        self._zones[vswitch] = str(answer.get("ZoneId", ""))

    async def _learn_sizes(self) -> None:
        """Ask for the candidates' sizes: a right beyond the published policy, that can be lived without."""
        question = {"InstanceTypes": list(self._candidates)}
        try:
            answer = await _answer(self._ecs, "DescribeInstanceTypes", question, CHECK_TIMEOUT)
            listed = answer["InstanceTypes"]["InstanceType"]
            self._sizes = {**SIZES, **{entry["InstanceTypeId"]: _size(entry) for entry in listed}}
        except ApiError as error:
            _warn_of(error, "sizes of instance types come from a built-in table of common ones")
        except (DeadlineExceededError, KeyError, TypeError, ValueError) as error:
            log.warning("no sizes of instance types but those of a built-in table", error=repr(error))
        unknown = [name for name in self._candidates if name not in self._sizes]
        if unknown:
            log.warning("instance types of unknown size are chosen last", types=unknown)

    async def _dry_run(self) -> None:
        order = VmOrder(
            sandbox_id="dry-run",
            pod_name="dry-run",
            pod_namespace="dry-run",
            name="podvm-dry-run",
            user_data=b"#cloud-config\n",
            client_token="",
        )
        request = {**self.plan(order)["RunInstances"], "DryRun": "true"}
        del request["ClientToken"]
        try:
            await _answer(self._ecs, "RunInstances", request, CHECK_TIMEOUT)
        except ApiError as error:
            told = f"dry run of the settings: {self._explained(error, request)}"
            if error.kind is Kind.NO_STOCK:
                log.warning(told)  # the settings are right, and the stock may be back for the next pod
            elif error.kind is not Kind.DRY_RUN:
                raise StartupError(told) from None

    def plan(self, order: VmOrder) -> LaunchPlan:
        """The RunInstances request. It holds the user data, in which there are keys: keep it as a secret."""
        settings = self._settings
        instance_type = choose(
            self._candidates,
            self._sizes,
            Demand(order.vcpus, order.memory_mib, order.gpus),
            default=self._default_type,
            named=order.instance_type,
        )
        tags = {
            **settings.tags,
            **order.tags,
            "caa-node": self._node,
            "caa-sandbox": order.sandbox_id,
            "caa-pod": order.pod_name,
            "caa-namespace": order.pod_namespace,
        }
        request: dict[str, Any] = {
            "RegionId": settings.region,
            "ImageId": order.image or settings.image_id,
            "InstanceType": instance_type,
            "InstanceChargeType": "PostPaid",
            "Amount": 1,
            "VSwitchId": settings.vswitch_ids[0],
            "SecurityGroupIds": list(settings.security_group_ids),
            "InstanceName": order.name,
            "UserData": base64.b64encode(order.user_data).decode(),
            "Tag": [{"Key": key, "Value": value[:LONGEST_TAG]} for key, value in tags.items()],
            "ClientToken": order.client_token,
        }
        if settings.key_name:
            request["KeyPairName"] = settings.key_name
        if settings.system_disk_size:
            request["SystemDisk"] = {"Category": "cloud_essd", "Size": settings.system_disk_size}
        if not settings.disable_cvm:
            request["SecurityOptions"] = {"ConfidentialComputingMode": "TDX"}
        if settings.use_public_ip:
            request |= {"InternetChargeType": "PayByTraffic", "InternetMaxBandwidthOut": 100}
        return {"RunInstances": request}

    async def launch(self, plan: LaunchPlan) -> str:
        request = plan["RunInstances"]
        self._refused.discard(request["ClientToken"])
        try:
            return await self._run_instances(request)
        except ApiError as error:
            if error.kind in _NO_INSTANCE:
                self._refused.add(request["ClientToken"])
            raise self._explained(error, request) from None

    async def undo_launch(self, plan: LaunchPlan) -> None:
        request = plan["RunInstances"]
        token = request["ClientToken"]
        await self._ecs.settled(token)
        if token in self._refused:
            self._refused.discard(token)
            return
        try:
            instance_id = await self._run_instances(request)
        except ApiError as error:
            if error.kind in _NO_INSTANCE:
                return
            if error.kind is Kind.TOKEN_REUSED:
                raise FailedPreconditionError(
                    f"{self._explained(error, request)}. There may be an instance {request['InstanceName']}"
                    f" in {request['RegionId']} (client token {token}): look for it, and delete it"
                ) from None
            raise self._explained(error, request) from None
        await self.delete(instance_id, seen=False)

    async def _run_instances(self, request: Mapping[str, Any]) -> str:
        answer = await _answer(self._ecs, "RunInstances", request, LAUNCH_TIMEOUT)
        match answer:
            case {"InstanceIdSets": {"InstanceIdSet": [str(instance_id)]}}:
                self._appearing[instance_id] = asyncio.get_running_loop().time() + APPEARS_WITHIN
                return instance_id
        raise UnavailableError("RunInstances: the answer does not name one instance")

    async def wait_for_addresses(self, instance_id: str) -> tuple[IPv4Address, ...]:
        async def ask() -> tuple[tuple[IPv4Address, ...] | None, str]:
            try:
                instance = await self._ecs.call("DescribeInstanceAttribute", {"InstanceId": instance_id})
            except ApiError as error:
                if error.kind is Kind.NOT_FOUND and self._may_appear(instance_id):
                    return None, str(error)
                raise
            self._appearing.pop(instance_id, None)
            status = str(instance.get("Status"))
            if status in _FAILED_STATES:
                raise UnavailableError(
                    f"instance {instance_id} became {status} before it had an address:"
                    " its events in the ECS console tell why"
                )
            return _addresses(instance, public=self._settings.use_public_ip), f"{status}, without all of them"

        with _explaining(f" for {instance_id}"):
            return await persist(
                ask,
                what=f"the addresses of {instance_id}",
                timeout=ADDRESS_TIMEOUT,
                pauses=jittered(0.3, 2.0),
                waiting_for=(Kind.NOT_YET,),
            )

    async def delete(self, instance_id: str, *, seen: bool) -> None:
        if not seen:  # another process may have launched it, a moment ago
            self._appearing.setdefault(instance_id, asyncio.get_running_loop().time() + APPEARS_WITHIN)
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

        with _explaining(f" for {instance_id}"):
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

    def _explained(self, error: ApiError, request: Mapping[str, Any]) -> CaaError:
        """The error of a RunInstances request."""
        instance_type, vswitch = request["InstanceType"], request["VSwitchId"]
        place = self._zones.get(vswitch) or vswitch
        tdx = "SecurityOptions" in request and not has_tdx(place, instance_type)
        return explained(error, f" for {instance_type} in {place}", tdx=tdx)


async def _answer(client: Client, action: str, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """The answer to a request that is repeated until there is one."""

    async def ask() -> tuple[dict[str, Any] | None, str]:
        return await client.call(action, request), ""

    return await persist(ask, what=f"{action} to be accepted", timeout=timeout, pauses=jittered(0.5, 8.0))


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        raise explained(error, what) from None


def _warn_of(error: ApiError, lost: str) -> None:
    """Called once for an action, at startup."""
    log.warning("going on without an API action", action=error.permission, lost=lost, error=str(error))


def _size(entry: Mapping[str, Any]) -> Size:
    return Size(
        gpus=int(entry.get("GPUAmount") or 0),
        memory_mib=int(float(entry["MemorySize"]) * 1024),
        vcpus=int(entry["CpuCoreCount"]),
    )


def _addresses(instance: Mapping[str, Any], *, public: bool) -> tuple[IPv4Address, ...] | None:
    """The addresses in the order of dialling, or None while one of them is missing."""
    listed: list[Any] = []
    if public:
        listed.append(_first(instance, "PublicIpAddress"))
    listed.append(_first(instance.get("VpcAttributes") or {}, "PrivateIpAddress"))
    if not all(listed):
        return None
    try:
        return tuple(IPv4Address(str(address)) for address in listed)
    except ValueError as error:
        raise UnavailableError(f"DescribeInstanceAttribute: {error}") from None


def _first(holder: Mapping[str, Any], key: str) -> Any:
    return next(iter((holder.get(key) or {}).get("IpAddress") or ()), None)
