"""Whether what the settings name is there and fits together."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from caa.checking import Finding, failed, ok, skipped, warning
from caa.errors import CaaError
from caa.providers.alibabacloud.errors import ApiError, Kind, explained, has_tdx
from caa.providers.alibabacloud.preflight.questions import NO_RIGHT, Questions
from caa.providers.alibabacloud.preflight.subject import Subject
from caa.providers.alibabacloud.ram import RIGHTS
from caa.providers.alibabacloud.security_rules import Flow, Passage, inbound, outbound

Ask = Callable[[], Awaitable[Finding]]

_IMAGE_STATES = "Creating,Waiting,Available,UnAvailable,CreateFailed,Deprecated"


class SettingChecks:
    def __init__(self, subject: Subject, questions: Questions) -> None:
        self._subject = subject
        self._settings = subject.settings
        self._questions = questions

    def all(self) -> Iterator[tuple[str, Ask]]:
        settings, subject = self._settings, self._subject
        if settings.image_id:
            yield "image", self._allowed(self._image, settings.image_id)
        for vswitch in settings.vswitch_ids:
            yield "vSwitch", self._allowed(partial(self._vswitch, vswitch), vswitch)
        if settings.vswitch_ids and subject.types:
            yield "instance types", self._allowed(self._stock)
        for group in settings.security_group_ids:
            yield "security group", self._allowed(partial(self._group, group), group)
        if settings.security_group_ids:
            yield "worker and pod VM", self._allowed(self._passage)
        if settings.key_name:
            yield "key pair", self._allowed(self._key_pair, settings.key_name)
        if subject.run_instances:
            yield "a pod VM, by dry run", self._allowed(partial(self._dry_run, subject.run_instances))

    def _allowed(self, ask: Ask, which: str = "") -> Ask:
        """A check of `which`, for an account that may lack the right to it."""

        async def allowed() -> Finding:
            try:
                return await ask()
            except ApiError as error:
                if error.code in NO_RIGHT:
                    optional = any(right.action == error.permission and right.optional for right in RIGHTS)
                    remedy = "optional: `caa ram policy --optional check`" if optional else ""
                    return skipped(f"can't be told without {error.permission}", remedy)
                if error.code.startswith("InvalidAction"):
                    return skipped(f"can't be told: no {error.permission} at this endpoint")
                return failed(str(explained(error, which and f" for {which}")))

        return allowed

    async def _dry_run(self, request: Mapping[str, Any]) -> Finding:
        instance_type, vswitch = str(request.get("InstanceType", "")), str(request.get("VSwitchId", ""))
        place = await self._questions.zone(vswitch) or vswitch
        what = f" for {instance_type or 'the launch template'}" + (f" in {place}" if place else "")
        try:
            await self._questions.dry_run()
        except ApiError as error:
            if error.code in NO_RIGHT:
                raise
            tdx = "SecurityOptions" in request and not has_tdx(place, instance_type)
            told = str(explained(error, what, tdx=tdx))
            if error.kind is Kind.NO_STOCK:
                return warning(told)  # the settings are right, and the stock may be back for the next pod
            if error.kind is not Kind.DRY_RUN:
                return failed(told)
        return ok(f"would be made{what}")

    async def _vswitch(self, vswitch: str) -> Finding:
        settings = self._settings
        answer = await self._questions.vswitch(vswitch)
        if answer.get("VSwitchId") != vswitch:
            return failed(f"{vswitch} not in {settings.region}", "check VSWITCH_ID and REGION")
        vpc, zone = str(answer.get("VpcId", "")), str(answer.get("ZoneId", ""))
        free = answer.get("AvailableIpAddressCount")
        seen = f"{vswitch}, {zone}, {vpc}" + (f", {free} addresses free" if free is not None else "")
        if settings.vpc_id and vpc != settings.vpc_id:
            return failed(f"{seen}: not in {settings.vpc_id}", "check VSWITCH_ID and --vpc-id")
        if free == 0:
            return failed(seen, "delete what is not needed in it, or add another one to VSWITCH_ID")
        if (
            not settings.disable_cvm
            and self._subject.types
            and not any(has_tdx(zone, each) for each in self._subject.types)
        ):
            return warning(
                f"{seen}; not known to have TDX for {', '.join(self._subject.types)}",
                "known are ecs.g8i.* in cn-beijing-i; see the dry run, which is what counts",
            )
        return ok(seen)

    async def _image(self) -> Finding:
        settings = self._settings
        question = {"RegionId": settings.region, "ImageId": settings.image_id, "Status": _IMAGE_STATES}
        listed = await self._questions.ask(self._subject.ecs, "DescribeImages", **question)
        image = _first(listed, "Images", "Image")
        if image is None:
            # Community images are listed on request only.
            question |= {"ImageOwnerAlias": "others", "IsPublic": "true"}
            listed = await self._questions.ask(self._subject.ecs, "DescribeImages", **question)
            image = _first(listed, "Images", "Image")
        if image is None:
            return failed(
                f"{settings.image_id} not in {settings.region}",
                "check IMAGEID and REGION; `caa image ls` lists yours",
            )
        status, boot = image.get("Status", "unknown"), image.get("BootMode") or "unknown"
        name = image.get("ImageName")
        seen = f"{settings.image_id}, {status}, boot mode {boot}" + (
            f", {name}" if name and name != settings.image_id else ""
        )
        if status not in ("Available", "unknown"):
            return failed(seen, "wait until it is Available, or give another with IMAGEID")
        if boot not in ("UEFI", "UEFI-Preferred", "unknown") and not settings.disable_cvm:
            return warning(seen, "pod VM images are imported with boot mode UEFI: `caa image import` does")
        return ok(seen)

    async def _stock(self) -> Finding:
        settings = self._settings
        zones = {vswitch: await self._questions.zone(vswitch) for vswitch in settings.vswitch_ids}
        if not all(zones.values()):
            return skipped("can't be told without the vSwitch's zone")
        sold, offered = [], set()
        for zone in dict.fromkeys(zones.values()):
            answer = await self._questions.ask(
                self._subject.ecs,
                "DescribeAvailableResource",
                RegionId=settings.region,
                ZoneId=zone,
                DestinationResource="InstanceType",
                InstanceChargeType="PostPaid",
            )
            for name, has_stock in _supported(answer, zone):
                if name in self._subject.types:
                    offered.add(name)
                    if has_stock:
                        sold.append(f"{name} in {zone}")
        where = ", ".join(zones.values())
        if sold:
            missing = [
                name for name in self._subject.types if not any(each.startswith(f"{name} ") for each in sold)
            ]
            seen = f"in stock: {', '.join(sold)}"
            return warning(f"{seen}; not: {', '.join(missing)}") if missing else ok(seen)
        remedy = "add another type to PODVM_INSTANCE_TYPES or another vSwitch to VSWITCH_ID"
        if offered:
            return warning(f"{', '.join(sorted(offered))} sold out in {where} for now", remedy)
        return failed(f"{', '.join(self._subject.types)} not sold in {where}", remedy)

    async def _group(self, group: str) -> Finding:
        answer = await self._questions.security_group(group)
        vpcs = set()
        for vswitch in self._settings.vswitch_ids:
            with suppress(ApiError, CaaError):  # its own check tells
                vpcs.add(str((await self._questions.vswitch(vswitch)).get("VpcId", "")))
        vpc = str(answer.get("VpcId", ""))
        if vpcs and vpc not in vpcs:
            return failed(
                f"{group} in {vpc or 'no VPC'}, and the vSwitch is in {', '.join(vpcs)}",
                "check SECURITY_GROUP_IDS",
            )
        return ok(f"{group}, {vpc}")

    async def _passage(self) -> Finding:
        subject, settings = self._subject, self._settings
        if subject.worker is None or settings.use_public_ip:
            # A VM that is reached at its public address sees that of the worker's way out.
            which = "public address" if settings.use_public_ip else "address"
            return skipped(f"can't be told without the worker's {which}")
        try:
            groups = [await self._questions.security_group(group) for group in settings.security_group_ids]
        except ApiError as error:
            if error.code in NO_RIGHT:
                raise
            return skipped("can't be told without the security groups")
        agent = Flow("TCP", subject.forwarder_port, subject.worker)
        tunnel = Flow("UDP", subject.vxlan_port, subject.worker)
        ways = {flow: inbound(groups, flow) for flow in (agent, tunnel)}
        shut = [flow for flow, passage in ways.items() if passage is Passage.CLOSED]
        if shut:
            return failed(
                f"closed for {' and '.join(map(str, shut))} from {subject.worker}", self._rules(shut)
            )
        if outbound(groups, tunnel) is Passage.CLOSED:
            return failed(
                f"closed for {tunnel} from the pod VM to {subject.worker}",
                "remove the outbound rule that drops it",
            )
        unclear = [flow for flow, passage in ways.items() if passage is not Passage.OPEN]
        if unclear:
            return warning(
                f"{' and '.join(map(str, unclear))} from {subject.worker} pass only if this worker is in the"
                " same security group, or in one that a rule names",
                self._rules(unclear),
            )
        return ok(f"{agent} and {tunnel} pass, with the worker at {subject.worker}")

    def _rules(self, flows: list[Flow]) -> str:
        settings = self._settings
        rules = " ".join(
            f"--Permissions.{number}.IpProtocol {flow.protocol}"
            f" --Permissions.{number}.PortRange {flow.port}/{flow.port}"
            f" --Permissions.{number}.SourceCidrIp {flow.worker}/32"
            for number, flow in enumerate(flows, 1)
        )
        return (
            f"let them in: aliyun ecs AuthorizeSecurityGroup --RegionId {settings.region}"
            f" --SecurityGroupId {settings.security_group_ids[0]} {rules}"
        )

    async def _key_pair(self) -> Finding:
        name = self._settings.key_name
        question = {"RegionId": self._settings.region, "KeyPairName": name}
        answer = await self._questions.ask(self._subject.ecs, "DescribeKeyPairs", **question)
        if _first(answer, "KeyPairs", "KeyPair") is None:
            return failed(f"{name} not in {self._settings.region}", "check KEYNAME and REGION")
        return ok(name)


def _first(answer: Mapping[str, Any], outer: str, inner: str) -> Mapping[str, Any] | None:
    return next(iter((answer.get(outer) or {}).get(inner) or ()), None)


def _supported(answer: Mapping[str, Any], zone: str) -> Iterator[tuple[str, bool]]:
    """The instance types of a zone in an answer of DescribeAvailableResource, and whether there is stock."""
    for place in (answer.get("AvailableZones") or {}).get("AvailableZone") or ():
        if place.get("ZoneId") != zone:
            continue
        for resource in (place.get("AvailableResources") or {}).get("AvailableResource") or ():
            for each in (resource.get("SupportedResources") or {}).get("SupportedResource") or ():
                yield str(each.get("Value")), each.get("Status") == "Available"
