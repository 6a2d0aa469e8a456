"""The pod VM's end: what it waits for, what it makes, and what is left when it is interrupted."""

import asyncio
import itertools
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from caa.errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError
from caa.tunnel import Neighbor, NetlinkError, PodNetwork, Route, set_up_pod, tear_down_pod
from tests.integration.tunnel.conftest import (
    PATIENCE,
    WORKER,
    Trouble,
    Vm,
    fetch,
    leftovers,
    ping,
    web_server,
)

if TYPE_CHECKING:
    from tests.integration.conftest import LabNamespace, Netlab
    from tests.integration.tunnel.conftest import World

pytestmark = pytest.mark.root

GATEWAY = IPv4Address("10.244.1.1")


def network(**changes: Any) -> PodNetwork:
    plain = {
        "podip": "10.244.1.5/24",
        "pod_hw_addr": "0a:58:0a:f4:01:05",
        "interface": "eth0",
        "worker_node_ip": f"{WORKER}/16",
        "routes": [Route(gw=GATEWAY, dev="eth0"), Route(dst=IPv4Network("10.244.1.0/24"), dev="eth0")],
        "mtu": 1500,
        "vxlan_port": 4789,
        "vxlan_id": 555000,
    }
    return PodNetwork.model_validate(plain | changes)


async def set_up(vm: Vm, made: PodNetwork, **options: Any) -> None:
    await set_up_pod(made, podns=vm.pod.path, host_netns=vm.host.path, **{"timeout": PATIENCE, **options})


async def tear_down(vm: Vm, made: PodNetwork) -> None:
    await tear_down_pod(made, podns=vm.pod.path, host_netns=vm.host.path)


def ipv4(namespace: "LabNamespace", device: str) -> list[str]:
    (link,) = namespace.show(f"-4 addr show dev {device}") or [{"addr_info": []}]
    return [f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]]


def routes(namespace: "LabNamespace") -> list[tuple[str, str, str]]:
    return [(r["dst"], r.get("gateway", ""), r["dev"]) for r in namespace.show("route show")]


async def test_the_interface_is_the_pods(world: "World") -> None:
    vm = world.vm(1)
    await set_up(vm, network())
    (link,) = vm.pod.show("link show dev eth0")
    assert link["address"] == "0a:58:0a:f4:01:05"
    assert link["mtu"] == 1450
    assert "UP" in link["flags"]
    data = link["linkinfo"]["info_data"]
    assert (data["id"], data["remote"], data["port"]) == (555000, str(WORKER), 4789)
    assert ipv4(vm.pod, "eth0") == ["10.244.1.5/24"]
    assert routes(vm.pod) == [("default", "10.244.1.1", "eth0"), ("10.244.1.0/24", "", "eth0")]
    await ping(vm.pod, "127.0.0.1")


@pytest.mark.parametrize(
    ("pod_mtu", "underlay_mtu", "expected"),
    [
        (1500, 1500, 1450),
        (1400, 1500, 1400),
        (1450, 1500, 1450),
        (8950, 9000, 8950),
        (9000, 1500, 1450),
        (0, 1500, 1450),
    ],
)
async def test_mtu_is_what_fits(netlab: "Netlab", pod_mtu: int, underlay_mtu: int, expected: int) -> None:
    vm = lone_vm(netlab, mtu=underlay_mtu)
    await set_up(vm, network(mtu=pod_mtu))
    (link,) = vm.pod.show("link show dev eth0")
    assert link["mtu"] == expected


def lone_vm(netlab: "Netlab", mtu: int = 1500) -> Vm:
    switch, host, pod = (netlab.namespace(name) for name in ("switch", "vm", "podns"))
    netlab.veth(switch, "port0", host, "eth0", mtu=mtu)
    host.ip("addr add 10.10.1.1/16 dev eth0", "route add default via 10.10.255.254")
    return Vm(host, pod, IPv4Address("10.10.1.1"))


async def test_pod_without_a_subnet_of_its_own_has_no_route_to_it(netlab: "Netlab") -> None:
    """The point-to-point plugins: the subnet is reached by the gateway, so the kernel's own route must not be
    there.
    """
    vm = lone_vm(netlab)
    made = network(
        routes=[
            Route(gw=GATEWAY, dev="eth0"),
            Route(dst=IPv4Network("10.244.1.0/24"), gw=GATEWAY, dev="eth0"),
            Route(dst=IPv4Network("10.244.1.1/32"), dev="eth0", scope="link"),
        ]
    )
    await set_up(vm, made)
    assert routes(vm.pod) == [
        ("default", "10.244.1.1", "eth0"),
        ("10.244.1.0/24", "10.244.1.1", "eth0"),
        ("10.244.1.1", "", "eth0"),
    ]


async def test_routes_that_can_not_be_are_left_out(netlab: "Netlab") -> None:
    """Over another interface of the pod, or one to a destination a second time (they differed in their
    metric).
    """
    vm = lone_vm(netlab)
    made = network(
        routes=[
            Route(dst=IPv4Network("10.244.1.0/24"), dev="eth0"),
            Route(gw=GATEWAY, dev="eth0"),
            Route(gw=GATEWAY + 1, dev="eth0"),
            Route(dst=IPv4Network("192.168.0.0/16"), dev="net1"),
        ],
        neighbors=[Neighbor(ip=GATEWAY, hw_addr="ee:ee:ee:ee:ee:ee", dev="net1", state="permanent")],
    )
    with capture_logs() as logs:
        await set_up(vm, made)
    assert routes(vm.pod) == [("default", "10.244.1.1", "eth0"), ("10.244.1.0/24", "", "eth0")]
    assert [entry["route"] for entry in logs] == ["192.168.0.0/16 dev net1"]


async def test_namespace_is_created_if_it_is_not_there(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    vm.pod.delete()
    await set_up(vm, network())
    assert ipv4(vm.pod, "eth0") == ["10.244.1.5/24"]
    await ping(vm.pod, "127.0.0.1")


async def test_forwarder_that_starts_again_replaces_its_end(world: "World") -> None:
    vm, pod = world.vm(1), world.pod()
    made = await world.join(pod, vm)
    await set_up(vm, made)
    await ping(vm.pod, pod.gateway)
    assert leftovers(vm.host)[f"{vm.host.name} tables"] == ["caa"]


async def test_waits_for_interface_and_address(netlab: "Netlab") -> None:
    """As DHCP brings them: the interface comes up, then it has an address, then a default route."""
    vm = lone_vm(netlab)
    vm.host.ip("addr flush dev eth0", "link set eth0 down")
    task = asyncio.create_task(set_up(vm, network()))
    for command in ("link set eth0 up", "addr add 10.10.1.1/16 dev eth0"):
        assert not (await asyncio.wait([task], timeout=0.1))[0]
        vm.host.ip(command)
    assert not (await asyncio.wait([task], timeout=0.1))[0]
    vm.host.ip("route add default via 10.10.255.254")
    await task
    assert ipv4(vm.pod, "eth0") == ["10.244.1.5/24"]


@pytest.mark.parametrize(
    ("change", "options", "seen"),
    [
        ("route del default", {}, "no IPv4 default route"),
        (
            "route change default dev eth0\naddr flush dev eth0",
            {},
            "eth0 has no IPv4 address|no IPv4 default",
        ),
        ("link set lo up", {"host_interface": "eth7"}, "no interface eth7"),
    ],
)
async def test_deadline_tells_what_was_seen(
    netlab: "Netlab", change: str, options: dict[str, str], seen: str
) -> None:
    vm = lone_vm(netlab)
    vm.host.ip(*change.splitlines())
    with pytest.raises(DeadlineExceededError, match=f"network interfaces.* after 1 s; last seen: ({seen})"):
        await set_up(vm, network(), timeout=1, **options)
    assert leftovers(vm.host, vm.pod) == {}


async def test_two_addresses_are_an_error(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    vm.host.ip("addr add 10.10.1.2/16 dev eth0")
    with pytest.raises(FailedPreconditionError, match="must have one IPv4 address; it has 10"):
        await set_up(vm, network())


async def test_dedicated_tunnel_needs_an_interface_of_its_own(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    for interface in ("", "eth0"):
        with pytest.raises(InvalidArgumentError, match="interface of its own"):
            await set_up(vm, network(dedicated=True), host_interface=interface)
    switch = netlab.namespace("second")
    netlab.veth(switch, "port1", vm.host, "eth1", mtu=1300)
    vm.host.ip("addr add 192.168.0.2/24 dev eth1")
    await set_up(vm, network(dedicated=True, worker_node_ip="192.168.0.1/24"), host_interface="eth1")
    (link,) = vm.pod.show("link show dev eth0")
    assert link["mtu"] == 1250


@pytest.mark.parametrize("missing", ["podip", "worker_node_ip", "interface"])
async def test_incomplete_network_is_refused(netlab: "Netlab", missing: str) -> None:
    vm = lone_vm(netlab)
    with pytest.raises(InvalidArgumentError, match="lacks its podip, worker-node-ip or interface"):
        await set_up(vm, network(**{missing: ""}))


async def test_hosts_own_namespace_is_never_touched(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    same = Vm(vm.host, vm.host, vm.address)
    with pytest.raises(InvalidArgumentError, match="host's own network namespace"):
        await set_up(same, network(interface="pod0"))
    vm.host.ip("link add pod0 type vxlan id 7 dstport 4789")
    await tear_down(same, network(interface="pod0"))
    assert "pod0" in vm.host.devices()


async def test_interface_of_another_is_not_replaced(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    netlab.veth(vm.pod, "eth0", netlab.namespace("other"), "peer")
    with pytest.raises(FailedPreconditionError, match="has an interface eth0 already"):
        await set_up(vm, network())
    assert "eth0" in vm.pod.devices()


# Interrupted


def external_vm(netlab: "Netlab") -> tuple[Vm, PodNetwork]:
    """A VM with a second card in the primary's subnet, without a default route of its own."""
    vm = lone_vm(netlab)
    netlab.veth(netlab.namespace("second"), "port1", vm.host, "eth1")
    vm.host.ip("addr add 10.10.2.1/16 dev eth1 noprefixroute")
    return vm, network(
        external_net_via_pod_vm=True,
        neighbors=[Neighbor(ip=GATEWAY, hw_addr="ee:ee:ee:ee:ee:ee", dev="eth0", state="permanent")],
    )


def everything(vm: Vm) -> Any:
    """With the cards of the VM, which are where they were if an end has been undone."""
    return (
        leftovers(vm.host, vm.pod),
        vm.pod.devices(),
        vm.host.devices(),
        ipv4(vm.host, "eth1"),
        [r for r in routes(vm.host) if r[0] == "default"],
    )


async def test_failure_at_any_step_leaves_nothing(netlab: "Netlab", monkeypatch: pytest.MonkeyPatch) -> None:
    vm, made = external_vm(netlab)
    before = everything(vm)
    failures = 0
    for step in itertools.count(1):
        with monkeypatch.context() as patch:
            trouble = Trouble(patch, step)
            try:
                await set_up(vm, made)
            except NetlinkError as error:
                assert "in trouble" in str(error)  # noqa: PT017 - the firewall's failure raises nothing
                failures += 1
                assert everything(vm) == before, f"after a failure at step {step}"
        await tear_down(vm, made)
        assert everything(vm) == before, f"after teardown, with a failure at step {step}"
        if not trouble.happened.is_set():
            break
    assert failures >= 15


async def test_cancellation_at_any_step_leaves_nothing(
    netlab: "Netlab", monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, made = external_vm(netlab)
    before = everything(vm)
    for step in itertools.count(1):
        with monkeypatch.context() as patch:
            trouble = Trouble(patch, step, gate=True)
            task = asyncio.create_task(set_up(vm, made))
            happened = asyncio.create_task(asyncio.to_thread(trouble.happened.wait, PATIENCE))
            await asyncio.wait([task, happened], return_when=asyncio.FIRST_COMPLETED)
            if not trouble.happened.is_set():
                trouble.happened.set()
                await task
                break
            task.cancel()
            trouble.open_gate()
            with pytest.raises(asyncio.CancelledError):
                await task
            await happened
        assert everything(vm) == before, f"after a cancellation at step {step}"
    assert step > 15


async def test_teardown_completes_from_any_half_way_point(
    netlab: "Netlab", monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, made = external_vm(netlab)
    before = everything(vm)
    for step in itertools.count(1):
        await set_up(vm, made)
        with monkeypatch.context() as patch:
            trouble = Trouble(patch, step)
            try:
                await tear_down(vm, made)
            except NetlinkError as error:
                assert "in trouble" in str(error)  # noqa: PT017 - as above
        await tear_down(vm, made)
        assert everything(vm)[:2] == before[:2], f"after a failure at step {step}"
        if not trouble.happened.is_set():
            break
        # What failed may have been the second card's way back: its address and routes are DHCP's business.
        vm.host.ip("addr replace 10.10.2.1/16 dev eth1 noprefixroute", "link set eth1 up")
    assert step > 6


async def test_teardown_of_nothing_and_again(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    made = network()
    await tear_down(vm, made)
    await set_up(vm, made)
    vm.pod.delete()
    await tear_down(vm, made)
    await tear_down(vm, made)
    assert leftovers(vm.host) == {}


# The second interface


async def test_pods_traffic_to_the_outside_takes_the_second_interface(world: "World") -> None:
    pod, vm = world.pod(), world.vm(1)
    world.lab.plug(world.fabric, "br0", "second", vm.host, "eth1")
    vm.host.ip("addr add 10.10.2.1/16 dev eth1 noprefixroute")
    made = (await world.read(pod)).model_copy(update={"external_net_via_pod_vm": True})
    await set_up(vm, made)
    assert vm.host.devices() == {"lo", "eth0"}
    assert ipv4(vm.pod, "eth1") == ["10.10.2.1/16"]
    assert [route for route in routes(vm.pod) if route[0] == "default"] == [
        ("default", "10.10.255.254", "eth1")
    ]
    async with web_server(world.fabric, "10.10.255.254", b"outside") as (port, clients):
        assert await fetch(vm.pod, "10.10.255.254", port) == b"outside"
        assert clients == ["10.10.2.1"]
    await set_up(vm, made)
    assert [route for route in routes(vm.pod) if route[0] == "default"] == [
        ("default", "10.10.255.254", "eth1")
    ]
    await tear_down(vm, made)
    assert vm.host.devices() == {"lo", "eth0", "eth1"}
    assert ipv4(vm.host, "eth1") == ["10.10.2.1/16"]


async def test_second_interface_with_a_default_route_of_its_own(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    netlab.veth(netlab.namespace("second"), "port1", vm.host, "ens6")
    vm.host.ip("addr add 172.16.0.2/24 dev ens6", "route add default via 172.16.0.1 dev ens6 metric 200")
    before = routes(vm.host)
    made = network(external_net_via_pod_vm=True)
    for _ in ("the forwarder starts", "and again"):
        await set_up(vm, made)
        assert [r for r in routes(vm.pod) if r[0] == "default"] == [("default", "172.16.0.1", "ens6")]
    await tear_down(vm, made)
    assert sorted(routes(vm.host)) == sorted(before)


async def test_second_interface_that_never_comes(netlab: "Netlab") -> None:
    vm = lone_vm(netlab)
    with pytest.raises(DeadlineExceededError, match="no second interface for the pod's traffic"):
        await set_up(vm, network(external_net_via_pod_vm=True), timeout=1)
