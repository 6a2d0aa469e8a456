"""What the region offers, launch templates and dry runs, through the unmodified SDKs."""

from collections.abc import Awaitable
from typing import Any

import pytest
from alibabacloud_ecs20140526 import models
from alibabacloud_ecs20140526.client import Client as EcsClient
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_vpc20160428.models import DescribeVSwitchesRequest

from caa.fakecloud import LocalCloud

REGION = "cn-beijing"


async def _refusal(call: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(ClientException) as refusal:
        await call
    return refusal.value.status_code, refusal.value.code


async def _available(ecs: EcsClient, **filters: Any) -> dict[str, dict[str, str]]:
    """By zone, each type's status."""
    request = models.DescribeAvailableResourceRequest(
        region_id=REGION, destination_resource="InstanceType", **filters
    )
    body = (await ecs.describe_available_resource_async(request)).body
    return {
        zone.zone_id: {
            offer.value: offer.status_category
            for resource in zone.available_resources.available_resource
            for offer in resource.supported_resources.supported_resource
        }
        for zone in body.available_zones.available_zone
    }


async def test_stock_by_zone(start_cloud: Any, sdk: Any) -> None:
    async with start_cloud(
        credentials="keys",
        policy="full",
        stock={("cn-beijing-i", "ecs.g8i.xlarge"): 0},
        not_offered=(("cn-beijing-l", "ecs.g8i.xlarge"),),
    ) as cloud:
        ecs = sdk.ecs(cloud)
        assert await _available(ecs, instance_type="ecs.g8i.xlarge") == {
            "cn-beijing-i": {"ecs.g8i.xlarge": "WithoutStock"}
        }
        assert await _available(ecs, instance_type="ecs.g8i.2xlarge", zone_id="cn-beijing-l") == {
            "cn-beijing-l": {"ecs.g8i.2xlarge": "WithStock"}
        }
        assert set(await _available(ecs, cores=4, memory=16)) == {"cn-beijing-i", "cn-beijing-l"}
        fits = await _available(ecs, cores=4, memory=16)
        assert set(fits["cn-beijing-l"]) == {"ecs.g7.xlarge", "ecs.g6.xlarge"}
        no_stock = (403, "OperationDenied.NoStock")
        assert await _refusal(ecs.run_instances_async(sdk.run_request(cloud))) == no_stock
        assert await _refusal(ecs.run_instances_async(sdk.run_request(cloud, dry_run=True))) == no_stock
        other_zone = sdk.run_request(cloud, v_switch_id="vsw-2zelocalcloudl000000")
        assert await _refusal(ecs.run_instances_async(other_zone)) == (
            403,
            "InvalidResourceType.NotSupported",
        )


async def test_a_closed_zone_offers_nothing(start_cloud: Any, sdk: Any) -> None:
    async with start_cloud(credentials="keys", policy="full", closed_zones=("cn-beijing-i",)) as cloud:
        ecs = sdk.ecs(cloud)
        assert set(await _available(ecs)) == {"cn-beijing-l"}
        assert await _refusal(ecs.run_instances_async(sdk.run_request(cloud))) == (403, "Zone.NotOnSale")


async def test_interfaces_of_a_type(ecs: EcsClient) -> None:
    request = models.DescribeInstanceTypesRequest(instance_types=["ecs.g8i.large", "ecs.g8i.xlarge"])
    body = (await ecs.describe_instance_types_async(request)).body
    assert [each.eni_quantity for each in body.instance_types.instance_type] == [2, 3]


async def test_security_groups(cloud: LocalCloud, ecs: EcsClient) -> None:
    request = models.DescribeSecurityGroupsRequest(region_id=REGION, vpc_id=cloud.settings.vpc_id)
    [group] = (await ecs.describe_security_groups_async(request)).body.security_groups.security_group
    assert group.security_group_id == cloud.environment["SECURITY_GROUP_IDS"]
    attribute = models.DescribeSecurityGroupAttributeRequest(
        region_id=REGION, security_group_id=group.security_group_id, direction="ingress"
    )
    body = (await ecs.describe_security_group_attribute_async(attribute)).body
    assert [
        (rule.ip_protocol, rule.port_range, rule.source_cidr_ip, rule.policy)
        for rule in body.permissions.permission
    ] == [
        ("TCP", "15150/15150", "10.64.0.0/16", "Accept"),
        ("UDP", "4789/4789", "10.64.0.0/16", "Accept"),
    ]
    unknown = models.DescribeSecurityGroupAttributeRequest(region_id=REGION, security_group_id="sg-none")
    assert await _refusal(ecs.describe_security_group_attribute_async(unknown)) == (
        404,
        "InvalidSecurityGroupId.NotFound",
    )


async def test_key_pairs(ecs: EcsClient) -> None:
    async def names(**filters: Any) -> list[str]:
        request = models.DescribeKeyPairsRequest(region_id=REGION, **filters)
        body = (await ecs.describe_key_pairs_async(request)).body
        return [each.key_pair_name for each in body.key_pairs.key_pair]

    assert await names() == await names(key_pair_name="local*") == ["local-key"]
    assert await names(key_pair_name="key") == []


async def test_vswitches(cloud: LocalCloud, sdk: Any) -> None:
    async def zones(**filters: Any) -> list[str]:
        request = DescribeVSwitchesRequest(region_id=REGION, **filters)
        body = (await sdk.vpc(cloud).describe_vswitches_async(request)).body
        return [each.zone_id for each in body.v_switches.v_switch]

    assert await zones(vpc_id=cloud.settings.vpc_id) == ["cn-beijing-i", "cn-beijing-l"]
    assert await zones(v_switch_id="vsw-2zelocalcloudl000000") == ["cn-beijing-l"]
    assert await zones(vpc_id="vpc-none") == []


class TestTemplates:
    async def _create(self, ecs: EcsClient, **values: Any) -> str:
        request = models.CreateLaunchTemplateRequest(region_id=REGION, **values)
        return str((await ecs.create_launch_template_async(request)).body.launch_template_id)

    async def test_an_instance_of_one(self, cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
        template_id = await self._create(
            ecs,
            launch_template_name="podvm",
            key_pair_name="local-key",
            instance_type="ecs.g7.large",
            description="of the template",
            system_disk=models.CreateLaunchTemplateRequestSystemDisk(category="cloud_essd", size=60),
            tag=[models.CreateLaunchTemplateRequestTag(key="from", value="template")],
        )
        await ecs.run_instances_async(sdk.run_request(cloud, launch_template_name="podvm"))
        [instance] = cloud.instances
        order = instance.order
        assert (order.type.id, order.description) == ("ecs.g8i.xlarge", "of the template")
        assert (order.key_pair, order.disk_gib, order.tags) == ("local-key", 60, {"from": "template"})

        request = models.DescribeLaunchTemplatesRequest(region_id=REGION, launch_template_name=["podvm"])
        [found] = (
            await ecs.describe_launch_templates_async(request)
        ).body.launch_template_sets.launch_template_set
        assert (found.launch_template_id, found.latest_version_number) == (template_id, 1)
        versions = models.DescribeLaunchTemplateVersionsRequest(
            region_id=REGION, launch_template_id=template_id, default_version=True
        )
        body = (await ecs.describe_launch_template_versions_async(versions)).body
        [version] = body.launch_template_version_sets.launch_template_version_set
        data = version.launch_template_data
        assert (data.key_pair_name, data.instance_type) == ("local-key", "ecs.g7.large")
        assert data.system_disk.size == 60

    async def test_refusals(self, cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
        await self._create(ecs, launch_template_name="podvm")
        assert await _refusal(self._create(ecs, launch_template_name="podvm")) == (
            403,
            "LaunchTemplateName.Duplicated",
        )
        for values, code in (
            ({"launch_template_name": "none"}, "InvalidLaunchTemplate.NotFound"),
            (
                {"launch_template_name": "podvm", "launch_template_version": 2},
                "InvalidLaunchTemplateVersion.NotFound",
            ),
        ):
            request = sdk.run_request(cloud, **values)
            assert await _refusal(ecs.run_instances_async(request)) == (404, code)
        versions = models.DescribeLaunchTemplateVersionsRequest(region_id=REGION, launch_template_name="none")
        assert await _refusal(ecs.describe_launch_template_versions_async(versions)) == (
            404,
            "InvalidLaunchTemplate.NotFound",
        )

    async def test_of_the_settings(self, start_cloud: Any, sdk: Any) -> None:
        templates = {"podvm": {"KeyPairName": "local-key"}}
        async with start_cloud(credentials="keys", policy="full", launch_templates=templates) as cloud:
            await sdk.ecs(cloud).run_instances_async(sdk.run_request(cloud, launch_template_name="podvm"))
            assert [each.order.key_pair for each in cloud.instances] == ["local-key"]


async def test_dry_runs(cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
    passed = (400, "DryRunOperation")
    request = sdk.run_request(cloud, dry_run=True)
    assert await _refusal(ecs.run_instances_async(request)) == passed
    assert list(cloud.instances) == []
    answer = await ecs.run_instances_async(sdk.run_request(cloud))
    [instance_id] = answer.body.instance_id_sets.instance_id_set

    async def delete(instance_id: str, *, force: bool) -> None:
        await ecs.delete_instance_async(
            models.DeleteInstanceRequest(instance_id=instance_id, force=force, dry_run=True)
        )

    assert await _refusal(delete(instance_id, force=True)) == passed
    assert await _refusal(delete(instance_id, force=False)) == (403, "IncorrectInstanceStatus")
    assert await _refusal(delete("i-none", force=True)) == (404, "InvalidInstanceId.NotFound")
    assert len(list(cloud.instances)) == 1


async def test_a_private_address_to_order(cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
    request = sdk.run_request(cloud, private_ip_address="10.64.0.77")
    await ecs.run_instances_async(request)
    assert [str(each.address) for each in cloud.instances] == ["10.64.0.77"]
    assert await _refusal(ecs.run_instances_async(request)) == (400, "InvalidPrivateIpAddress.Duplicated")
    found = models.DescribeInstancesRequest(region_id=REGION, private_ip_addresses='["10.64.0.77"]')
    assert (await ecs.describe_instances_async(found)).body.total_count == 1
