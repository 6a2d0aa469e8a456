"""The unmodified ECS and VPC SDKs against the local cloud."""

import asyncio
import base64
import os
from typing import Any

import pytest
from alibabacloud_ecs20140526 import models
from alibabacloud_ecs20140526.client import Client as EcsClient
from alibabacloud_tea_openapi.exceptions import ClientException, ServerException, ThrottlingException
from alibabacloud_tea_openapi.utils_models import OpenApiRequest, Params
from alibabacloud_vpc20160428.models import DescribeVSwitchAttributesRequest
from darabonba.exceptions import RetryError, UnretryableException
from darabonba.runtime import RuntimeOptions

from caa.fakecloud import Fault, LocalCloud, Timings
from caa.polling import growing, poll


def _attribute(instance_id: str) -> models.DescribeInstanceAttributeRequest:
    return models.DescribeInstanceAttributeRequest(instance_id=instance_id)


def _delete(instance_id: str) -> models.DeleteInstanceRequest:
    return models.DeleteInstanceRequest(instance_id=instance_id, force=True)


async def _run(ecs: EcsClient, request: models.RunInstancesRequest) -> str:
    answer = await ecs.run_instances_async(request)
    assert answer.status_code == 200
    assert answer.body.request_id
    [instance_id] = answer.body.instance_id_sets.instance_id_set
    return str(instance_id)


async def _gone(ecs: EcsClient, instance_id: str) -> None:
    async def ask() -> tuple[bool | None, str]:
        try:
            answer = await ecs.describe_instance_attribute_async(_attribute(instance_id))
        except ClientException as error:
            return (True, "gone") if error.code == "InvalidInstanceId.NotFound" else (None, error.code)
        return None, answer.body.status

    await poll(ask, what=f"{instance_id} to be gone", pauses=growing(0.01), timeout=10)


async def _seen_until_running(ecs: EcsClient, instance_id: str) -> list[tuple[Any, ...]]:
    """What DescribeInstanceAttribute answers, without repetitions."""
    seen: list[tuple[Any, ...]] = []

    async def ask() -> tuple[bool | None, str]:
        try:
            body = (await ecs.describe_instance_attribute_async(_attribute(instance_id))).body
            now = (body.status, *body.vpc_attributes.private_ip_address.ip_address)
        except ClientException as error:
            now = (error.status_code, error.code)
        if now not in seen:
            seen.append(now)
        return (True if now[0] == "Running" else None), str(now)

    await poll(ask, what="Running", pauses=growing(0.001, longest=0.002), timeout=10)
    return seen


@pytest.mark.parametrize("tls", [False, True])
async def test_an_instance_from_creation_to_deletion(start_cloud: Any, sdk: Any, tls: bool) -> None:
    timings = Timings(
        visible_after=0.2, address_after=0.4, starting_after=0.6, running_after=0.8, initializing=0.9
    )
    async with start_cloud(credentials="keys", tls=tls, timings=timings) as cloud:
        assert cloud.ecs_endpoint.startswith("https://" if tls else "http://")
        ecs = sdk.ecs(cloud)
        instance_id = await _run(ecs, sdk.run_request(cloud))
        address = str(next(iter(cloud.instances)).address)
        seen = await _seen_until_running(ecs, instance_id)
        # A busy machine may miss a state; what is seen comes in this order.
        story = [
            (404, "InvalidInstanceId.NotFound"),
            ("Pending",),
            ("Pending", address),
            ("Starting", address),
            ("Running", address),
        ]
        assert seen == [each for each in story if each in seen]
        assert seen[-1] == story[-1]

        async def delete() -> tuple[bool | None, str]:
            try:
                await ecs.delete_instance_async(_delete(instance_id))
            except ClientException as error:
                assert (error.status_code, error.code) == (403, "IncorrectInstanceStatus.Initializing")  # noqa: PT017  polled
                return None, error.code
            return True, ""

        await poll(delete, what="deletion to be taken", pauses=growing(0.02), timeout=10)
        await _gone(ecs, instance_id)
        assert list(cloud.instances) == []


async def test_every_parameter_arrives(cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
    user_data = os.urandom(32 * 1024)
    request = sdk.run_request(
        cloud,
        min_amount=1,
        user_data=base64.b64encode(user_data).decode(),
        client_token="x" * 64,
        instance_charge_type="PostPaid",
        key_pair_name="local-key",
        internet_charge_type="PayByTraffic",
        internet_max_bandwidth_out=100,
        system_disk=models.RunInstancesRequestSystemDisk(category="cloud_essd", size="60"),
        security_options=models.RunInstancesRequestSecurityOptions(confidential_computing_mode="TDX"),
        tag=[models.RunInstancesRequestTag(key="pod", value="ns/näme + more & =?")],
    )
    instance_id = await _run(ecs, request)
    [instance] = cloud.instances
    order = instance.order
    assert instance.id == instance_id
    assert order.user_data == user_data
    assert order.tags == {"pod": "ns/näme + more & =?"}
    assert (order.disk_gib, order.key_pair, order.confidential) == (60, "local-key", True)
    body = (await ecs.describe_instance_attribute_async(_attribute(instance_id))).body
    assert body.public_ip_address.ip_address == [str(instance.public_address)]
    assert body.vpc_attributes.v_switch_id == cloud.environment["VSWITCH_ID"]
    assert (body.cpu, body.memory, body.instance_name) == (4, 16384, "podvm-nginx-12345678")


async def test_sync_methods_reuse_a_connection_and_async_methods_do_not(
    cloud: LocalCloud, ecs: EcsClient, sdk: Any
) -> None:
    """Not ours to decide, but what callers have to know."""
    instance_id = await _run(ecs, sdk.run_request(cloud))
    for _ in range(3):
        await asyncio.to_thread(ecs.describe_instance_attribute, _attribute(instance_id))
    sync = [call.connection for call in cloud.calls.of("DescribeInstanceAttribute")]
    for _ in range(3):
        await ecs.describe_instance_attribute_async(_attribute(instance_id))
    every = [call.connection for call in cloud.calls.of("DescribeInstanceAttribute")]
    assert len(set(sync)) == 1
    assert len(set(every[3:])) == 3


async def test_a_token_sent_by_many_at_once_makes_one_instance(
    cloud: LocalCloud, ecs: EcsClient, sdk: Any
) -> None:
    request = sdk.run_request(cloud, client_token="t1")
    ids = await asyncio.gather(*(_run(ecs, request) for _ in range(10)))
    assert len(set(ids)) == len(list(cloud.instances)) == 1
    with pytest.raises(ClientException) as refusal:
        await _run(ecs, sdk.run_request(cloud, client_token="t1", instance_name="podvm-other"))
    assert (refusal.value.status_code, refusal.value.code) == (400, "IdempotentParameterMismatch")


async def test_how_an_error_looks(cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
    with pytest.raises(ClientException) as refusal:
        await _run(ecs, sdk.run_request(cloud, image_id="m-none"))
    error = refusal.value
    assert (error.status_code, error.code) == (404, "InvalidImageId.NotFound")
    assert set(error.data) == {"RequestId", "HostId", "Code", "Message", "Recommend", "statusCode"}
    assert error.data["RequestId"] == next(iter(cloud.calls)).request_id
    assert error.message.startswith("code: 404, The specified ImageId does not exist.")


async def test_list_with_filters_and_pages(cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
    names = [f"podvm-{n}" for n in range(5)] + ["other"]
    ids = {
        name: await _run(
            ecs,
            sdk.run_request(
                cloud, instance_name=name, tag=[models.RunInstancesRequestTag(key="k", value=name[-1])]
            ),
        )
        for name in names
    }

    async def names_of(**filters: Any) -> list[str]:
        request = models.DescribeInstancesRequest(region_id="cn-beijing", **filters)
        body = (await ecs.describe_instances_async(request)).body
        return [each.instance_name for each in body.instances.instance]

    assert await names_of(instance_name="podvm-*") == names[4::-1]
    assert await names_of(instance_name="podvm-3") == ["podvm-3"]
    assert await names_of(instance_ids=f'["{ids["podvm-1"]}", "{ids["other"]}"]') == ["other", "podvm-1"]
    assert await names_of(tag=[models.DescribeInstancesRequestTag(key="k", value="2")]) == ["podvm-2"]
    assert await names_of(tag=[models.DescribeInstancesRequestTag(key="none")]) == []
    assert await names_of(page_size=4, page_number=2) == ["podvm-1", "podvm-0"]
    with pytest.raises(ClientException, match="InstanceIds"):
        await names_of(instance_ids="i-1")

    found: list[str] = []
    token: str | None = None
    while token != "":
        request = models.DescribeInstancesRequest(region_id="cn-beijing", max_results=4, next_token=token)
        body = (await ecs.describe_instances_async(request)).body
        found += [each.instance_name for each in body.instances.instance]
        token = body.next_token or ""
    assert found == names[::-1]


async def test_instance_types(cloud: LocalCloud, ecs: EcsClient) -> None:
    request = models.DescribeInstanceTypesRequest(
        instance_types=["ecs.g8i.2xlarge", "ecs.gn7i-c8g1.2xlarge", "ecs.none"]
    )
    body = (await ecs.describe_instance_types_async(request)).body
    assert [
        (each.instance_type_id, each.cpu_core_count, each.memory_size, each.gpuamount)
        for each in body.instance_types.instance_type
    ] == [("ecs.g8i.2xlarge", 8, 32.0, 0), ("ecs.gn7i-c8g1.2xlarge", 8, 30.0, 1)]


async def test_vswitch(cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
    vpc = sdk.vpc(cloud)
    request = DescribeVSwitchAttributesRequest(
        region_id="cn-beijing", v_switch_id=cloud.environment["VSWITCH_ID"]
    )
    before = (await vpc.describe_vswitch_attributes_async(request)).body
    await _run(ecs, sdk.run_request(cloud))
    after = (await asyncio.to_thread(vpc.describe_vswitch_attributes, request)).body
    assert (before.zone_id, before.vpc_id, before.cidr_block) == (
        "cn-beijing-i",
        cloud.settings.vpc_id,
        "10.64.0.0/20",
    )
    assert after.available_ip_address_count == before.available_ip_address_count - 1
    with pytest.raises(ClientException) as refusal:
        await vpc.describe_vswitch_attributes_async(
            DescribeVSwitchAttributesRequest(region_id="cn-beijing", v_switch_id="vsw-none")
        )
    assert refusal.value.code == "InvalidVSwitchId.NotFound"


async def test_what_the_published_policy_does_not_grant_is_forbidden(start_cloud: Any, sdk: Any) -> None:
    request = models.DescribeInstanceTypesRequest()
    async with start_cloud() as cloud:
        with pytest.raises(ClientException) as refusal:
            await sdk.ecs(cloud).describe_instance_types_async(request)
        assert (refusal.value.status_code, refusal.value.code) == (403, "Forbidden.RAM")
        assert refusal.value.access_denied_detail["AuthAction"] == "ecs:DescribeInstanceTypes"
    async with start_cloud(allow=("ecs:DescribeInstanceTypes",)) as cloud:
        assert await sdk.ecs(cloud).describe_instance_types_async(request)


@pytest.mark.parametrize(
    ("action", "version", "status", "code"),
    [
        ("CreateUnicorn", "2014-05-26", 404, "InvalidAction.NotFound"),
        ("RunInstances", "2016-04-28", 404, "InvalidAction.NotFound"),
        ("RunInstances", "1999-01-01", 400, "InvalidVersion"),
    ],
)
async def test_unknown_actions(ecs: EcsClient, action: str, version: str, status: int, code: str) -> None:
    params = Params(
        action=action,
        version=version,
        protocol="HTTP",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )
    with pytest.raises(ClientException) as refusal:
        await ecs.call_api_async(params, OpenApiRequest(query={}), RuntimeOptions())
    assert (refusal.value.status_code, refusal.value.code) == (status, code)


async def test_a_wrong_secret(cloud: LocalCloud, sdk: Any) -> None:
    ecs = sdk.ecs(cloud, access_key_secret="guessed")
    with pytest.raises(ClientException) as refusal:
        await ecs.describe_instance_attribute_async(_attribute("i-1"))
    assert (refusal.value.status_code, refusal.value.code) == (400, "SignatureDoesNotMatch")


async def test_parameters_in_a_form_are_signed_by_their_hash(cloud: LocalCloud, ecs: EcsClient) -> None:
    params = Params(
        action="DescribeInstanceAttribute",
        version="2014-05-26",
        protocol="HTTP",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )
    with pytest.raises(ClientException) as refusal:
        await ecs.call_api_async(params, OpenApiRequest(body={"InstanceId": "i-1"}), RuntimeOptions())
    assert refusal.value.code == "InvalidInstanceId.NotFound"


class TestFaults:
    async def test_an_answer_lost_after_the_effect_is_found_again(
        self, cloud: LocalCloud, ecs: EcsClient, sdk: Any
    ) -> None:
        cloud.faults.add(Fault(action="RunInstances", drop="after"))
        request = sdk.run_request(cloud, client_token="t1")
        with pytest.raises((RetryError, UnretryableException)):
            await _run(ecs, request)
        [instance] = cloud.instances
        assert await _run(ecs, request) == instance.id
        assert [call.outcome for call in cloud.calls.of("RunInstances")] == ["dropped", "ok"]

    async def test_a_call_lost_before_the_effect_has_none(
        self, cloud: LocalCloud, ecs: EcsClient, sdk: Any
    ) -> None:
        cloud.faults.add(Fault(action="RunInstances", drop="before"))
        with pytest.raises((RetryError, UnretryableException)):
            await _run(ecs, sdk.run_request(cloud))
        assert list(cloud.instances) == []

    async def test_an_error_after_the_effect(self, cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
        cloud.faults.add(Fault(action="RunInstances", when="after", status=500, code="InternalError"))
        with pytest.raises(ServerException) as refusal:
            await _run(ecs, sdk.run_request(cloud))
        assert refusal.value.code == "InternalError"
        assert len(list(cloud.instances)) == 1

    async def test_an_error_for_one_type_only(self, cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
        cloud.faults.add(
            Fault(
                where={"InstanceType": "ecs.g8i.xlarge"},
                share=1,
                status=403,
                code="OperationDenied.NoStock",
                message="The requested resource is sold out in the specified zone.",
            )
        )
        for _ in range(2):
            with pytest.raises(ClientException, match="sold out") as refusal:
                await _run(ecs, sdk.run_request(cloud))
            assert refusal.value.code == "OperationDenied.NoStock"
        assert await _run(ecs, sdk.run_request(cloud, instance_type="ecs.g7.xlarge"))

    async def test_throttling_says_when_to_come_back(self, cloud: LocalCloud, ecs: EcsClient) -> None:
        headers = {"x-acs-retry-after": "250", "Retry-After": "1"}
        cloud.faults.add(Fault(status=429, code="Throttling.User", headers=headers))
        with pytest.raises(ThrottlingException) as refusal:
            await ecs.describe_instance_attribute_async(_attribute("i-1"))
        assert refusal.value.retry_after == 250

    async def test_a_late_answer(self, cloud: LocalCloud, ecs: EcsClient, sdk: Any) -> None:
        cloud.faults.add(Fault(action="RunInstances", when="after", delay=30))
        request = sdk.run_request(cloud, client_token="t")
        impatient = RuntimeOptions(read_timeout=200)
        with pytest.raises((RetryError, UnretryableException, TimeoutError)):
            await ecs.run_instances_with_options_async(request, impatient)
        [instance] = cloud.instances
        assert await _run(ecs, request) == instance.id
