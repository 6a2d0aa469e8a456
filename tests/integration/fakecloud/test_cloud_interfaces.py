"""Network interfaces and elastic addresses, through the unmodified SDKs."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from typing import Any

import pytest
from alibabacloud_ecs20140526 import models as ecs_models
from alibabacloud_ecs20140526.client import Client as EcsClient
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_vpc20160428 import models as vpc_models
from alibabacloud_vpc20160428.client import Client as VpcClient

from caa.fakecloud import LocalCloud, Timings, VSwitch
from caa.polling import growing, poll

REGION = "cn-beijing"


class Account:
    """The calls of this file's stories, in few words."""

    def __init__(self, cloud: LocalCloud, ecs: EcsClient, vpc: VpcClient, sdk: Any) -> None:
        self.cloud, self.ecs, self.vpc, self.sdk = cloud, ecs, vpc, sdk

    async def run(self, **changes: Any) -> str:
        request = self.sdk.run_request(self.cloud, **changes)
        return str((await self.ecs.run_instances_async(request)).body.instance_id_sets.instance_id_set[0])

    async def delete_instance(self, instance_id: str) -> None:
        await self.ecs.delete_instance_async(
            ecs_models.DeleteInstanceRequest(instance_id=instance_id, force=True)
        )

    async def instance_status(self, instance_id: str) -> str:
        request = ecs_models.DescribeInstanceAttributeRequest(instance_id=instance_id)
        return str((await self.ecs.describe_instance_attribute_async(request)).body.status)

    async def create_eni(self, **more: Any) -> ecs_models.CreateNetworkInterfaceResponseBody:
        known = {
            "region_id": REGION,
            "v_switch_id": self.cloud.environment["VSWITCH_ID"],
            "security_group_ids": [self.cloud.environment["SECURITY_GROUP_IDS"]],
            "network_interface_name": "peerpod-nic-1",
        }
        request = ecs_models.CreateNetworkInterfaceRequest(**(known | more))
        return (await self.ecs.create_network_interface_async(request)).body

    async def eni(self, eni_id: str) -> ecs_models.DescribeNetworkInterfaceAttributeResponseBody:
        request = ecs_models.DescribeNetworkInterfaceAttributeRequest(
            region_id=REGION, network_interface_id=eni_id
        )
        return (await self.ecs.describe_network_interface_attribute_async(request)).body

    async def eni_status(self, eni_id: str) -> str:
        return str((await self.eni(eni_id)).status)

    async def enis(self, **filters: Any) -> list[Any]:
        request = ecs_models.DescribeNetworkInterfacesRequest(region_id=REGION, **filters)
        body = (await self.ecs.describe_network_interfaces_async(request)).body
        return list(body.network_interface_sets.network_interface_set)

    async def delete_eni(self, eni_id: str) -> None:
        await self.ecs.delete_network_interface_async(
            ecs_models.DeleteNetworkInterfaceRequest(region_id=REGION, network_interface_id=eni_id)
        )

    async def attach(self, eni_id: str, instance_id: str) -> None:
        await self.ecs.attach_network_interface_async(
            ecs_models.AttachNetworkInterfaceRequest(
                region_id=REGION, network_interface_id=eni_id, instance_id=instance_id
            )
        )

    async def detach(self, eni_id: str, instance_id: str) -> None:
        await self.ecs.detach_network_interface_async(
            ecs_models.DetachNetworkInterfaceRequest(
                region_id=REGION, network_interface_id=eni_id, instance_id=instance_id
            )
        )

    async def allocate(self, **more: Any) -> vpc_models.AllocateEipAddressResponseBody:
        known = {"region_id": REGION, "bandwidth": "100", "internet_charge_type": "PayByTraffic"}
        request = vpc_models.AllocateEipAddressRequest(**(known | more))
        return (await self.vpc.allocate_eip_address_async(request)).body

    async def associate(self, eip_id: str, target: str, kind: str | None, **more: Any) -> None:
        await self.vpc.associate_eip_address_async(
            vpc_models.AssociateEipAddressRequest(
                region_id=REGION, allocation_id=eip_id, instance_id=target, instance_type=kind, **more
            )
        )

    async def unassociate(self, eip_id: str, **more: Any) -> None:
        await self.vpc.unassociate_eip_address_async(
            vpc_models.UnassociateEipAddressRequest(region_id=REGION, allocation_id=eip_id, **more)
        )

    async def release(self, eip_id: str) -> None:
        await self.vpc.release_eip_address_async(
            vpc_models.ReleaseEipAddressRequest(region_id=REGION, allocation_id=eip_id)
        )

    async def eips(self, **filters: Any) -> list[Any]:
        request = vpc_models.DescribeEipAddressesRequest(region_id=REGION, **filters)
        return list((await self.vpc.describe_eip_addresses_async(request)).body.eip_addresses.eip_address)

    async def eip_status(self, eip_id: str) -> str:
        found = await self.eips(allocation_id=eip_id)
        return str(found[0].status) if found else "gone"

    async def until(self, wanted: str, ask: Callable[[str], Awaitable[str]], of: str) -> None:
        async def look() -> tuple[bool | None, str]:
            try:
                seen = await ask(of)
            except ClientException as error:
                seen = "gone" if error.status_code == 404 else error.code
            return (True if seen == wanted else None), seen

        await poll(look, what=f"{of} to be {wanted}", pauses=growing(0.01), timeout=10)


@pytest.fixture
def account(cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> Account:
    return Account(cloud, ecs, sdk.vpc(cloud), sdk)


async def _refusal(call: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(ClientException) as refusal:
        await call
    return refusal.value.status_code, refusal.value.code


async def test_an_interface_and_its_address_from_creation_to_deletion(account: Account) -> None:
    """What a second interface with a public address takes, in the order that takes the least time."""
    eni, eip = await asyncio.gather(
        account.create_eni(client_token="n1"), account.allocate(client_token="a1", name="eip-1")
    )
    assert (eni.status, eni.type, eni.zone_id) == ("Available", "Secondary", "cn-beijing-i")
    nic = ecs_models.RunInstancesRequestNetworkInterface(network_interface_id=eni.network_interface_id)
    instance_id = await account.run(network_interface=[nic])
    await account.until("InUse", account.eni_status, eni.network_interface_id)
    await account.associate(eip.allocation_id, eni.network_interface_id, "NetworkInterface")
    await account.until("InUse", account.eip_status, eip.allocation_id)

    [shown] = await account.eips(associated_instance_id=eni.network_interface_id)
    assert (shown.ip_address, shown.instance_type) == (eip.eip_address, "NetworkInterface")
    assert (shown.private_ip_address, shown.name) == (eni.private_ip_address, "eip-1")
    described = await account.eni(eni.network_interface_id)
    assert described.associated_public_ip.public_ip_address == eip.eip_address
    assert described.instance_id == instance_id
    assert [(each.type, each.private_ip_address) for each in await account.enis(instance_id=instance_id)] == [
        ("Primary", str(next(iter(account.cloud.instances)).address)),
        ("Secondary", eni.private_ip_address),
    ]
    left = [instance_id, eni.network_interface_id, eip.allocation_id]
    assert [each.split()[0] for each in account.cloud.leftovers()] == left

    assert await _refusal(account.release(eip.allocation_id)) == (400, "IncorrectEipStatus")
    assert await _refusal(account.delete_eni(eni.network_interface_id)) == (
        400,
        "InvalidOperation.InvalidEniState",
    )
    await account.delete_instance(instance_id)
    await account.until("Available", account.eni_status, eni.network_interface_id)
    await account.unassociate(eip.allocation_id)
    await account.until("Available", account.eip_status, eip.allocation_id)
    await account.release(eip.allocation_id)
    await account.delete_eni(eni.network_interface_id)
    await account.until("gone", account.eip_status, eip.allocation_id)
    await account.until("gone", account.eni_status, eni.network_interface_id)
    assert account.cloud.leftovers() == []


async def test_an_interface_inside_run_instances_goes_with_its_instance(account: Account) -> None:
    vswitch = account.cloud.environment["VSWITCH_ID"]
    nic = ecs_models.RunInstancesRequestNetworkInterface(
        instance_type="Secondary",
        v_switch_id=vswitch,
        security_group_id=account.cloud.environment["SECURITY_GROUP_IDS"],
        network_interface_name="peerpod-nic-2",
        delete_on_release=True,
    )
    free = account.cloud.region.vswitch(vswitch).available
    instance_id = await account.run(network_interface=[nic])
    assert account.cloud.region.vswitch(vswitch).available == free - 2
    [eni] = await account.enis(network_interface_name="peerpod-nic-2")
    await account.until("InUse", account.eni_status, eni.network_interface_id)
    request = ecs_models.DescribeInstancesRequest(region_id=REGION)
    [instance] = (await account.ecs.describe_instances_async(request)).body.instances.instance
    shown = instance.network_interfaces.network_interface
    assert [(each.type, each.primary_ip_address) for each in shown] == [
        ("Primary", instance.vpc_attributes.private_ip_address.ip_address[0]),
        ("Secondary", eni.private_ip_address),
    ]
    assert shown[1].network_interface_id == eni.network_interface_id
    await account.delete_instance(instance_id)
    await account.until("gone", account.eni_status, eni.network_interface_id)
    assert account.cloud.region.vswitch(vswitch).available == free
    assert account.cloud.leftovers() == []


async def test_attach_and_detach(account: Account) -> None:
    instance_id = await account.run()
    eni_id = (await account.create_eni()).network_interface_id
    await account.until("Running", account.instance_status, instance_id)
    await account.attach(eni_id, instance_id)
    await account.until("InUse", account.eni_status, eni_id)
    assert await _refusal(account.attach(eni_id, instance_id)) == (400, "InvalidOperation.InvalidEniState")
    await account.detach(eni_id, instance_id)
    await account.until("Available", account.eni_status, eni_id)

    [primary] = await account.enis(instance_id=instance_id)
    assert primary.type == "Primary"
    primary_id = primary.network_interface_id
    assert await _refusal(account.detach(primary_id, instance_id)) == (
        400,
        "InvalidOperation.DetachPrimaryEniNotAllowed",
    )
    assert await _refusal(account.delete_eni(primary_id)) == (403, "InvalidOperation.InvalidEniType")
    assert await _refusal(account.attach("eni-none", instance_id)) == (404, "InvalidEniId.NotFound")
    assert await _refusal(account.attach(eni_id, "i-none")) == (404, "InvalidEcsId.NotFound")
    other_zone = (await account.create_eni(v_switch_id="vsw-2zelocalcloudl000000")).network_interface_id
    assert await _refusal(account.attach(other_zone, instance_id)) == (
        403,
        "InvalidOperation.AvailabilityZoneMismatch",
    )


async def test_attributes_change(account: Account) -> None:
    eni_id = (await account.create_eni(delete_on_release=False)).network_interface_id
    assert (await account.eni(eni_id)).delete_on_release is False
    await account.ecs.modify_network_interface_attribute_async(
        ecs_models.ModifyNetworkInterfaceAttributeRequest(
            region_id=REGION,
            network_interface_id=eni_id,
            delete_on_release=True,
            network_interface_name="other",
        )
    )
    changed = await account.eni(eni_id)
    assert (changed.delete_on_release, changed.network_interface_name) == (True, "other")
    assert changed.security_group_ids.security_group_id == [account.cloud.environment["SECURITY_GROUP_IDS"]]


async def test_tokens_of_interfaces_and_addresses(account: Account) -> None:
    first, again = await asyncio.gather(
        account.create_eni(client_token="t"), account.create_eni(client_token="t")
    )
    assert first.network_interface_id == again.network_interface_id
    mismatch = (400, "IdempotentParameterMismatch")
    assert await _refusal(account.create_eni(client_token="t", description="other")) == mismatch
    assert await _refusal(account.run(client_token="t")) == mismatch
    one = await account.allocate(client_token="t")
    assert (await account.allocate(client_token="t")).allocation_id == one.allocation_id
    assert await _refusal(account.allocate(client_token="t", bandwidth="5")) == mismatch
    target = first.network_interface_id
    for _ in range(2):
        await account.associate(one.allocation_id, target, "NetworkInterface", client_token="b")
    await account.until("InUse", account.eip_status, one.allocation_id)
    for _ in range(2):
        await account.unassociate(one.allocation_id, client_token="u")
    await account.until("Available", account.eip_status, one.allocation_id)
    assert len(account.cloud.leftovers()) == 2


async def test_refusals_of_an_address(account: Account) -> None:
    instance_id = await account.run()
    await account.until("Running", account.instance_status, instance_id)
    eip = (await account.allocate()).allocation_id
    other = (await account.allocate()).allocation_id
    assert await _refusal(account.associate("eip-none", instance_id, None)) == (
        404,
        "InvalidAllocationId.NotFound",
    )
    assert await _refusal(account.associate(eip, "i-none", None)) == (404, "InvalidInstanId.NotFound")
    assert await _refusal(account.associate(eip, "ngw-1", "Nat")) == (
        400,
        "InvalidInstanceType.ValueNotSupported",
    )
    assert await _refusal(account.unassociate(eip)) == (400, "IncorrectEipStatus")
    await account.associate(eip, instance_id, None)
    assert await _refusal(account.associate(other, instance_id, "EcsInstance")) == (
        400,
        "InvalidAssociation.Duplicated",
    )
    await account.until("InUse", account.eip_status, eip)
    assert await _refusal(account.associate(eip, instance_id, None)) == (400, "IncorrectEipStatus")
    assert await _refusal(account.unassociate(eip, instance_id="i-other")) == (
        400,
        "InvalidInstanceId.NotFound",
    )
    with_own = await account.run(internet_max_bandwidth_out=100)
    await account.until("Running", account.instance_status, with_own)
    assert await _refusal(account.associate(other, with_own, None)) == (
        400,
        "InvalidStatus.InstanceHasBandWidth",
    )
    await account.delete_instance(instance_id)
    await account.until("Available", account.eip_status, eip)  # by itself


async def test_an_address_waits_for_its_interface_to_be_steady(start_cloud: Any, sdk: Any) -> None:
    timings = Timings(starting_after=1, running_after=3600)
    async with start_cloud(credentials="keys", policy="full", timings=timings) as cloud:
        account = Account(cloud, sdk.ecs(cloud), sdk.vpc(cloud), sdk)
        eni_id = (await account.create_eni()).network_interface_id
        eip = (await account.allocate()).allocation_id
        nic = ecs_models.RunInstancesRequestNetworkInterface(network_interface_id=eni_id)
        instance_id = await account.run(network_interface=[nic])
        assert await _refusal(account.associate(eip, eni_id, "NetworkInterface")) == (
            400,
            "InvalidStatus.EniStatusNotSupport",
        )
        await account.until("Starting", account.instance_status, instance_id)
        assert await _refusal(account.associate(eip, instance_id, None)) == (400, "IncorrectInstanceStatus")
        await account.until("InUse", account.eni_status, eni_id)
        await account.associate(eip, eni_id, "NetworkInterface")


async def test_an_address_stays_while_its_interface_leaves(start_cloud: Any, sdk: Any) -> None:
    timings = Timings(initializing=0, attaching=0, associating=0, deleting=1)
    async with start_cloud(credentials="keys", policy="full", timings=timings) as cloud:
        account = Account(cloud, sdk.ecs(cloud), sdk.vpc(cloud), sdk)
        eni_id = (await account.create_eni()).network_interface_id
        eip = (await account.allocate()).allocation_id
        await account.associate(eip, eni_id, "NetworkInterface")
        nic = ecs_models.RunInstancesRequestNetworkInterface(network_interface_id=eni_id)
        instance_id = await account.run(network_interface=[nic])
        await account.until("InUse", account.eni_status, eni_id)
        await account.until("InUse", account.eip_status, eip)
        await account.delete_instance(instance_id)
        assert await account.eni_status(eni_id) == "Detaching"
        assert await _refusal(account.unassociate(eip)) == (400, "InvalidStatus.EniStatusNotSupport")
        await account.until("Available", account.eni_status, eni_id)
        assert await account.eip_status(eip) == "InUse"
        await account.delete_eni(eni_id)
        await account.until("Available", account.eip_status, eip)  # by itself


async def test_a_full_vswitch(start_cloud: Any, sdk: Any) -> None:
    tiny = VSwitch("vsw-tiny", "cn-beijing-i", IPv4Network("10.64.0.0/29"))
    async with start_cloud(credentials="keys", policy="full", vswitches=(tiny,)) as cloud:
        account = Account(cloud, sdk.ecs(cloud), sdk.vpc(cloud), sdk)
        for _ in range(4):
            await account.create_eni()
        assert await _refusal(account.create_eni()) == (403, "InvalidVSwitchId.IpNotEnough")
        assert await _refusal(account.run()) == (400, "QuotaExceeded.PrivateIpAddress")
        assert await _refusal(account.run(dry_run=True)) == (400, "QuotaExceeded.PrivateIpAddress")


async def test_quotas(start_cloud: Any, sdk: Any) -> None:
    async with start_cloud(
        credentials="keys", policy="full", eni_quota=1, eip_quota=1, instance_quota=1
    ) as cloud:
        account = Account(cloud, sdk.ecs(cloud), sdk.vpc(cloud), sdk)
        await asyncio.gather(account.create_eni(), account.allocate(), account.run())
        assert await _refusal(account.create_eni()) == (403, "MaxEniCountExceeded")
        assert await _refusal(account.allocate()) == (400, "QuotaExceeded.Eip")
        assert await _refusal(account.run()) == (403, "QuotaExceed.ElasticQuota")
        assert await _refusal(account.run(dry_run=True)) == (403, "QuotaExceed.ElasticQuota")


async def test_lists_with_filters_and_pages(account: Account) -> None:
    tag = ecs_models.CreateNetworkInterfaceRequestTag(key="sandbox", value="s1")
    tagged = (await account.create_eni(network_interface_name="tagged", tag=[tag])).network_interface_id
    other = (await account.create_eni(network_interface_name="other")).network_interface_id

    async def ids(**filters: Any) -> list[str]:
        return [each.network_interface_id for each in await account.enis(**filters)]

    assert await ids() == [other, tagged]
    assert await ids(tag=[ecs_models.DescribeNetworkInterfacesRequestTag(key="sandbox")]) == [tagged]
    assert await ids(network_interface_id=[other, "eni-none"]) == [other]
    assert await ids(status="InUse") == []
    assert await ids(status="Available", type="Secondary", network_interface_name="tagged") == [tagged]
    assert await ids(page_size=1, page_number=2) == [tagged]

    eip_tag = vpc_models.AllocateEipAddressRequestTag(key="sandbox", value="s1")
    named = (await account.allocate(name="a", tag=[eip_tag])).allocation_id
    plain = (await account.allocate()).allocation_id

    async def eip_ids(**filters: Any) -> list[str]:
        return [each.allocation_id for each in await account.eips(**filters)]

    assert await eip_ids() == [plain, named]
    wanted = vpc_models.DescribeEipAddressesRequestTag(key="sandbox", value="s1")
    assert await eip_ids(tag=[wanted]) == await eip_ids(eip_name="a") == [named]
    assert await eip_ids(allocation_id=f"{named},{plain}", status="Available") == [plain, named]
    assert await eip_ids(status="InUse") == await eip_ids(associated_instance_id="i-1") == []
    assert await eip_ids(page_size=1, page_number=2) == [named]
    [shown] = await account.eips(allocation_id=named)
    assert [(each.key, each.value) for each in shown.tags.tag] == [("sandbox", "s1")]


async def test_tags_are_put_on_and_taken_off(account: Account) -> None:
    instance_id = await account.run(tag=[ecs_models.RunInstancesRequestTag(key="old", value="1")])
    eni_id = (await account.create_eni()).network_interface_id

    async def tags(kind: str, resource: str) -> list[tuple[str, str]]:
        request = ecs_models.ListTagResourcesRequest(
            region_id=REGION, resource_type=kind, resource_id=[resource]
        )
        body = (await account.ecs.list_tag_resources_async(request)).body
        return [(each.tag_key, each.tag_value) for each in body.tag_resources.tag_resource]

    async def tag(kind: str, *resources: str) -> None:
        request = ecs_models.TagResourcesRequest(
            region_id=REGION,
            resource_type=kind,
            resource_id=list(resources),
            tag=[ecs_models.TagResourcesRequestTag(key="new", value="2")],
        )
        await account.ecs.tag_resources_async(request)

    await tag("instance", instance_id)
    await tag("eni", eni_id)
    assert await tags("instance", instance_id) == [("old", "1"), ("new", "2")]
    assert await tags("eni", eni_id) == [("new", "2")]
    request = ecs_models.UntagResourcesRequest(
        region_id=REGION, resource_type="instance", resource_id=[instance_id], tag_key=["old"]
    )
    await account.ecs.untag_resources_async(request)
    assert await tags("instance", instance_id) == [("new", "2")]
    assert await _refusal(tag("instance", instance_id, "i-none")) == (404, "InvalidResourceId.NotFound")
    assert await _refusal(tag("moon", instance_id)) == (404, "InvalidResourceType.NotFound")

    eip = (await account.allocate()).allocation_id
    await account.vpc.tag_resources_async(
        vpc_models.TagResourcesRequest(
            region_id=REGION,
            resource_type="EIP",
            resource_id=[eip],
            tag=[vpc_models.TagResourcesRequestTag(key="new", value="2")],
        )
    )
    [shown] = await account.eips(tag=[vpc_models.DescribeEipAddressesRequestTag(key="new")])
    assert shown.allocation_id == eip
    await account.vpc.un_tag_resources_async(
        vpc_models.UnTagResourcesRequest(
            region_id=REGION, resource_type="EIP", resource_id=[eip], tag_key=["new"]
        )
    )
    assert await account.eips(tag=[vpc_models.DescribeEipAddressesRequestTag(key="new")]) == []
