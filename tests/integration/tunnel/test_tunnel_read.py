"""Reading a pod's namespace as CNI plugins make it."""

from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from caa.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from caa.tunnel import WorkerOptions, read_pod_network

if TYPE_CHECKING:
    from tests.integration.tunnel.conftest import Plugin, World

pytestmark = pytest.mark.root

EXPECTED: dict[str, list[dict[str, str]]] = {
    "flannel": [
        {"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0", "protocol": "boot"},
        {"dst": "10.244.0.0/16", "gw": "10.244.1.1", "dev": "eth0", "protocol": "boot"},
        {"dst": "10.244.1.0/24", "gw": "", "dev": "eth0", "protocol": "kernel", "scope": "link"},
    ],
    "calico": [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1", "dev": "eth0", "protocol": "boot"},
        {"dst": "169.254.1.1/32", "gw": "", "dev": "eth0", "protocol": "boot", "scope": "link"},
    ],
    "ptp": [
        {"dst": "0.0.0.0/0", "gw": "10.244.3.1", "dev": "eth0", "protocol": "boot"},
        {"dst": "10.244.3.0/24", "gw": "10.244.3.1", "dev": "eth0", "protocol": "boot"},
        {"dst": "10.244.3.1/32", "gw": "", "dev": "eth0", "protocol": "boot", "scope": "link"},
    ],
}


@pytest.mark.parametrize("plugin", EXPECTED)
async def test_plugins_network_in_json(world: "World", plugin: "Plugin") -> None:
    pod = world.pod(plugin)
    (link,) = pod.netns.show("link show dev eth0")
    written = (await world.read(pod, 3)).model_dump(mode="json")
    neighbors = []
    if plugin == "calico":
        neighbors = [
            {"ip": "169.254.1.1", "hw-addr": "ee:ee:ee:ee:ee:ee", "dev": "eth0", "state": "permanent"}
        ]
    assert written == {
        "podip": f"{pod.address}/{32 if plugin == 'calico' else 24}",
        "pod-hw-addr": link["address"],
        "interface": "eth0",
        "worker-node-ip": "10.10.0.4/16",
        "tunnel-type": "vxlan",
        "routes": EXPECTED[plugin],
        "neighbors": neighbors,
        "mtu": 1500,
        "index": 3,
        "vxlan-port": 4789,
        "vxlan-id": 555003,
        "dedicated": False,
        "external-net-via-pod-vm": False,
    }


async def test_other_tables_types_and_protocols_are_left_out(world: "World") -> None:
    pod = world.pod()
    before = (await world.read(pod)).routes
    pod.netns.ip(
        "route add 172.16.0.0/16 via 10.244.1.1 table 100",
        "route add blackhole 172.17.0.0/16",
        "route add 172.18.0.0/16 via 10.244.1.1 proto ra",
        "neigh add 10.244.1.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable",
    )
    network = await world.read(pod)
    assert network.routes == before
    assert network.neighbors == ()
    pod.netns.ip("route add 172.19.0.0/16 via 10.244.1.1 proto static metric 9")
    assert [str(r.dst) for r in (await world.read(pod)).routes if r.protocol == "static"] == ["172.19.0.0/16"]


async def test_default_routes_metric_tells_the_primary_interface(world: "World") -> None:
    pod = world.pod()
    world.lab.plug(world.worker, "cni0", "veth-net1", pod.netns, "net1")
    pod.netns.ip("addr add 10.99.0.2/24 dev net1", "route add default via 10.99.0.1 dev net1 metric 5")
    assert (await world.read(pod)).interface == "eth0"
    pod.netns.ip("route del default dev eth0", "route add default via 10.244.1.1 dev eth0 metric 10")
    network = await world.read(pod)
    assert (network.interface, network.podip) == ("net1", IPv4Interface("10.99.0.2/24"))


async def test_pod_subnets_go_through_the_pods_gateway(world: "World") -> None:
    pod = world.pod()
    network = await world.read(pod, pod_subnet_cidrs=("10.96.0.0/12", "10.244.7.9/16"))
    (first, second) = network.routes[-2:]
    assert (first.dst, str(first.gw), first.dev) == (IPv4Network("10.96.0.0/12"), "10.244.1.1", "eth0")
    assert second.dst == IPv4Network("10.244.0.0/16")
    with pytest.raises(InvalidArgumentError, match="--pod-subnet-cidrs: 'nonsense'"):
        await world.read(pod, pod_subnet_cidrs=("nonsense",))


async def test_interface_of_the_tunnel_on_the_worker(world: "World") -> None:
    pod = world.pod()
    world.lab.plug(world.fabric, "br0", "second", world.worker, "eth1")
    world.worker.ip("addr add 192.168.0.1/24 dev eth1", "addr add 192.168.0.9/24 dev eth1")
    for interface, address, dedicated in (
        ("", "10.10.0.4/16", False),
        ("eth0", "10.10.0.4/16", False),
        ("eth1", "192.168.0.1/24", True),
    ):
        network = await world.read(pod, host_interface=interface)
        assert (str(network.worker_node_ip), network.dedicated) == (address, dedicated)
    with pytest.raises(FailedPreconditionError, match=r"no interface eth7 .* check --host-interface"):
        await world.read(pod, host_interface="eth7")
    world.worker.ip("addr flush dev eth1")
    with pytest.raises(FailedPreconditionError, match=r"eth1 .* has no IPv4 address"):
        await world.read(pod, host_interface="eth1")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("route del default", InvalidArgumentError, "no IPv4 default route"),
        (
            "addr add 10.244.1.99/24 dev eth0",
            InvalidArgumentError,
            r"one IPv4 address; it has: 10\S+, 10\S+\.",
        ),
        ("addr flush dev eth0\nroute add default dev eth0", InvalidArgumentError, "it has: none. Check the"),
    ],
)
async def test_pods_that_have_no_tunnel(
    world: "World", change: str, error: type[Exception], message: str
) -> None:
    pod = world.pod()
    pod.netns.ip(*change.splitlines())
    with pytest.raises(error, match=message):
        await world.read(pod)


async def test_worker_without_a_default_route(world: "World") -> None:
    world.worker.ip("route del default")
    with pytest.raises(FailedPreconditionError, match="worker's primary interface"):
        await world.read(world.pod())


async def test_namespace_that_is_not_there_or_is_the_hosts(world: "World") -> None:
    options: dict[str, Any] = {"host_interface": "", "vxlan_port": 4789, "vxlan_id": 555000, "index": 0}
    with pytest.raises(NotFoundError):
        await read_pod_network("/run/netns/caat-none", WorkerOptions(**options), host_netns=world.worker.path)
    with pytest.raises(InvalidArgumentError, match="host's own network namespace"):
        await read_pod_network(world.worker.path, WorkerOptions(**options), host_netns=world.worker.path)


async def test_address_with_a_peer_has_no_subnet(world: "World") -> None:
    pod = world.pod()
    pod.netns.ip(
        "addr flush dev eth0",
        "addr add 10.244.1.2 peer 10.244.1.1/32 dev eth0",
        "route add default via 10.244.1.1",
    )
    assert (await world.read(pod)).podip == IPv4Interface("10.244.1.2/32")


async def test_multipath_route_counts_as_its_first_hop(world: "World") -> None:
    pod = world.pod()
    pod.netns.ip("route add 172.16.0.0/16 nexthop via 10.244.1.1 nexthop via 10.244.1.7")
    (route,) = (r for r in (await world.read(pod)).routes if str(r.dst) == "172.16.0.0/16")
    assert (str(route.gw), route.dev) == ("10.244.1.1", "eth0")
