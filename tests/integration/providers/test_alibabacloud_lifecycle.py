"""The provider against a cloud with real state, through the real SDK and real connections."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address

import pytest

from caa.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from caa.fakecloud import Fault, LocalCloud, Machine, NoBoot, Timings
from caa.providers import LaunchPlan
from caa.providers.alibabacloud import AlibabaCloud
from caa.providers.alibabacloud import provider as provider_module

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakeProvider = Callable[..., AlibabaCloud]
Plan = Callable[..., LaunchPlan]
Until = Callable[[Callable[[], object], str], Awaitable[None]]
NothingLeft = Callable[[LocalCloud], Awaitable[None]]


def outcomes(cloud: LocalCloud, action: str) -> Sequence[str]:
    return [call.outcome for call in cloud.calls.of(action)]


async def test_a_whole_life(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, nothing_left: NothingLeft
) -> None:
    user_data = b"#cloud-config\n" + bytes(range(256)) * 127
    written = json.dumps(plan(provider, user_data=user_data))

    instance_id = await provider.launch(json.loads(written))
    (instance,) = cloud.instances
    assert instance.id == instance_id
    assert instance.order.name == "podvm-web-abababab"
    assert instance.order.user_data == user_data
    assert instance.order.confidential
    assert instance.order.tags["caa-sandbox"] == "ab" * 32

    assert await provider.wait_for_addresses(instance_id) == (instance.address,)
    await provider.delete(instance_id, seen=True)
    await nothing_left(cloud)
    await provider.delete(instance_id, seen=True)


async def test_a_launch_repeated_is_the_same_instance(
    cloud: LocalCloud, provider: AlibabaCloud, make_provider: MakeProvider, plan: Plan
) -> None:
    planned = plan(provider)
    first = await provider.launch(planned)
    assert await provider.launch(planned) == first
    assert await make_provider(cloud).launch(planned) == first
    assert await provider.launch(plan(provider, token="token-2")) != first
    assert len(list(cloud.instances)) == 2


async def test_a_lost_answer_is_found_again(cloud: LocalCloud, provider: AlibabaCloud, plan: Plan) -> None:
    cloud.faults.add(Fault(action="RunInstances", drop="after"))
    cloud.faults.add(Fault(action="RunInstances", drop="before"))
    cloud.faults.add(Fault(action="RunInstances", code="InternalError", status=500, when="after"))
    instance_id = await provider.launch(plan(provider))
    assert [each.id for each in cloud.instances] == [instance_id]
    assert len(outcomes(cloud, "RunInstances")) == 4


async def test_throttling_is_waited_out(cloud: LocalCloud, provider: AlibabaCloud, plan: Plan) -> None:
    cloud.faults.add(Fault(action="RunInstances", code="Throttling.User", status=400))
    cloud.faults.add(Fault(action="RunInstances", code="Whatever", status=429, headers={"Retry-After": "1"}))
    await provider.launch(plan(provider))
    first, second, third = cloud.calls.of("RunInstances")
    assert third.began_at - second.began_at >= 1
    assert [call.outcome for call in (first, second, third)] == ["Throttling.User", "Whatever", "ok"]


async def test_throttling_without_end_is_told(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "LAUNCH_TIMEOUT", 0.3)
    cloud.faults.add(Fault(action="RunInstances", code="Throttling.User", share=1))
    with pytest.raises(DeadlineExceededError, match=r"last seen: RunInstances: Throttling\.User \(request "):
        await provider.launch(plan(provider))


async def test_no_stock_is_told_and_leaves_nothing_to_undo(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan
) -> None:
    await provider.check(verify=False)
    cloud.faults.add(Fault(action="RunInstances", code="OperationDenied.NoStock", status=403))
    planned = plan(provider)
    with pytest.raises(
        ResourceExhaustedError,
        match=r"^RunInstances: OperationDenied\.NoStock for ecs\.g8i\.xlarge in cn-beijing-i"
        r" \(request [-0-9A-F]+\): add another type to PODVM_INSTANCE_TYPES or another vSwitch$",
    ):
        await provider.launch(planned)
    await provider.undo_launch(planned)
    assert outcomes(cloud, "RunInstances") == ["OperationDenied.NoStock"]


async def test_undo_of_a_launch_that_was_refused_first_and_then_was_not(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", code="OperationDenied.NoStock", status=403))
    planned = plan(provider)
    with pytest.raises(ResourceExhaustedError):
        await provider.launch(planned)
    await provider.launch(planned)
    await provider.undo_launch(planned)
    await nothing_left(cloud)


async def test_undo_of_a_create_whose_outcome_nobody_knows(
    cloud: LocalCloud,
    provider: AlibabaCloud,
    make_provider: MakeProvider,
    plan: Plan,
    nothing_left: NothingLeft,
) -> None:
    planned = json.loads(json.dumps(plan(provider)))
    await provider.launch(planned)
    restarted = make_provider(cloud)
    await restarted.undo_launch(planned)
    await nothing_left(cloud)
    assert outcomes(cloud, "RunInstances") == ["ok", "ok"]


async def test_undo_of_a_create_that_never_was(
    cloud: LocalCloud, make_provider: MakeProvider, plan: Plan
) -> None:
    planned = plan(make_provider(cloud))
    cloud.faults.add(Fault(action="RunInstances", code="OperationDenied.NoStock", status=403))
    await make_provider(cloud).undo_launch(planned)
    assert not list(cloud.instances)
    assert outcomes(cloud, "DeleteInstance") == []


async def test_undo_without_rights_proves_nothing(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan
) -> None:
    cloud.faults.add(Fault(action="RunInstances", code="Forbidden.RAM", status=403))
    with pytest.raises(PermissionDeniedError, match="grant ecs:RunInstances"):
        await provider.undo_launch(plan(provider))


async def test_undo_with_another_request_names_what_to_look_for(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan
) -> None:
    await provider.launch(plan(provider))
    with pytest.raises(FailedPreconditionError, match="IdempotentParameterMismatch") as caught:
        await provider.undo_launch(plan(provider, image="m-2zelocalcloud000000000"))
    assert "may be an instance podvm-web-abababab in cn-beijing (client token token-1)" in str(caught.value)
    assert len(list(cloud.instances)) == 1


async def test_cancelled_in_the_middle_then_undone(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, until: Until, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", delay=0.5))
    planned = plan(provider)
    launching = asyncio.create_task(provider.launch(planned))
    await until(lambda: cloud.calls.of("RunInstances"), "the request")
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert not list(cloud.instances)

    await provider.undo_launch(planned)
    first, second = cloud.calls.of("RunInstances")
    assert second.began_at >= first.began_at + first.seconds > first.began_at
    await nothing_left(cloud)


async def test_cancelled_after_the_effect_then_undone(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, until: Until, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", delay=0.5, when="after"))
    planned = plan(provider)
    launching = asyncio.create_task(provider.launch(planned))
    await until(lambda: list(cloud.instances), "the instance")
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await provider.undo_launch(planned)
    await nothing_left(cloud)


async def test_many_cancelled_and_undone_at_once(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, until: Until, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", delay=0.05, share=0.5))
    cloud.faults.add(Fault(action="RunInstances", drop="after", share=0.2))

    async def launch_and_undo(number: int) -> None:
        planned = plan(provider, token=f"token-{number}", name=f"podvm-{number}")
        launching = asyncio.create_task(provider.launch(planned))
        await asyncio.wait([launching], timeout=number / 200)
        launching.cancel()
        await asyncio.wait([launching])
        await provider.undo_launch(planned)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(launch_and_undo(number))
    await nothing_left(cloud)


async def test_an_instance_that_can_not_be_seen_yet(
    start_cloud: StartCloud, make_provider: MakeProvider, plan: Plan
) -> None:
    cloud = await start_cloud(credentials="keys", timings=Timings(visible_after=0.3, address_after=0.6))
    provider = make_provider(cloud)
    instance_id = await provider.launch(plan(provider))
    (address,) = await provider.wait_for_addresses(instance_id)
    assert [each.address for each in cloud.instances] == [address]
    assert "InvalidInstanceId.NotFound" in outcomes(cloud, "DescribeInstanceAttribute")


async def test_an_instance_not_ready_to_be_described(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan
) -> None:
    message = "The specified instance is not ready"
    cloud.faults.add(Fault(action="DescribeInstanceAttribute", code="X", status=403, message=message))
    instance_id = await provider.launch(plan(provider))
    assert await provider.wait_for_addresses(instance_id)


async def test_polling_outlives_throttling_and_lost_answers(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan
) -> None:
    cloud.faults.add(Fault(action="DescribeInstanceAttribute", code="Throttling", status=400))
    cloud.faults.add(Fault(action="DescribeInstanceAttribute", drop="before"))
    instance_id = await provider.launch(plan(provider))
    assert await provider.wait_for_addresses(instance_id)


async def test_the_public_address_comes_first(
    cloud: LocalCloud, make_provider: MakeProvider, plan: Plan
) -> None:
    provider = make_provider(cloud, USE_PUBLIC_IP="true")
    instance_id = await provider.launch(plan(provider))
    public, private = await provider.wait_for_addresses(instance_id)
    (instance,) = cloud.instances
    assert (public, private) == (instance.public_address, instance.address)
    assert public != private
    assert isinstance(public, IPv4Address)


async def test_an_instance_that_vanishes(
    start_cloud: StartCloud, make_provider: MakeProvider, plan: Plan, nothing_left: NothingLeft
) -> None:
    cloud = await start_cloud(credentials="keys", timings=Timings(address_after=600, initializing=0))
    provider = make_provider(cloud)
    instance_id = await provider.launch(plan(provider))
    waiting = asyncio.create_task(provider.wait_for_addresses(instance_id))
    while "ok" not in outcomes(cloud, "DescribeInstanceAttribute"):
        await asyncio.wait([waiting], timeout=0.01)
    await make_provider(cloud).delete(instance_id, seen=True)
    with pytest.raises((NotFoundError, UnavailableError), match=f"{instance_id}"):
        await waiting


class NoPower(NoBoot):
    async def start(self, machine: Machine) -> None:
        raise RuntimeError(f"no power for {machine.name}")


async def test_an_instance_that_fails_to_start(
    start_cloud: StartCloud, make_provider: MakeProvider, plan: Plan
) -> None:
    cloud = await start_cloud(boot=NoPower(), credentials="keys", timings=Timings(address_after=600))
    provider = make_provider(cloud)
    instance_id = await provider.launch(plan(provider))
    with pytest.raises(
        UnavailableError, match=f"^instance {instance_id} became Stopped before it had an address"
    ):
        await provider.wait_for_addresses(instance_id)


async def test_an_instance_unknown_to_the_cloud(provider: AlibabaCloud) -> None:
    with pytest.raises(NotFoundError, match="for i-2zeunknown"):
        await provider.wait_for_addresses("i-2zeunknown")


async def test_deleting_at_once_waits_for_the_instance_to_allow_it(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, nothing_left: NothingLeft
) -> None:
    await provider.delete(await provider.launch(plan(provider)), seen=False)
    assert outcomes(cloud, "DeleteInstance")[0] == "IncorrectInstanceStatus.Initializing"
    await nothing_left(cloud)


async def test_an_instance_that_no_call_has_found_yet_may_be_another_process_s(
    cloud: LocalCloud,
    provider: AlibabaCloud,
    make_provider: MakeProvider,
    plan: Plan,
    nothing_left: NothingLeft,
) -> None:
    instance_id = await provider.launch(plan(provider))
    cloud.faults.add(Fault(action="DeleteInstance", code="InvalidInstanceId.NotFound", status=404))
    await make_provider(cloud).delete(instance_id, seen=False)
    await nothing_left(cloud)


async def test_not_found_does_not_mean_gone_just_after_creation(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="DeleteInstance", code="InvalidInstanceId.NotFound", status=404, times=2))
    await provider.delete(await provider.launch(plan(provider)), seen=False)
    await nothing_left(cloud)


async def test_a_delete_whose_answer_is_lost(
    cloud: LocalCloud, provider: AlibabaCloud, plan: Plan, nothing_left: NothingLeft
) -> None:
    instance_id = await provider.launch(plan(provider))
    cloud.faults.add(Fault(action="DeleteInstance", nth=1, drop="after", share=0.5, times=2))
    await provider.delete(instance_id, seen=True)
    await nothing_left(cloud)


async def test_a_delete_that_is_not_allowed(cloud: LocalCloud, provider: AlibabaCloud) -> None:
    cloud.faults.add(Fault(action="DeleteInstance", code="Forbidden.RAM", status=403))
    with pytest.raises(
        PermissionDeniedError, match=r"Forbidden\.RAM for i-1: .*: grant ecs:DeleteInstance to"
    ):
        await provider.delete("i-1", seen=True)


async def test_connections_are_kept(cloud: LocalCloud, provider: AlibabaCloud, plan: Plan) -> None:
    for number in range(5):
        await provider.launch(plan(provider, token=f"token-{number}"))
    assert len({call.connection for call in cloud.calls}) == 1
