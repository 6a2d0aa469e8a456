"""The pod network's JSON, against what the Go structure reads and writes.

The samples come from a Go program that marshals `tunneler.Config` of cloud-api-adaptor.
"""

import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from caa.tunnel import Neighbor, PodNetwork, Route
from caa.tunnel.model import NeighborState, RouteProtocol, RouteScope

GO_ZERO = """{"podip":"","pod-hw-addr":"","interface":"","worker-node-ip":"","tunnel-type":"","routes":null,\
"neighbors":null,"mtu":0,"index":0,"dedicated":false,"external-net-via-pod-vm":false}"""

GO_FULL = """{"podip":"10.244.2.7/32","pod-hw-addr":"0a:58:0a:f4:02:07","interface":"eth0",\
"worker-node-ip":"10.10.0.4/16","tunnel-type":"vxlan","routes":[\
{"dst":"0.0.0.0/0","gw":"169.254.1.1","dev":"eth0","protocol":"boot"},\
{"dst":"169.254.1.1/32","gw":"","dev":"eth0","protocol":"kernel","scope":"link"},\
{"dst":"10.96.0.0/12","gw":"169.254.1.1","dev":"eth0"},\
{"dst":"","gw":"","protocol":"static","scope":"site"},\
{"dst":"","gw":"","protocol":"dhcp","scope":"host"},\
{"dst":"","gw":"","scope":"nowhere"}],\
"neighbors":[{"ip":"169.254.1.1","hw-addr":"ee:ee:ee:ee:ee:ee","dev":"eth0","state":"permanent"},{"ip":""}],\
"mtu":1450,"index":7,"vxlan-port":4789,"vxlan-id":555007,"dedicated":true,"external-net-via-pod-vm":true}"""

FULL = PodNetwork(
    podip=IPv4Interface("10.244.2.7/32"),
    pod_hw_addr="0a:58:0a:f4:02:07",
    interface="eth0",
    worker_node_ip=IPv4Interface("10.10.0.4/16"),
    routes=(
        Route(gw=IPv4Address("169.254.1.1"), dev="eth0", protocol="boot"),
        Route(dst=IPv4Network("169.254.1.1/32"), dev="eth0", protocol="kernel", scope="link"),
        Route(dst=IPv4Network("10.96.0.0/12"), gw=IPv4Address("169.254.1.1"), dev="eth0"),
        Route(protocol="static", scope="site"),
        Route(protocol="dhcp", scope="host"),
        Route(scope="nowhere"),
    ),
    neighbors=(
        Neighbor(ip=IPv4Address("169.254.1.1"), hw_addr="ee:ee:ee:ee:ee:ee", dev="eth0", state="permanent"),
        Neighbor(),
    ),
    mtu=1450,
    index=7,
    vxlan_port=4789,
    vxlan_id=555007,
    dedicated=True,
    external_net_via_pod_vm=True,
)


def test_reads_what_go_writes() -> None:
    assert PodNetwork.model_validate_json(GO_FULL) == FULL
    assert PodNetwork.model_validate_json(GO_ZERO) == PodNetwork()


def test_writes_what_go_writes() -> None:
    # The one difference: Go has a destination that is not set beside 0.0.0.0/0, and takes both for the
    # default.
    assert FULL.model_dump_json() == GO_FULL.replace('"dst":""', '"dst":"0.0.0.0/0"')


def test_zero_values_are_left_out_where_go_leaves_them_out() -> None:
    ours = json.loads(PodNetwork().model_dump_json())
    theirs = json.loads(GO_ZERO)
    assert list(ours) == list(theirs)
    assert ours == theirs | {"tunnel-type": "vxlan", "routes": [], "neighbors": []}
    assert Route().model_dump() == {"dst": "0.0.0.0/0", "gw": ""}
    assert Neighbor().model_dump() == {"ip": ""}


def test_is_the_same_inside_another_document() -> None:
    class Document(BaseModel):
        pod_network: PodNetwork

    written = Document(pod_network=FULL).model_dump_json()
    assert json.loads(written)["pod_network"] == json.loads(FULL.model_dump_json())
    assert Document.model_validate_json(written).pod_network == FULL


def test_unknown_keys_of_later_releases_are_ignored() -> None:
    later = json.loads(GO_FULL) | {"ipv6": {"podip": "fd00::5/64"}}
    later["routes"][0]["mtu"] = 1400
    assert PodNetwork.model_validate(later) == FULL


@pytest.mark.parametrize("text", ["{}", '{"routes": null, "neighbors": null}', '{"podip": "", "mtu": 0}'])
def test_any_key_may_be_missing(text: str) -> None:
    assert PodNetwork.model_validate_json(text) == PodNetwork()


def test_destination_with_host_bits_is_the_network() -> None:
    assert Route.model_validate({"dst": "10.0.0.5/16"}).dst == IPv4Network("10.0.0.0/16")


@pytest.mark.parametrize(
    "bad",
    [
        {"podip": "10.0.0.5/33"},
        {"podip": "fd00::1/64"},
        {"podip": 5},
        {"pod-hw-addr": "0a:58:0a:f4:02"},
        {"pod-hw-addr": "0a:58:0a:f4:02:07; reboot"},
        {"interface": "a-name-that-is-too-long"},
        {"interface": "../eth0"},
        {"interface": "eth0\n"},
        {"tunnel-type": "geneve"},
        {"mtu": -1},
        {"vxlan-id": 2**24},
        {"vxlan-port": 65536},
        {"routes": [{"protocol": "bgp"}]},
        {"routes": [{"gw": "nowhere"}]},
        {"routes": [{"scope": ""}]},
        {"routes": {}},
        {"neighbors": [{"state": "sleeping"}]},
    ],
)
def test_wrong_values_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PodNetwork.model_validate(bad)


addresses = st.ip_addresses(v=4)
prefixes = st.builds(lambda ip, length: IPv4Interface((ip, length)), addresses, st.integers(0, 32))
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,14}", fullmatch=True)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
networks: st.SearchStrategy[PodNetwork] = st.builds(
    PodNetwork,
    podip=st.none() | prefixes,
    pod_hw_addr=st.just("") | macs,
    interface=st.just("") | names,
    worker_node_ip=st.none() | prefixes,
    tunnel_type=st.just("vxlan"),
    routes=st.lists(
        st.builds(
            Route,
            dst=prefixes.map(lambda prefix: prefix.network),
            gw=st.none() | addresses,
            dev=st.just("") | names,
            protocol=st.none() | st.sampled_from(get_args(RouteProtocol)),
            scope=st.none() | st.sampled_from(get_args(RouteScope)),
        )
    ).map(tuple),
    neighbors=st.lists(
        st.builds(
            Neighbor,
            ip=st.none() | addresses,
            hw_addr=st.just("") | macs,
            dev=st.just("") | names,
            state=st.none() | st.sampled_from(get_args(NeighborState)),
        )
    ).map(tuple),
    mtu=st.integers(0, 65535),
    index=st.integers(0, 10000),
    vxlan_port=st.integers(0, 65535),
    vxlan_id=st.integers(0, 2**24 - 1),
    dedicated=st.booleans(),
    external_net_via_pod_vm=st.booleans(),
)


@given(networks)
def test_what_is_written_is_read_again(network: PodNetwork) -> None:
    assert PodNetwork.model_validate_json(network.model_dump_json()) == network
    assert PodNetwork.model_validate(network.model_dump()) == network


@given(networks)
def test_nothing_is_ever_null_and_zero_enums_are_absent(network: PodNetwork) -> None:
    """Go's netip refuses null, and its readers of protocol, scope and state refuse ""."""

    def values(node: Any) -> Iterator[tuple[str, Any]]:
        pairs = node.items() if isinstance(node, dict) else (("", item) for item in node)
        for key, value in pairs:
            yield key, value
            if isinstance(value, dict | list):
                yield from values(value)

    for key, value in values(json.loads(network.model_dump_json())):
        assert value is not None, key
        assert value or key not in {"protocol", "scope", "state"}
