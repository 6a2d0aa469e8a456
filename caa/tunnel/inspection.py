"""What a namespace's links, addresses, routes and neighbours say about the pod's network: rules without I/O,
and the thin reading around them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import AddressValueError, IPv4Interface, IPv4Network, NetmaskValueError
from typing import get_args

from caa.errors import FailedPreconditionError, InvalidArgumentError
from caa.tunnel import threads
from caa.tunnel.model import Neighbor, PodNetwork, Route, RouteProtocol, RouteScope
from caa.tunnel.netns import Namespace
from caa.tunnel.rtnetlink import (
    NUD_PERMANENT,
    RT_TABLE_MAIN,
    RTN_UNICAST,
    Link,
    NeighborEntry,
    RouteEntry,
    Rtnetlink,
)

# Numbers from linux/rtnetlink.h for the names that the JSON has.
PROTOCOLS: dict[RouteProtocol, int] = {"kernel": 2, "boot": 3, "static": 4, "dhcp": 16}
SCOPES: dict[RouteScope, int] = {"universe": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_SCOPE_NAMES = {number: name for name, number in SCOPES.items()}
assert set(PROTOCOLS) == set(get_args(RouteProtocol))
assert set(SCOPES) == set(get_args(RouteScope))


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker's settings say about the tunnel of one pod."""

    host_interface: str
    """Interface of the worker that carries the tunnel; "" for the primary."""
    vxlan_port: int
    vxlan_id: int
    index: int
    pod_subnet_cidrs: tuple[str, ...] = ()
    external_net_via_pod_vm: bool = False


@dataclass(frozen=True)
class Interface:
    """A link and its IPv4 addresses."""

    link: Link
    addresses: tuple[IPv4Interface, ...]


def primary_route(routes: Sequence[RouteEntry]) -> RouteEntry | None:
    """The default route whose device is the namespace's primary interface; None if there is no default route.

    It is the one of the lowest metric. Among equals the first decides on the kind of device (the name without
    its number, such as `eth`), and the lowest number of that kind wins: eth0 before eth1.
    """
    defaults = [
        route
        for route in routes
        if route.destination.prefixlen == 0
        and route.table == RT_TABLE_MAIN
        and route.kind == RTN_UNICAST
        and route.device
    ]
    if not defaults:
        return None
    lowest = min(route.metric for route in defaults)
    best = [route for route in defaults if route.metric == lowest]
    kind, _ = _split_name(best[0].device)
    return min(
        (route for route in best if _split_name(route.device)[0] == kind),
        key=lambda route: _split_name(route.device)[1],
    )


def _split_name(device: str) -> tuple[str, float]:
    """("eth", 10) for "eth10"; a name that doesn't end in its only number is a kind of its own."""
    match = re.fullmatch(r"(\D*)(\d+)", device)
    return (match[1], int(match[2])) if match else (device, float("inf"))


def route_order(route: RouteEntry) -> tuple[int, int, int]:
    return int(route.destination.network_address), route.destination.prefixlen, route.metric


def describe_routes(routes: Sequence[RouteEntry]) -> list[Route]:
    """The routes that the pod must have too, in the order that the contract demands."""
    kept = [
        route
        for route in routes
        if route.table == RT_TABLE_MAIN and route.kind == RTN_UNICAST and route.protocol in _PROTOCOL_NAMES
    ]
    return [
        Route(
            dst=route.destination,
            gw=route.gateway,
            dev=route.device,
            protocol=_PROTOCOL_NAMES[route.protocol],
            # 0 is left out in JSON; a scope without a name has no JSON form and counts as 0 too.
            scope=_SCOPE_NAMES.get(route.scope) if route.scope else None,
        )
        for route in sorted(kept, key=route_order)
    ]


def describe(
    *,
    netns: str,
    pod: Interface,
    routes: Sequence[RouteEntry],
    neighbors: Sequence[NeighborEntry],
    worker_address: IPv4Interface,
    dedicated: bool,
    options: WorkerOptions,
) -> PodNetwork:
    """The pod network of `netns`, whose primary interface is `pod`.

    Raises InvalidArgumentError if the interface has no or several IPv4 addresses, or for a bad pod subnet.
    """
    if len(pod.addresses) != 1:
        found = ", ".join(map(str, pod.addresses)) or "none"
        raise InvalidArgumentError(
            f"the pod's interface {pod.link.name} in {netns} must have one IPv4 address; it has: {found}."
            " Check the cluster's CNI plugin"
        )
    primary = primary_route(routes)
    gateway = primary.gateway if primary else None
    return PodNetwork(
        podip=pod.addresses[0],
        pod_hw_addr=pod.link.hardware_address,
        interface=pod.link.name,
        worker_node_ip=worker_address,
        routes=(
            *describe_routes(routes),
            *(
                Route(dst=_subnet(cidr), gw=gateway, dev=pod.link.name, scope=None if gateway else "link")
                for cidr in options.pod_subnet_cidrs
            ),
        ),
        neighbors=tuple(
            Neighbor(
                ip=neighbor.address,
                hw_addr=neighbor.hardware_address,
                dev=pod.link.name,
                state="permanent",
            )
            for neighbor in neighbors
            if neighbor.state == NUD_PERMANENT
        ),
        mtu=pod.link.mtu,
        index=options.index,
        vxlan_port=options.vxlan_port,
        vxlan_id=options.vxlan_id,
        dedicated=dedicated,
        external_net_via_pod_vm=options.external_net_via_pod_vm,
    )


def _subnet(cidr: str) -> IPv4Network:
    try:
        return IPv4Network(cidr, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidArgumentError(f"--pod-subnet-cidrs: {cidr!r} is not an IPv4 network: {error}") from error


# Names of interfaces that are no network card of a VM.
_VIRTUAL = ("lo", "veth", "docker", "podman", "br-", "cni", "tun", "tap")


def may_be_second(name: str) -> bool:
    return not name.startswith(_VIRTUAL)


def second_interface(
    others: Sequence[Interface], primary: Interface, defaults: Sequence[RouteEntry]
) -> tuple[Interface, RouteEntry] | None:
    """The VM's interface for the pod's traffic to the outside, and the default route over it.

    `others` are the VM's other interfaces. It is the first that looks like a network card and has either a
    default route of its own, or an address in the primary's subnet, which makes the primary's gateway its
    own.
    """
    for other in others:
        if not other.addresses or not may_be_second(other.link.name):
            continue
        if own := primary_route([route for route in defaults if route.device == other.link.name]):
            return other, own
        shared = primary_route([route for route in defaults if route.device == primary.link.name])
        if shared and other.addresses[0].network == primary.addresses[0].network:
            return other, replace(shared, device=other.link.name)
    return None


def require_apart(pod: Namespace, host: Namespace) -> None:
    """Raises InvalidArgumentError if a pod's namespace is the host's: a tunnel would cut the machine's own
    network.
    """
    if pod.is_same_as(host):
        raise InvalidArgumentError(
            f"{pod.name} is the host's own network namespace: a pod on the host's network can't have a pod VM"
        )


async def read_pod_network(
    netns: str, options: WorkerOptions, *, host_netns: str | None = None
) -> PodNetwork:
    """Read what the CNI plugin has made of the namespace at `netns`, and where its tunnel starts.

    The worker's own namespace is that at `host_netns`; None: the one that this process is in.

    Raises NotFoundError if there is no namespace at `netns`; InvalidArgumentError if it is not that of one
    pod with one IPv4 address and a default route; FailedPreconditionError if the worker has no interface for
    the tunnel.
    """
    return await threads.finish(partial(_read, netns, options, host_netns))


def _read(netns: str, options: WorkerOptions, host_netns: str | None) -> PodNetwork:
    with Namespace.open(netns) as pod, Namespace.open(host_netns) as host:
        require_apart(pod, host)
        with Rtnetlink(host) as outside:
            _, worker_address, dedicated = read_worker(outside, options.host_interface)
        with Rtnetlink(pod) as inside:
            routes = inside.routes()
            primary = primary_route(routes)
            link = inside.link(primary.device) if primary else None
            if link is None:
                raise InvalidArgumentError(
                    f"{netns} has no IPv4 default route, which tells the pod's interface."
                    " Check the cluster's CNI plugin"
                )
            return describe(
                netns=netns,
                pod=Interface(link, tuple(inside.addresses(link))),
                routes=routes,
                neighbors=inside.neighbors(link),
                worker_address=worker_address,
                dedicated=dedicated,
                options=options,
            )


def read_worker(outside: Rtnetlink, host_interface: str) -> tuple[str, IPv4Interface, bool]:
    """The worker's interface for the tunnel, its address, and whether it is another than the primary.

    Raises FailedPreconditionError if there is none.
    """
    primary = primary_route(outside.routes(default_only=True))
    if primary is None:
        raise FailedPreconditionError(
            f"{outside.where} has no IPv4 default route, which tells the worker's primary interface"
        )
    name = host_interface or primary.device
    link = outside.link(name)
    if link is None:
        raise FailedPreconditionError(
            f"there is no interface {name} in {outside.where}: check --host-interface"
        )
    addresses = outside.addresses(link)
    if not addresses:
        raise FailedPreconditionError(f"the interface {name} of {outside.where} has no IPv4 address")
    return name, addresses[0], name != primary.device
