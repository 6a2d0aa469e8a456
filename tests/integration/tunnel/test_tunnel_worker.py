"""The worker's end: repeated, replaced, interrupted at each step, and taken down in any state."""

import asyncio
import itertools
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from caa.errors import DeadlineExceededError, InvalidArgumentError, NotFoundError
from caa.tunnel import NetlinkError, PodNetwork, firewall, set_up_worker, tear_down_worker, worker
from caa.tunnel.netns import Namespace
from tests.integration.tunnel.conftest import (
    FIRST_VNI,
    PATIENCE,
    PORT,
    Trouble,
    leftovers,
    nft_exempted,
    nft_tables,
)

if TYPE_CHECKING:
    from tests.integration.tunnel.conftest import WorkerPod, World

pytestmark = pytest.mark.root

VM = IPv4Address("10.10.1.1")
OTHER_VM = IPv4Address("10.10.1.2")


async def set_up(world: "World", pod: "WorkerPod", network: PodNetwork, *addresses: IPv4Address) -> None:
    await set_up_worker(pod.netns.path, network, addresses or [VM], host_netns=world.worker.path)


async def tear_down(world: "World", pod: "WorkerPod", network: PodNetwork) -> None:
    await tear_down_worker(pod.netns.path, network, host_netns=world.worker.path)


def device(pod: "WorkerPod") -> dict[str, Any]:
    (link,) = pod.netns.show("link show dev vxlan1")
    return link


async def test_the_device_is_as_upstream_makes_it(world: "World") -> None:
    pod = world.pod()
    network = await world.read(pod)
    await set_up(world, pod, network)
    link = device(pod)
    assert "UP" in link["flags"]
    data = link["linkinfo"]["info_data"]
    assert (data["id"], data["remote"], data["port"]) == (FIRST_VNI, str(VM), PORT)
    assert data["learning"] is False
    assert "vxlan1" not in world.worker.devices()
    for source, target in (("eth0", "vxlan1"), ("vxlan1", "eth0")):
        (found,) = (
            entry
            for entry in pod.netns.show_tc(f"filter show dev {source} ingress")
            if "actions" in entry.get("options", {})
        )
        assert found["kind"] == "u32"
        assert found["protocol"] == "all"
        (action,) = found["options"]["actions"]
        assert (action["mirred_action"], action["direction"]) == ("redirect", "egress")
        assert action["to_dev"] == target


async def test_same_end_again_is_left_alone(world: "World") -> None:
    pod = world.pod()
    network = await world.read(pod)
    await set_up(world, pod, network)
    before = (device(pod)["ifindex"], leftovers(world.worker, pod.netns))
    await set_up(world, pod, network)
    assert (device(pod)["ifindex"], leftovers(world.worker, pod.netns)) == before


@pytest.mark.parametrize(
    "damage",
    [
        "link set vxlan1 down",
        "link delete vxlan1",
        "link add vxlan1 type bridge",
    ],
)
async def test_damaged_end_is_made_whole(world: "World", damage: str) -> None:
    pod = world.pod()
    network = await world.read(pod)
    await set_up(world, pod, network)
    whole = leftovers(world.worker, pod.netns)
    if damage.startswith("link add"):
        pod.netns.ip("link delete vxlan1")
    pod.netns.ip(damage)
    await set_up(world, pod, network)
    assert leftovers(world.worker, pod.netns).keys() == whole.keys()
    assert "UP" in device(pod)["flags"]
    (found,) = (
        e["options"]["actions"][0]["to_dev"]
        for e in pod.netns.show_tc("filter show dev eth0 ingress")
        if "actions" in e.get("options", {})
    )
    assert found == "vxlan1"


async def test_end_of_other_parameters_is_replaced(world: "World") -> None:
    pod = world.pod()
    network = await world.read(pod)
    await set_up(world, pod, network, VM)
    await set_up(world, pod, network, OTHER_VM)
    assert device(pod)["linkinfo"]["info_data"]["remote"] == str(OTHER_VM)
    assert nft_exempted(world.worker) == [FIRST_VNI]
    moved = network.model_copy(update={"vxlan_id": FIRST_VNI + 1})
    await set_up(world, pod, moved, OTHER_VM)
    assert device(pod)["linkinfo"]["info_data"]["id"] == FIRST_VNI + 1
    for made in (network, moved):
        await tear_down(world, pod, made)
    assert leftovers(world.worker, pod.netns) == {}


async def test_dedicated_tunnel_goes_to_the_second_address(world: "World") -> None:
    pod = world.pod()
    network = (await world.read(pod)).model_copy(update={"dedicated": True})
    with pytest.raises(InvalidArgumentError, match=r"second address; it has: 10\.10\.1\.1"):
        await set_up(world, pod, network, VM)
    await set_up(world, pod, network, VM, OTHER_VM)
    assert device(pod)["linkinfo"]["info_data"]["remote"] == str(OTHER_VM)


async def test_vm_without_an_address_is_refused(world: "World") -> None:
    pod = world.pod()
    with pytest.raises(InvalidArgumentError, match="first address; it has: none"):
        await set_up_worker(pod.netns.path, await world.read(pod), [], host_netns=world.worker.path)


async def test_failure_at_any_step_leaves_nothing(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    pod = world.pod()
    network = await world.read(pod)
    failures = 0
    for step in itertools.count(1):
        with monkeypatch.context() as patch:
            trouble = Trouble(patch, step)
            try:
                await set_up(world, pod, network)
            except NetlinkError as error:
                assert "in trouble" in str(error)  # noqa: PT017 - the firewall's failure raises nothing
                failures += 1
                assert leftovers(world.worker, pod.netns) == {}, f"after a failure at step {step}"
        await tear_down(world, pod, network)
        assert leftovers(world.worker, pod.netns) == {}, f"after a failure at step {step}"
        if not trouble.happened.is_set():
            break
    assert failures >= 6


async def test_cancellation_at_any_step_leaves_nothing(
    world: "World", monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = world.pod()
    network = await world.read(pod)
    for step in itertools.count(1):
        with monkeypatch.context() as patch:
            trouble = Trouble(patch, step, gate=True)
            task = asyncio.create_task(set_up(world, pod, network))
            happened = asyncio.create_task(asyncio.to_thread(trouble.happened.wait, PATIENCE))
            await asyncio.wait([task, happened], return_when=asyncio.FIRST_COMPLETED)
            if not trouble.happened.is_set():
                trouble.happened.set()
                await task
                break
            task.cancel()
            assert not (await asyncio.wait([task], timeout=0))[0], "it must wait for its thread"
            task.cancel()
            trouble.open_gate()
            with pytest.raises(asyncio.CancelledError):
                await task
            await happened
        assert leftovers(world.worker, pod.netns) == {}, f"after a cancellation at step {step}"
    assert step > 6
    await tear_down(world, pod, network)
    assert leftovers(world.worker, pod.netns) == {}


async def test_cancelled_repetition_leaves_a_whole_end_alone(
    world: "World", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that restarts goes over its running pods; if it is stopped meanwhile, they must go on."""
    pod = world.pod()
    network = await world.read(pod)
    await set_up(world, pod, network)
    before = (device(pod)["ifindex"], leftovers(world.worker, pod.netns))
    trouble = Trouble(monkeypatch, 2, gate=True)
    task = asyncio.create_task(set_up(world, pod, network))
    await asyncio.to_thread(trouble.happened.wait, PATIENCE)
    task.cancel()
    trouble.open_gate()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (device(pod)["ifindex"], leftovers(world.worker, pod.netns)) == before


async def test_teardown_completes_from_any_half_way_point(
    world: "World", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from where a teardown itself has failed."""
    pod = world.pod()
    network = await world.read(pod)
    for step in itertools.count(1):
        await set_up(world, pod, network)
        with monkeypatch.context() as patch:
            trouble = Trouble(patch, step)
            try:
                await tear_down(world, pod, network)
            except NetlinkError as error:
                assert "in trouble" in str(error)  # noqa: PT017 - as above
        await tear_down(world, pod, network)
        assert leftovers(world.worker, pod.netns) == {}, f"after a failure at step {step}"
        if not trouble.happened.is_set():
            break
    assert step > 4


async def test_teardown_of_nothing_and_again(world: "World") -> None:
    pod = world.pod()
    network = await world.read(pod)
    await tear_down(world, pod, network)
    await set_up(world, pod, network)
    await tear_down(world, pod, network)
    await tear_down(world, pod, network)
    assert leftovers(world.worker, pod.netns) == {}


@pytest.mark.parametrize("before", ["link delete eth0", "link delete vxlan1"])
async def test_teardown_without_one_of_the_devices(world: "World", before: str) -> None:
    pod = world.pod()
    network = await world.read(pod)
    await set_up(world, pod, network)
    pod.netns.ip(before)
    await tear_down(world, pod, network)
    assert leftovers(world.worker, pod.netns) == {}


async def test_teardown_after_the_namespace_has_gone(world: "World") -> None:
    pod = world.pod()
    network = await world.read(pod)
    await set_up(world, pod, network)
    pod.netns.delete()
    await tear_down(world, pod, network)
    assert leftovers(world.worker) == {}
    with pytest.raises(NotFoundError, match="no network namespace"):
        await set_up(world, pod, network)
    assert leftovers(world.worker) == {}


async def test_vni_of_a_deleted_namespace_is_soon_free(world: "World") -> None:
    """The kernel clears a deleted namespace in the background, and its tunnel holds the VNI until then."""
    for _ in range(5):
        old, new = world.pod(), world.pod()
        await set_up(world, old, await world.read(old))
        old.netns.delete()
        network = await world.read(new)
        await set_up(world, new, network)
        assert device(new)["linkinfo"]["info_data"]["id"] == FIRST_VNI
        await tear_down(world, new, network)


async def test_vni_of_a_living_pod_is_refused(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_VNI_FREE_TIMEOUT", 1)
    holder, other = world.pod(), world.pod()
    await set_up(world, holder, await world.read(holder))
    with pytest.raises(DeadlineExceededError, match=f"identifier {FIRST_VNI} to become free"):
        await set_up(world, other, await world.read(other))
    assert leftovers(other.netns) == {}
    assert device(holder)["linkinfo"]["info_data"]["id"] == FIRST_VNI
    assert nft_exempted(world.worker) == [FIRST_VNI]


async def test_hosts_own_namespace_is_never_touched(world: "World") -> None:
    """A pod on the host's network: tying the node's eth0 to a tunnel would cut the node off."""
    pod = world.pod()
    network = await world.read(pod)
    with pytest.raises(InvalidArgumentError, match="host's own network namespace"):
        await set_up_worker(world.worker.path, network, [VM], host_netns=world.worker.path)
    world.worker.ip("link add vxlan1 type bridge")
    await tear_down_worker(world.worker.path, network, host_netns=world.worker.path)
    assert "vxlan1" in world.worker.devices()


async def test_kernel_without_nf_tables_costs_a_warning(
    world: "World", monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = world.pod()
    network = await world.read(pod)
    real = Namespace.open_netlink

    def without_netfilter(self: Namespace, protocol: int) -> Any:
        if protocol == 12:
            raise OSError(93, "Protocol not supported")
        return real(self, protocol)

    monkeypatch.setattr(Namespace, "open_netlink", without_netfilter)
    firewall._warn.cache_clear()
    for _ in range(2):
        await set_up(world, pod, network)
        assert "UP" in device(pod)["flags"]
        assert nft_tables(world.worker) == []
        await tear_down(world, pod, network)
    assert firewall._warn.cache_info().currsize == 1
    assert leftovers(world.worker, pod.netns) == {}
