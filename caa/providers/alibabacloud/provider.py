"""Pod VMs on ECS: joins the parts of this folder into a `Provider`.

Why no step leaves anything behind that nobody knows of: every request that makes something carries a client
token and is in the journal before it is sent (`holding`), so what it made can be found again and removed, by
any process, whether its answer was seen or not (`creation`). No right to list things is needed for that.

A second interface costs no call of its own: RunInstances makes it, and it goes with its instance. Only one
that gets an EIP is made first: the EIP is bound by the interface's id, which RunInstances does not tell.
"""

import asyncio
import socket
from collections.abc import Awaitable, Coroutine, Mapping
from fnmatch import fnmatchcase
from ipaddress import IPv4Address
from typing import Any, TypeVar

import structlog

from caa.config import AlibabaCloudSettings
from caa.errors import (
    CaaError,
    DeadlineExceededError,
    FailedPreconditionError,
    ResourceExhaustedError,
    StartupError,
)
from caa.providers.alibabacloud import preflight, strays
from caa.providers.alibabacloud.budget import Budget
from caa.providers.alibabacloud.client import ECS, VPC, Client
from caa.providers.alibabacloud.creation import Creation
from caa.providers.alibabacloud.credentials import credentials_for
from caa.providers.alibabacloud.eips import Eips
from caa.providers.alibabacloud.errors import ApiError, Kind, explained, explaining, has_tdx
from caa.providers.alibabacloud.holding import Held, Order, Place, Resource
from caa.providers.alibabacloud.holding import Kind as ResourceKind
from caa.providers.alibabacloud.instances import Instances
from caa.providers.alibabacloud.interfaces import Interfaces
from caa.providers.alibabacloud.ordering import Orders, request_at
from caa.providers.alibabacloud.retry import jittered, persist
from caa.providers.alibabacloud.sizes import SIZES
from caa.providers.alibabacloud.stock import Stock
from caa.providers.alibabacloud.watch import InstanceWatch
from caa.providers.base import CallObserver, Holding, InstanceLabels, Keep, Stray, VmOrder
from caa.providers.instance_types import Size

log = structlog.get_logger(__name__)

T = TypeVar("T")

CHECK_TIMEOUT = 45.0
"""Seconds for each question at startup."""


class AlibabaCloud:
    """Implements `caa.providers.Provider`."""

    name = "alibabacloud"

    def __init__(
        self, settings: AlibabaCloudSettings, *, node: str = "", on_call: CallObserver | None = None
    ) -> None:
        """`node` is what the instances' tags name as their worker; the host's name if empty.

        Raises StartupError for settings that can't work, without asking the cloud.
        """
        self._settings = settings
        self._node = node or socket.gethostname()
        self._orders = Orders(settings, self._node)
        self._sizes: Mapping[str, Size] = SIZES
        self._zones: dict[str, str] = {}
        self._vpc_known = settings.vpc_id
        self._stock = Stock()
        self._credentials = credentials_for(settings, on_call=on_call)
        budget = Budget()
        self._ecs = Client(
            ECS,
            endpoint=settings.ecs_endpoint,
            region=settings.region,
            ca_file=settings.ca_file,
            credentials=self._credentials,
            budget=budget,
            on_call=on_call,
        )
        self._vpc = Client(
            VPC,
            endpoint=settings.vpc_endpoint,
            region=settings.region,
            ca_file=settings.ca_file,
            credentials=self._credentials,
            threads=4,
            budget=budget,
            on_call=on_call,
        )
        self._watch = InstanceWatch(self._ecs, settings.region)
        self._instances = Instances(self._ecs, self._watch, public=settings.use_public_ip)
        self._interfaces = Interfaces(self._ecs, settings.region)
        self._eips = Eips(self._vpc, settings.region)
        self._strays = strays.Strays(self._ecs, self._vpc, settings.region, self._node)

    async def close(self) -> None:
        await self._watch.close()
        await self._ecs.close()
        await self._vpc.close()
        await self._credentials.close()

    def credentials_left(self) -> float | None:
        return self._credentials.left()

    # At startup

    async def check(self, *, verify: bool, second_interface: bool = False) -> None:
        """Checks credentials and vSwitches and, with `verify`, all that `preflight` can. Learns the sizes of
        the instance types and the zones of the vSwitches.
        """
        try:
            await self._credentials.ready()
            for vswitch in self._settings.vswitch_ids:
                await self._check_vswitch(vswitch)
            await self._learn_sizes()
            if verify:
                await self._verify(second_interface=second_interface)
        except StartupError:
            raise
        except CaaError as error:
            raise StartupError(str(error)) from error

    async def _verify(self, *, second_interface: bool) -> None:
        settings = self._settings
        await preflight.verify(
            preflight.Subject(
                settings=settings,
                credentials=self._credentials,
                ecs=self._ecs,
                vpc=self._vpc,
                run_instances=preflight.a_pods_request(settings, second_interface=second_interface),
                second_interface=second_interface,
            )
        )

    async def _check_vswitch(self, vswitch: str) -> None:
        settings = self._settings
        question = {"RegionId": settings.region, "VSwitchId": vswitch}
        absent = f"no such vSwitch {vswitch} in region {settings.region}"
        try:
            answer = await _answer(self._vpc, "DescribeVSwitchAttributes", question)
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
        self._vpc_known = vpc
        self._zones[vswitch] = str(answer.get("ZoneId", ""))

    async def _learn_sizes(self) -> None:
        """Ask for the candidates' sizes: a right beyond the published policy, that can be lived without."""
        if not self._orders.candidates:
            return
        question = {"InstanceTypes": list(self._orders.candidates)}
        try:
            answer = await _answer(self._ecs, "DescribeInstanceTypes", question)
            listed = answer["InstanceTypes"]["InstanceType"]
            self._sizes = {**SIZES, **{entry["InstanceTypeId"]: _size(entry) for entry in listed}}
        except ApiError as error:
            _warn_of(error, "sizes of instance types come from a built-in table of common ones")
        except (DeadlineExceededError, KeyError, TypeError, ValueError) as error:
            log.warning("no sizes of instance types but those of a built-in table", error=repr(error))
        unknown = [name for name in self._orders.candidates if name not in self._sizes]
        if unknown:
            log.warning("instance types of unknown size are chosen last", types=unknown)

    # Making

    def plan(self, order: VmOrder) -> Holding:
        held = Held({}, _never_kept)
        held.order = self._orders.order(order, self._sizes, vpc=self._vpc_known)
        return held.to_json()

    async def launch(self, holding: Holding, keep: Keep) -> str:
        held = Held(holding, keep)
        order = held.order
        assert order
        refusals: list[tuple[Place, ApiError]] = []
        for place in self._stock.in_turn(order.places):
            if any(full.vswitch == place.vswitch and error.kind is Kind.FULL for full, error in refusals):
                continue
            try:
                instance_id = await self._launch_at(place, order, held)
            except ApiError as error:
                if error.kind not in (Kind.NO_STOCK, Kind.FULL):
                    raise self._explained(error, place) from None
                self._stock.ran_out(place, str(error), whole_vswitch=error.kind is Kind.FULL)
                refusals.append((place, error))
                log.warning("no instance can be had here for now", **place._asdict(), error=str(error))
                continue
            self._stock.found(place)
            # Why it is this place and none before it in the order.
            before = order.places[: order.places.index(place)]
            reasons = {"/".join(each): self._stock.wall(each) for each in before}
            log.info("instance ordered", instance=instance_id, **place._asdict(), instead_of=reasons or None)
            return instance_id
        raise self._nowhere(refusals)

    async def _launch_at(self, place: Place, order: Order, held: Held) -> str:
        request = request_at(place, order)
        if order.eip and order.interface:
            eni, _ = await _together(
                self._interface_at(place, order, held),
                self._make(self._eips.creation, "eip", order.eip, held),
            )
            request["NetworkInterface"] = [{"InstanceType": "Secondary", "NetworkInterfaceId": eni}]
        instance_id = await self._make(self._instances.creation, "instance", request, held)
        self._instances.made(instance_id)
        await held.launched(instance_id)
        return instance_id

    async def _interface_at(self, place: Place, order: Order, held: Held) -> str:
        """An ENI is bound to its vSwitch: at a place in another one, it has to be another."""
        assert order.interface
        earlier = held["eni"]
        if earlier and earlier.vswitch != place.vswitch:
            await self._release_eni(held)
        number = list(dict.fromkeys(each.vswitch for each in order.places)).index(place.vswitch)
        request = {
            **order.interface,
            "RegionId": self._settings.region,
            "VSwitchId": place.vswitch,
            "ClientToken": f"{order.token}-eni-{number}",
        }
        return await self._make(self._interfaces.creation, "eni", request, held, place.vswitch)

    async def _make(
        self,
        creation: Creation,
        kind: ResourceKind,
        request: Mapping[str, Any],
        held: Held,
        vswitch: str = "",
    ) -> str:
        """In the journal before and after. Raises ApiError."""
        there = held[kind]
        if there and there.id:
            return there.id
        await held.set(kind, Resource(request, vswitch=vswitch))
        try:
            made = await creation.make(request)
        except ApiError as error:
            if error.made_nothing:
                await held.set(kind, None)
            raise
        await held.set(kind, Resource(id=made, vswitch=vswitch))
        return made

    async def addresses(self, holding: Holding, keep: Keep) -> tuple[IPv4Address, ...]:
        held = Held(holding, keep)
        instance = held["instance"]
        assert instance
        found = await self._instances.addresses(instance.id)
        await held.found()
        return found

    async def complete(self, holding: Holding) -> None:
        held = Held(holding, _never_kept)
        eni, eip = held["eni"], held["eip"]
        if eni and eip:
            await self._eips.bind(eip.id, eni.id)

    # Removing

    async def release(self, holding: Holding, keep: Keep) -> None:
        held = Held(holding, keep)
        await _together(self._release_instance(held), self._release_eip(held))
        await self._release_eni(held)  # last: it may be the instance's until that has gone

    async def _release_instance(self, held: Held) -> None:
        if instance_id := await self._id_of(self._instances.creation, "instance", held):
            await self._instances.delete(instance_id, seen=held.seen)
            await held.set("instance", None)

    async def _release_eip(self, held: Held) -> None:
        if eip := await self._id_of(self._eips.creation, "eip", held):
            await self._eips.release(eip)
            await held.set("eip", None)

    async def _release_eni(self, held: Held) -> None:
        if eni := await self._id_of(self._interfaces.creation, "eni", held):
            await self._interfaces.delete(eni)
            await held.set("eni", None)

    async def _id_of(self, creation: Creation, kind: ResourceKind, held: Held) -> str:
        """Of what is to be removed; empty: there is nothing."""
        resource = held[kind]
        if resource is None or resource.id:
            return resource.id if resource else ""
        assert resource.request
        made = await creation.made_by(resource.request)
        await held.set(kind, Resource(id=made) if made else None)
        return made

    async def strays(self) -> tuple[list[Stray], list[CaaError]]:
        found: list[Stray] = []
        failures: list[CaaError] = []
        try:
            vpc = await self._vpc_id()
        except CaaError as error:
            return [], [error]
        for list_them in (self._strays.instances, self._strays.enis, self._strays.eips):
            try:
                with explaining():
                    found += await list_them(vpc)
            except CaaError as error:
                failures.append(error)
        return found, failures

    async def release_stray(self, stray: Stray) -> None:
        vpc = await self._vpc_id()
        with explaining(f" for {stray.id}"):
            match stray.kind:
                case "instance" if await self._strays.instances(vpc, InstanceIds=f'["{stray.id}"]'):
                    await self._instances.delete(stray.id, seen=True)
                case "ENI" if await self._strays.enis(vpc, NetworkInterfaceId=[stray.id]):
                    await self._interfaces.delete(stray.id)
                case "EIP" if await self._strays.eips(vpc, AllocationId=stray.id):
                    await self._eips.release(stray.id)

    # After a node that is gone

    async def labels(self, instance_id: str) -> InstanceLabels | None:
        request = {"InstanceId": instance_id}
        with explaining(f" for {instance_id}"):
            try:
                told = await _answer(self._ecs, "DescribeInstanceAttribute", request)
            except ApiError as error:
                if error.kind is Kind.NOT_FOUND:
                    return None
                raise
            tags = await _if_granted(self._strays.tags_of(instance_id), {})
        return InstanceLabels(str(told.get("InstanceName", "")), tags)

    async def reap(self, instance_id: str, sandbox: str) -> None:
        await self._instances.delete(instance_id, seen=True)
        if not sandbox:
            return
        with explaining(f" for sandbox {sandbox}"):
            eips = await _if_granted(self._strays.eips_of(sandbox), {})
            enis = await _if_granted(self._strays.enis_of(sandbox), [])
            # ENIs can be listed with a right beyond the published policy only; the one that an EIP is bound
            # to can be asked about.
            for eni in set(eips.values()) - {*enis, ""}:
                if await _if_granted(self._strays.is_eni_of(eni, sandbox), False):
                    enis.append(eni)
        for eip in eips:
            await self._eips.release(eip)
        for eni in enis:
            await self._interfaces.delete(eni)

    async def _vpc_id(self) -> str:
        """Of this node's pod VMs: nodes of two clusters may have the same name, but not in one VPC."""
        if not self._vpc_known:
            for vswitch in self._settings.vswitch_ids[:1]:
                await self._check_vswitch(vswitch)
        if not self._vpc_known:
            raise FailedPreconditionError(
                "this node's VPC is not known, so what is left over in it can't be told: give --vpc-id, or"
                " VSWITCH_ID and the right vpc:DescribeVSwitchAttributes"
            )
        return self._vpc_known

    # Words

    def _explained(self, error: ApiError, place: Place) -> CaaError:
        """The error of a RunInstances request, or of one that prepares it."""
        where = self._zones.get(place.vswitch) or place.vswitch
        what = place.instance_type or f"launch template {self._settings.launch_template_name}"
        tdx = not self._settings.disable_cvm and not has_tdx(where, place.instance_type)
        return explained(error, f" for {what}" + (f" in {where}" if where else ""), tdx=tdx)

    def _nowhere(self, refusals: list[tuple[Place, ApiError]]) -> CaaError:
        if len(refusals) == 1:
            ((place, error),) = refusals
            return self._explained(error, place)
        tried = "; ".join(
            f"{error.code} for {place.instance_type} in {self._zones.get(place.vswitch) or place.vswitch}"
            f" (request {error.request_id})"
            for place, error in refusals
        )
        return ResourceExhaustedError(
            f"RunInstances: no instance to be had, all was tried: {tried}: add another type to"
            " PODVM_INSTANCE_TYPES or another vSwitch, of another zone, to VSWITCH_ID"
        )


async def _never_kept(_holding: Holding) -> None:
    raise AssertionError


async def _together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of work side by side. The first failure ends the rest of it, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in tasks]


async def _if_granted(listing: Awaitable[T], otherwise: T) -> T:
    """What can be listed, or `otherwise` where the right to it is missing: it is beyond the published policy,
    or the feature that it is about is off."""
    try:
        return await listing
    except ApiError as error:
        if error.kind is not Kind.DENIED:
            raise
        log.debug("nothing listed", action=error.permission, error=str(error))
        return otherwise


async def _answer(client: Client, action: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a question that is repeated until there is one."""

    async def ask() -> tuple[dict[str, Any] | None, str]:
        return await client.call(action, request), ""

    return await persist(
        ask, what=f"{action} to be accepted", timeout=CHECK_TIMEOUT, pauses=jittered(0.5, 8.0)
    )


def _warn_of(error: ApiError, lost: str) -> None:
    """Called once for an action, at startup."""
    log.warning("going on without an API action", action=error.permission, lost=lost, error=str(error))


def _size(entry: Mapping[str, Any]) -> Size:
    return Size(
        gpus=int(entry.get("GPUAmount") or 0),
        memory_mib=int(float(entry["MemorySize"]) * 1024),
        vcpus=int(entry["CpuCoreCount"]),
    )
