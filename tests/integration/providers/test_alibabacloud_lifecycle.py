"""The provider against a cloud with real state, through the real SDK and real connections."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address
from typing import Any

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
from caa.providers.alibabacloud import AlibabaCloud, creation

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakeProvider = Callable[..., AlibabaCloud]
MakePodVm = Callable[..., Any]
Until = Callable[[Callable[[], object], str], Awaitable[None]]
NothingLeft = Callable[[LocalCloud], Awaitable[None]]


def outcomes(cloud: LocalCloud, action: str) -> Sequence[str]:
    return [call.outcome for call in cloud.calls.of(action)]


async def test_a_whole_life(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, nothing_left: NothingLeft
) -> None:
    user_data = b"#cloud-config\n" + bytes(range(256)) * 127
    vm = pod_vm(provider, user_data=user_data)

    instance_id = await vm.launch()
    (instance,) = cloud.instances
    assert instance.id == instance_id
    assert instance.order.name == "podvm-web-abababab"
    assert instance.order.user_data == user_data
    assert instance.order.confidential
    assert instance.order.tags["caa-sandbox"] == "ab" * 32
    assert "UserData" not in json.dumps(vm.holding), "with keys in it, it is kept no longer than needed"

    assert await vm.finish() == (instance.address,)
    await vm.release()
    await nothing_left(cloud)
    await vm.release()
    assert outcomes(cloud, "RunInstances") == ["ok"]


async def test_a_launch_repeated_is_the_same_instance(
    cloud: LocalCloud, provider: AlibabaCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    first = await pod_vm(provider).launch()
    assert await pod_vm(provider).launch() == first
    assert await pod_vm(make_provider(cloud)).launch() == first
    assert await pod_vm(provider, client_token="token-2").launch() != first
    assert len(list(cloud.instances)) == 2


async def test_a_lost_answer_is_found_again(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm
) -> None:
    cloud.faults.add(Fault(action="RunInstances", drop="after"))
    cloud.faults.add(Fault(action="RunInstances", drop="before"))
    cloud.faults.add(Fault(action="RunInstances", code="InternalError", status=500, when="after"))
    instance_id = await pod_vm(provider).launch()
    assert [each.id for each in cloud.instances] == [instance_id]
    assert len(outcomes(cloud, "RunInstances")) == 4


async def test_throttling_is_waited_out(cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm) -> None:
    cloud.faults.add(Fault(action="RunInstances", code="Throttling.User", status=400))
    cloud.faults.add(Fault(action="RunInstances", code="Whatever", status=429, headers={"Retry-After": "1"}))
    await pod_vm(provider).launch()
    first, second, third = cloud.calls.of("RunInstances")
    assert third.began_at - second.began_at >= 1
    assert [call.outcome for call in (first, second, third)] == ["Throttling.User", "Whatever", "ok"]


async def test_throttling_without_end_is_told(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "TIMEOUT", 0.3)
    cloud.faults.add(Fault(action="RunInstances", code="Throttling.User", share=1))
    with pytest.raises(DeadlineExceededError, match=r"last seen: RunInstances: Throttling\.User \(request "):
        await pod_vm(provider).launch()


async def test_no_stock_is_told_and_leaves_nothing_to_undo(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm
) -> None:
    await provider.check(verify=False)
    cloud.faults.add(Fault(action="RunInstances", code="OperationDenied.NoStock", status=403))
    vm = pod_vm(provider)
    with pytest.raises(
        ResourceExhaustedError,
        match=r"^RunInstances: OperationDenied\.NoStock for ecs\.g8i\.xlarge in cn-beijing-i"
        r" \(request [-0-9A-F]+\): add another type to PODVM_INSTANCE_TYPES or another vSwitch$",
    ):
        await vm.launch()
    await vm.release()
    assert outcomes(cloud, "RunInstances") == ["OperationDenied.NoStock"]


async def test_a_launch_that_was_not_let_in_leaves_nothing_to_undo(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm
) -> None:
    cloud.faults.add(Fault(action="RunInstances", code="Forbidden.RAM", status=403))
    vm = pod_vm(provider)
    with pytest.raises(PermissionDeniedError, match="grant ecs:RunInstances"):
        await vm.launch()
    await vm.release()
    assert outcomes(cloud, "RunInstances") == ["Forbidden.RAM"]


async def test_a_launch_that_was_lost_and_then_not_let_in_is_still_looked_for(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", drop="after"))
    cloud.faults.add(Fault(action="RunInstances", code="Forbidden.RAM", status=403, times=2))
    vm = pod_vm(provider)
    with pytest.raises(PermissionDeniedError):
        await vm.launch()
    with pytest.raises(PermissionDeniedError, match="grant ecs:RunInstances"):
        await vm.release()
    await vm.release()
    await nothing_left(cloud)


async def test_undo_of_a_create_whose_outcome_nobody_knows(
    cloud: LocalCloud,
    provider: AlibabaCloud,
    make_provider: MakeProvider,
    pod_vm: MakePodVm,
    nothing_left: NothingLeft,
) -> None:
    vm = pod_vm(provider)
    intended = []

    async def keep(holding: Any) -> None:
        intended.append(json.loads(json.dumps(holding)))

    await provider.launch(vm.holding, keep)
    vm.holding = intended[0]
    await vm.release(make_provider(cloud))
    await nothing_left(cloud)
    assert outcomes(cloud, "RunInstances") == ["ok", "ok"]


async def test_undo_of_a_create_that_never_was(
    cloud: LocalCloud, provider: AlibabaCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    vm = pod_vm(provider)

    class KilledError(Exception):
        pass

    async def keep(holding: Any) -> None:
        vm.holding = holding
        raise KilledError

    with pytest.raises(KilledError):
        await provider.launch(vm.holding, keep)
    assert outcomes(cloud, "RunInstances") == []
    cloud.faults.add(Fault(action="RunInstances", code="OperationDenied.NoStock", status=403))
    await vm.release(make_provider(cloud))
    assert not list(cloud.instances)
    assert outcomes(cloud, "DeleteInstance") == []


async def test_undo_with_another_request_names_what_to_look_for(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm
) -> None:
    await pod_vm(provider).launch()
    vm = pod_vm(provider, image="m-2zelocalcloud000000000")
    with pytest.raises(FailedPreconditionError, match="IdempotentParameterMismatch"):
        await vm.launch()
    with pytest.raises(FailedPreconditionError, match="IdempotentParameterMismatch") as caught:
        await vm.release()
    assert "may be podvm-web-abababab in cn-beijing (client token token-1-0)" in str(caught.value)
    assert len(list(cloud.instances)) == 1


async def test_cancelled_in_the_middle_then_undone(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, until: Until, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", delay=0.5))
    vm = pod_vm(provider)
    launching = asyncio.create_task(vm.launch())
    await until(lambda: cloud.calls.of("RunInstances"), "the request")
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert not list(cloud.instances)

    await vm.release()
    first, second = cloud.calls.of("RunInstances")
    assert second.began_at >= first.began_at + first.seconds > first.began_at
    await nothing_left(cloud)


async def test_cancelled_after_the_effect_then_undone(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, until: Until, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", delay=0.5, when="after"))
    vm = pod_vm(provider)
    launching = asyncio.create_task(vm.launch())
    await until(lambda: list(cloud.instances), "the instance")
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await vm.release()
    await nothing_left(cloud)


async def test_many_cancelled_and_undone_at_once(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, until: Until, nothing_left: NothingLeft
) -> None:
    cloud.faults.add(Fault(action="RunInstances", delay=0.05, share=0.5))
    cloud.faults.add(Fault(action="RunInstances", drop="after", share=0.2))

    async def launch_and_undo(number: int) -> None:
        vm = pod_vm(provider, client_token=f"token-{number}", name=f"podvm-{number}")
        launching = asyncio.create_task(vm.launch())
        await asyncio.wait([launching], timeout=number / 200)
        launching.cancel()
        await asyncio.wait([launching])
        await vm.release()

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(launch_and_undo(number))
    await nothing_left(cloud)


async def test_an_instance_that_can_not_be_seen_yet(
    start_cloud: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start_cloud(credentials="keys", timings=Timings(visible_after=0.3, address_after=0.6))
    vm = pod_vm(make_provider(cloud))
    await vm.launch()
    (address,) = await vm.finish()
    assert [each.address for each in cloud.instances] == [address]


async def test_an_instance_not_ready_to_be_described(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm
) -> None:
    message = "The specified instance is not ready"
    cloud.faults.add(Fault(action="DescribeInstanceAttribute", code="X", status=403, message=message))
    vm = pod_vm(provider)
    await vm.launch()
    assert await vm.finish()


async def test_polling_outlives_throttling_and_lost_answers(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm
) -> None:
    cloud.faults.add(Fault(action="DescribeInstanceAttribute", code="Throttling", status=400))
    cloud.faults.add(Fault(action="DescribeInstanceAttribute", drop="before"))
    vm = pod_vm(provider)
    await vm.launch()
    assert await vm.finish()


async def test_the_public_address_comes_first(
    cloud: LocalCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    vm = pod_vm(make_provider(cloud, USE_PUBLIC_IP="true"))
    await vm.launch()
    public, private = await vm.finish()
    (instance,) = cloud.instances
    assert (public, private) == (instance.public_address, instance.address)
    assert public != private
    assert isinstance(public, IPv4Address)


async def test_an_instance_that_vanishes(
    start_cloud: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start_cloud(credentials="keys", timings=Timings(address_after=600, initializing=0))
    vm = pod_vm(make_provider(cloud))
    instance_id = await vm.launch()
    waiting = asyncio.create_task(vm.finish())
    while "ok" not in outcomes(cloud, "DescribeInstanceAttribute"):
        await asyncio.wait([waiting], timeout=0.01)
    await pod_vm(make_provider(cloud)).provider.release(vm.holding, vm.keep)
    with pytest.raises((NotFoundError, UnavailableError), match=f"{instance_id}"):
        await waiting


class NoPower(NoBoot):
    async def start(self, machine: Machine) -> None:
        raise RuntimeError(f"no power for {machine.name}")


async def test_an_instance_that_fails_to_start(
    start_cloud: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start_cloud(boot=NoPower(), credentials="keys", timings=Timings(address_after=600))
    vm = pod_vm(make_provider(cloud))
    instance_id = await vm.launch()
    with pytest.raises(
        UnavailableError, match=f"^instance {instance_id} became Stopped before it had an address"
    ):
        await vm.finish()


async def test_deleting_at_once_waits_for_the_instance_to_allow_it(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, nothing_left: NothingLeft
) -> None:
    vm = pod_vm(provider)
    await vm.launch()
    await vm.release()
    assert outcomes(cloud, "DeleteInstance")[0] == "IncorrectInstanceStatus.Initializing"
    await nothing_left(cloud)


async def test_not_found_does_not_mean_gone_just_after_creation(
    cloud: LocalCloud,
    provider: AlibabaCloud,
    make_provider: MakeProvider,
    pod_vm: MakePodVm,
    nothing_left: NothingLeft,
) -> None:
    """Nor to another process, that did not make it."""
    for releasing in (provider, make_provider(cloud)):
        fault = Fault(action="DeleteInstance", code="InvalidInstanceId.NotFound", status=404, times=2)
        cloud.faults.add(fault)
        vm = pod_vm(provider, client_token=f"token-{id(releasing)}")
        await vm.launch()
        await vm.release(releasing)
        await nothing_left(cloud)


async def test_not_found_means_gone_once_it_was_seen(
    cloud: LocalCloud, provider: AlibabaCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    vm = pod_vm(provider)
    await vm.launch()
    await vm.finish()
    fault = Fault(action="DeleteInstance", code="InvalidInstanceId.NotFound", status=404)
    cloud.faults.add(fault)
    await vm.release(make_provider(cloud))
    assert outcomes(cloud, "DeleteInstance") == ["InvalidInstanceId.NotFound"]


async def test_a_delete_whose_answer_is_lost(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, nothing_left: NothingLeft
) -> None:
    vm = pod_vm(provider)
    await vm.launch()
    await vm.finish()
    cloud.faults.add(Fault(action="DeleteInstance", drop="after", share=0.5, times=2))
    await vm.release()
    await nothing_left(cloud)


async def test_a_delete_that_is_not_allowed(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, nothing_left: NothingLeft
) -> None:
    vm = pod_vm(provider)
    instance_id = await vm.launch()
    await vm.finish()
    cloud.faults.add(Fault(action="DeleteInstance", code="Forbidden.RAM", status=403))
    with pytest.raises(
        PermissionDeniedError, match=rf"Forbidden\.RAM for {instance_id}: .*: grant ecs:DeleteInstance to"
    ):
        await vm.release()
    await vm.release()
    await nothing_left(cloud)


async def test_connections_are_kept(cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm) -> None:
    for number in range(5):
        await pod_vm(provider, client_token=f"token-{number}").launch()
    assert len({call.connection for call in cloud.calls}) == 1


async def test_what_a_journal_of_the_first_schema_holds(
    cloud: LocalCloud, provider: AlibabaCloud, pod_vm: MakePodVm, nothing_left: NothingLeft
) -> None:
    request = {
        **pod_vm(provider).holding["order"]["request"],
        "InstanceType": "ecs.g8i.xlarge",
        "VSwitchId": cloud.environment["VSWITCH_ID"],
        "ClientToken": "old",
    }
    vm = pod_vm(provider)
    old: dict[str, Any] = {"plan": {"RunInstances": request}, "launched": False, "instance_id": ""}
    vm.holding = {"version1": old}
    await vm.release()
    assert outcomes(cloud, "RunInstances") == []
    instance_id = await vm.launch()
    vm.holding = {"version1": old | {"plan": None, "launched": True, "instance_id": instance_id}}
    await vm.release()
    await nothing_left(cloud)
    vm.holding = {"version1": old | {"launched": True}}
    await vm.release()
    await nothing_left(cloud)
    assert outcomes(cloud, "RunInstances") == ["ok", "ok"]
