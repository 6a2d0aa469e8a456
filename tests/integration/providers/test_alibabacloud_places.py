"""Where an instance is made, and what is made with it."""

import dataclasses
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from typing import Any

import pytest
import structlog

from caa.errors import FailedPreconditionError, ResourceExhaustedError
from caa.fakecloud import LocalCloud, VSwitch
from caa.providers.alibabacloud import AlibabaCloud

StartCloud = Callable[..., Awaitable[LocalCloud]]
MakeProvider = Callable[..., AlibabaCloud]
MakePodVm = Callable[..., Any]
Until = Callable[[Callable[[], object], str], Awaitable[None]]

ZONE = "cn-beijing-i"
SMALL, BIG = "ecs.g8i.xlarge", "ecs.g8i.2xlarge"
FIRST, SECOND = "vsw-1", "vsw-2"
TYPES = f"{SMALL},{BIG}"


@pytest.fixture
async def start(start_cloud: StartCloud) -> Callable[..., Awaitable[LocalCloud]]:
    """A cloud whose two vSwitches are both in the zone that has TDX; the first has four addresses."""

    async def started(**settings: Any) -> LocalCloud:
        vswitches = (
            VSwitch(FIRST, ZONE, IPv4Network("10.64.0.0/29")),
            VSwitch(SECOND, ZONE, IPv4Network("10.64.16.0/24")),
        )
        return await start_cloud(credentials="keys", vswitches=vswitches, **settings)

    return started


def places(cloud: LocalCloud) -> list[tuple[str, str]]:
    return [(each.order.type.id, each.order.pool.vswitch.id) for each in cloud.instances]


def tried(cloud: LocalCloud) -> list[tuple[str, str]]:
    requests = [call.parameters for call in cloud.calls.of("RunInstances")]
    return [(each["InstanceType"], each["VSwitchId"]) for each in requests]


async def test_the_next_type_is_taken_where_there_is_no_stock_and_remembered(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start(stock={(ZONE, SMALL): 0})
    provider = make_provider(cloud, PODVM_INSTANCE_TYPES=TYPES)
    with structlog.testing.capture_logs() as logs:
        await pod_vm(provider).launch()
        await pod_vm(provider, client_token="token-2").launch()
    assert places(cloud) == [(BIG, FIRST), (BIG, FIRST)]
    assert tried(cloud) == [(SMALL, FIRST), (BIG, FIRST), (BIG, FIRST)], "the second pod knows better"
    chosen = [entry for entry in logs if entry["event"] == "instance ordered"]
    assert [entry["instance_type"] for entry in chosen] == [BIG, BIG]
    assert all("OperationDenied.NoStock" in str(entry["instead_of"]) for entry in chosen)


async def test_stock_that_is_back_is_found_when_there_is_no_other(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start(stock={(ZONE, SMALL): 0})
    provider = make_provider(cloud)
    vm = pod_vm(provider)
    with pytest.raises(ResourceExhaustedError):
        await vm.launch()
    await vm.release()
    cloud.region.stock.set(ZONE, SMALL, 1)
    await pod_vm(provider, client_token="token-2").launch()
    assert places(cloud) == [(SMALL, FIRST)]


async def test_all_that_was_tried_is_named(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start(stock={(ZONE, SMALL): 0}, not_offered=((ZONE, BIG),))
    provider = make_provider(cloud, PODVM_INSTANCE_TYPES=TYPES, VSWITCH_ID=f"{FIRST},{SECOND}")
    await provider.check(verify=False)
    vm = pod_vm(provider)
    with pytest.raises(ResourceExhaustedError) as caught:
        await vm.launch()
    told = str(caught.value)
    assert told.count(f"OperationDenied.NoStock for {SMALL} in {ZONE} (request ") == 2
    assert told.count(f"InvalidResourceType.NotSupported for {BIG} in {ZONE} (request ") == 2
    assert told.endswith(
        "add another type to PODVM_INSTANCE_TYPES or another vSwitch, of another zone, to VSWITCH_ID"
    )
    await vm.release()
    assert len(tried(cloud)) == 4


async def test_the_next_vswitch_is_taken_when_one_is_full(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    cloud = await start()
    provider = make_provider(cloud, VSWITCH_ID=f"{FIRST},{SECOND}", PODVM_INSTANCE_TYPES=TYPES)
    for number in range(7):
        await pod_vm(provider, client_token=f"token-{number}").launch()
    assert [vswitch for _, vswitch in places(cloud)] == [FIRST] * 4 + [SECOND] * 3
    assert {instance_type for instance_type, _ in places(cloud)} == {SMALL}
    assert len(tried(cloud)) == 7 + 1, "one pod runs into it, with one type"


async def test_a_second_interface_comes_and_goes_with_its_instance(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm, until: Until
) -> None:
    cloud = await start()
    vm = pod_vm(make_provider(cloud), second_interface=True)
    await vm.launch()
    await vm.finish()
    (eni,) = [each for each in cloud.enis if not each.primary]
    assert eni.name == f"peerpod-nic-{'ab' * 32}"
    await vm.release()
    await until(lambda: not cloud.leftovers(), "the cloud to be empty")
    called = {call.action for call in cloud.calls}
    assert called == {"RunInstances", "DescribeInstances", "DescribeInstanceAttribute", "DeleteInstance"}


async def test_a_second_interface_with_an_eip_moves_to_the_next_vswitch(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm, until: Until
) -> None:
    cloud = await start()
    provider = make_provider(cloud, VSWITCH_ID=f"{FIRST},{SECOND}", USE_PUBLIC_IP="true")
    vms = [pod_vm(provider, client_token=f"token-{number}", second_interface=True) for number in range(3)]
    for vm in vms:
        await vm.launch()
        await vm.finish()
    interfaces = [each for each in cloud.enis if not each.primary]
    assert [vswitch for _, vswitch in places(cloud)] == [FIRST, FIRST, SECOND]
    assert [each.pool.vswitch.id for each in interfaces] == [FIRST, FIRST, SECOND]
    assert sorted(eip.eni.id for eip in cloud.eips if eip.eni) == sorted(each.id for each in interfaces)
    for vm in vms:
        await vm.release()
    await until(lambda: not cloud.leftovers(), "the cloud to be empty")


async def test_a_launch_template_gives_what_is_not_set(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm
) -> None:
    template = {
        "ImageId": "m-2zelocalcloud000000000",
        "InstanceType": BIG,
        "VSwitchId": SECOND,
        "SecurityGroupId": "sg-2zelocalcloud00000000",
        "SystemDisk.Category": "cloud_essd",
        "SystemDisk.Size": "80",
        "KeyPairName": "local-key",
    }
    cloud = await start(launch_templates={"pods": template})
    unset = {"IMAGEID": "", "VSWITCH_ID": "", "SECURITY_GROUP_IDS": "", "PODVM_LAUNCHTEMPLATE_NAME": "pods"}
    provider = make_provider(cloud, **unset)
    await provider.check(verify=True)
    await pod_vm(provider).launch()
    on_top = make_provider(cloud, **unset | {"PODVM_INSTANCE_TYPE": SMALL, "VSWITCH_ID": FIRST})
    await pod_vm(on_top, client_token="token-2").launch()
    assert places(cloud) == [(BIG, SECOND), (SMALL, FIRST)]
    for instance in cloud.instances:
        assert (instance.order.disk_gib, instance.order.key_pair) == (80, "local-key")
        assert instance.order.confidential

    wrong = make_provider(cloud, **unset | {"PODVM_LAUNCHTEMPLATE_NAME": "missing"})
    with pytest.raises(FailedPreconditionError, match=r"for launch template missing: .*PODVM_LAUNCHTEMPLATE"):
        await pod_vm(wrong, client_token="token-3").launch()


async def test_strays_are_what_carries_the_nodes_mark(
    start: StartCloud, make_provider: MakeProvider, pod_vm: MakePodVm, until: Until
) -> None:
    allowed = ("ecs:DescribeInstances", "ecs:DescribeNetworkInterfaces")
    cloud = await start(allow=allowed)
    provider = make_provider(cloud, USE_PUBLIC_IP="true")
    other = AlibabaCloud(provider._settings, node="worker-2")
    for number, of in enumerate((provider, other)):
        await of.check(verify=False)
        vm = pod_vm(of, client_token=f"token-{number}", sandbox_id=f"sandbox-{number}", second_interface=True)
        await vm.launch()
        await vm.finish()
    strays, failures = await provider.strays()
    assert not failures
    assert sorted((stray.kind, stray.sandbox) for stray in strays) == [
        ("EIP", "sandbox-0"),
        ("ENI", "sandbox-0"),
        ("instance", "sandbox-0"),
    ]
    for stray in (await other.strays())[0]:
        await provider.release_stray(stray)  # no longer, or never, this node's: nothing happens
    assert len(cloud.leftovers()) == 6
    for stray in sorted(strays, key=lambda stray: stray.kind, reverse=True):
        await provider.release_stray(stray)
    await until(lambda: len(cloud.leftovers()) == 3, "this node's to be gone")
    assert await provider.strays() == ([], [])

    # Another cluster's node of the same name, in another VPC.
    namesake = AlibabaCloud(dataclasses.replace(provider._settings, vpc_id="vpc-other"), node="worker-2")
    assert (await namesake.strays())[0] == []
    await namesake.close()
    await other.close()
