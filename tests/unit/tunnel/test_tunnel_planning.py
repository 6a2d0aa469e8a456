"""The rules that turn what the kernel tells into a pod network, and that into an order of work."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import InvalidArgumentError
from caa.tunnel import PodNetwork, Route, WorkerOptions
from caa.tunnel.inspection import (
    Interface,
    describe,
    describe_routes,
    may_be_second,
    primary_route,
    second_interface,
)
from caa.tunnel.pod import fitting_mtu, planned_routes
from caa.tunnel.rtnetlink import Link, NeighborEntry, RouteEntry

ANYWHERE = IPv4Network("0.0.0.0/0")
GATEWAY = IPv4Address("10.0.0.1")
OPTIONS = WorkerOptions(host_interface="", vxlan_port=4789, vxlan_id=555001, index=1)


def default(device: str, metric: int = 0) -> RouteEntry:
    return RouteEntry(ANYWHERE, GATEWAY, device, metric)


def interface(name: str, *addresses: str, index: int = 2) -> Interface:
    link = Link(index=index, name=name, hardware_address="02:00:00:00:00:01", mtu=1500)
    return Interface(link, tuple(map(IPv4Interface, addresses)))


@pytest.mark.parametrize(
    ("defaults", "primary"),
    [
        ([], None),
        ([("eth0", 0)], "eth0"),
        ([("eth1", 100), ("eth0", 200)], "eth1"),
        ([("eth1", 0), ("eth0", 0)], "eth0"),
        ([("eth10", 0), ("eth2", 0), ("eth9", 0)], "eth2"),
        ([("ens5", 100), ("eth0", 100), ("ens3", 100)], "ens3"),
        ([("enp0s3", 0), ("enp0s2", 0)], "enp0s3"),
        ([("wan", 0), ("eth0", 0)], "wan"),
        ([("eth0", 1024), ("ens6", 512), ("ens5", 512), ("ens4", 1024)], "ens5"),
    ],
)
def test_primary_interface(defaults: list[tuple[str, int]], primary: str | None) -> None:
    found = primary_route([default(device, metric) for device, metric in defaults])
    assert (found.device if found else None) == primary


@pytest.mark.parametrize(
    "change",
    [
        {"table": 100},
        {"kind": 6},
        {"destination": IPv4Network("0.0.0.0/1")},
        {"device": ""},
    ],
)
def test_primary_interface_is_not_told_by_other_routes(change: dict[str, object]) -> None:
    assert primary_route([replace(default("eth0"), **change)]) is None  # type: ignore[arg-type]  # any field


@given(
    st.lists(st.tuples(st.from_regex(r"(eth|ens)[0-9]{1,2}", fullmatch=True), st.integers(0, 3)), min_size=1)
)
def test_primary_interface_has_the_lowest_metric(defaults: list[tuple[str, int]]) -> None:
    found = primary_route([default(device, metric) for device, metric in defaults])
    assert found is not None
    lowest = min(metric for _, metric in defaults)
    assert found.metric == lowest
    rivals = [name for name, metric in defaults if metric == lowest and name[:3] == found.device[:3]]
    assert int(found.device[3:]) == min(int(name[3:]) for name in rivals)


routes = st.lists(
    st.builds(
        RouteEntry,
        destination=st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(
            lambda pair: IPv4Network(pair, strict=False)
        ),
        gateway=st.none() | st.ip_addresses(v=4),
        device=st.just("eth0"),
        metric=st.integers(0, 3),
        protocol=st.sampled_from([0, 2, 3, 4, 9, 16, 186]),
        scope=st.sampled_from([0, 99, 200, 253, 254, 255]),
        kind=st.sampled_from([1, 2, 6]),
        table=st.sampled_from([100, 254, 255]),
    )
)


@given(routes)
def test_routes_are_those_of_the_contract_in_its_order(entries: list[RouteEntry]) -> None:
    described = describe_routes(entries)
    kept = [r for r in entries if (r.table, r.kind) == (254, 1) and r.protocol in {2, 3, 4, 16}]
    ordered = sorted(kept, key=lambda r: (r.destination.network_address, r.destination.prefixlen, r.metric))
    assert [(r.dst, r.gw) for r in described] == [(r.destination, r.gateway) for r in ordered]
    names = {2: "kernel", 3: "boot", 4: "static", 16: "dhcp"}
    assert [r.protocol for r in described] == [names[r.protocol] for r in ordered]


def test_scopes_have_their_names() -> None:
    entries = [replace(default("eth0", metric=i), scope=n) for i, n in enumerate((0, 200, 253, 254, 255, 42))]
    assert [r.scope for r in describe_routes(entries)] == [None, "site", "link", "host", "nowhere", None]


def describe_pod(pod: Interface, options: WorkerOptions = OPTIONS, **changes: object) -> PodNetwork:
    given: dict[str, object] = {
        "routes": [default("eth0")],
        "neighbors": [],
        "worker_address": IPv4Interface("10.10.0.4/16"),
        "dedicated": False,
    }
    return describe(netns="/run/netns/x", pod=pod, options=options, **(given | changes))  # type: ignore[arg-type]  # any


@pytest.mark.parametrize("addresses", [(), ("10.0.0.5/24", "10.0.0.6/24")])
def test_pod_must_have_one_address(addresses: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"eth0 in /run/netns/x must have one IPv4 address"):
        describe_pod(interface("eth0", *addresses))


def test_only_permanent_neighbours_are_told() -> None:
    mac = "ee:ee:ee:ee:ee:ee"
    network = describe_pod(
        interface("eth0", "10.0.0.5/24"),
        neighbors=[
            NeighborEntry(GATEWAY + i, mac, state) for i, state in enumerate((0x80, 0x02, 0x04, 0x40))
        ],
    )
    (told,) = network.neighbors
    assert told.model_dump() == {"ip": str(GATEWAY), "hw-addr": mac, "dev": "eth0", "state": "permanent"}


@pytest.mark.parametrize(("gateway", "scope"), [(GATEWAY, None), (None, "link")])
def test_pod_subnets_take_the_pods_gateway(gateway: IPv4Address | None, scope: str | None) -> None:
    options = replace(OPTIONS, pod_subnet_cidrs=("10.96.0.0/12",))
    network = describe_pod(
        interface("eth0", "10.0.0.5/24"), options, routes=[replace(default("eth0"), gateway=gateway)]
    )
    added = network.routes[-1]
    assert (str(added.dst), added.gw, added.dev, added.scope) == ("10.96.0.0/12", gateway, "eth0", scope)
    assert added.protocol is None


@pytest.mark.parametrize(
    ("pod", "underlay", "fitting"),
    [
        (1500, 1500, 1450),
        (1450, 1500, 1450),
        (1400, 1500, 1400),
        (8951, 9001, 8951),
        (9001, 1500, 1450),
        (0, 1500, 1450),
    ],
)
def test_mtu_fits_both_pod_and_underlay(pod: int, underlay: int, fitting: int) -> None:
    assert fitting_mtu(pod, underlay) == fitting


@given(st.lists(st.none() | st.ip_addresses(v=4)))
def test_routes_without_a_gateway_come_first_and_keep_their_order(gateways: list[IPv4Address | None]) -> None:
    told = [Route(dst=IPv4Network((i << 8, 24)), gw=gw) for i, gw in enumerate(gateways)]
    planned = planned_routes(PodNetwork(interface="eth0", routes=tuple(told)))
    order = [route for route in told if route.gw is None] + [route for route in told if route.gw]
    assert [route.destination for route in planned] == [route.dst for route in order]
    assert all(route.scope == (0 if route.gateway else 253) for route in planned)
    assert all(route.device == "eth0" for route in planned)


def test_planned_routes_carry_protocol_and_scope() -> None:
    network = PodNetwork(
        interface="eth0",
        routes=(
            Route(gw=GATEWAY, dev="net1", protocol="dhcp", scope="site"),
            Route(gw=GATEWAY),
            Route(protocol="kernel", scope="host"),
        ),
    )
    assert [(r.device, r.protocol, r.scope) for r in planned_routes(network)] == [
        ("eth0", 2, 253),
        ("net1", 16, 200),
        ("eth0", 3, 0),
    ]


@pytest.mark.parametrize(
    ("name", "card"),
    [("eth1", True), ("ens6", True), ("enp0s6", True), ("bond0", True)]
    + [(n, False) for n in ("lo", "veth2", "docker0", "podman1", "br-4af", "cni0", "tunl0", "tun0", "tap3")],
)
def test_second_interface_is_a_network_card(name: str, card: bool) -> None:
    assert may_be_second(name) is card


PRIMARY = interface("eth0", "10.0.0.5/24")


@pytest.mark.parametrize(
    ("others", "defaults", "expected"),
    [
        ([], ["eth0"], None),
        ([interface("eth1")], ["eth0"], None),
        ([interface("eth1", "10.9.0.5/24")], ["eth0"], None),
        ([interface("eth1", "10.0.0.6/24")], ["eth0"], "eth1"),
        ([interface("eth1", "10.0.0.6/25")], ["eth0"], None),
        ([interface("eth1", "10.9.0.5/24")], ["eth0", "eth1"], "eth1"),
        ([interface("veth2", "10.0.0.7/24"), interface("eth2", "10.0.0.6/24")], ["eth0"], "eth2"),
        ([interface("eth1", "10.0.0.6/24"), interface("eth2", "10.9.0.5/24")], ["eth0", "eth2"], "eth1"),
    ],
)
def test_second_interface(others: list[Interface], defaults: list[str], expected: str | None) -> None:
    found = second_interface(others, PRIMARY, [default(name) for name in defaults])
    assert (found and found[0].link.name) == expected
    if found:
        assert found[1] == default(found[0].link.name)
