"""The pod VM's end of a tunnel: the VXLAN device itself is the pod's interface, in the pod's namespace."""

import errno
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface

import structlog

from caa.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from caa.polling import growing, poll
from caa.tunnel import firewall, threads
from caa.tunnel.inspection import (
    PROTOCOLS,
    SCOPES,
    Interface,
    may_be_second,
    primary_route,
    require_apart,
    second_interface,
)
from caa.tunnel.model import PodNetwork
from caa.tunnel.netlink import already
from caa.tunnel.netns import Namespace
from caa.tunnel.rtnetlink import (
    NUD_PERMANENT,
    VXLAN_OVERHEAD,
    Link,
    NeighborEntry,
    RouteEntry,
    Rtnetlink,
    Vxlan,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class External:
    """A card of the VM for the pod's traffic to the outside."""

    link: Link
    address: IPv4Interface | None
    route: RouteEntry | None
    """The default route over it."""


@dataclass(frozen=True)
class Underlay:
    """What the VM's own network offers the tunnel."""

    mtu: int
    external: External | None = None
    """What is to move to the pod."""


def fitting_mtu(pod_mtu: int, underlay_mtu: int) -> int:
    """The pod's MTU, or what is left of the underlay's beside VXLAN's headers if that is smaller."""
    fitting = underlay_mtu - VXLAN_OVERHEAD
    return min(pod_mtu, fitting) if pod_mtu else fitting


def planned_routes(network: PodNetwork) -> list[RouteEntry]:
    """The pod's routes in an order in which the kernel takes them: a gateway must be reachable before it is
    used.
    """
    routes = [
        RouteEntry(
            destination=route.dst,
            gateway=route.gw,
            device=route.dev or network.interface,
            protocol=PROTOCOLS[route.protocol or "boot"],
            scope=SCOPES[(route.scope or "universe") if route.gw else "link"],
        )
        for route in network.routes
    ]
    return sorted(routes, key=lambda route: route.gateway is not None)


async def set_up_pod(
    network: PodNetwork,
    *,
    podns: str,
    host_interface: str = "",
    timeout: float = 180,
    host_netns: str | None = None,
) -> None:
    """Make the pod's network in the namespace at `podns`, which is created if it isn't there.

    `host_interface` carries the tunnel ("": the primary interface); it waits at most `timeout` seconds for
    the interfaces of the VM and their addresses. The tunnel's packets leave from the namespace at
    `host_netns`; None: the one that this process is in. An end that is there already is replaced. If it fails
    or is cancelled, nothing but the namespace is left.

    Raises InvalidArgumentError for a network that is not complete; DeadlineExceededError;
    FailedPreconditionError if the VM's or the pod's interfaces are not as they must be; NetlinkError (an
    InternalError) if the kernel refuses a step.
    """
    _podip_and_tunnel(network)
    underlay = await poll(
        partial(threads.finish, partial(_look, network, podns, host_interface, host_netns)),
        what="the VM's network interfaces and their addresses",
        pauses=growing(0.02, longest=1.0),
        timeout=timeout,
    )
    await threads.finish_or_undo(
        partial(_set_up, network, underlay, podns, host_netns),
        partial(_tear_down, network, podns, host_netns, underlay.external),
    )


async def tear_down_pod(network: PodNetwork, *, podns: str, host_netns: str | None = None) -> None:
    """Remove what `set_up_pod` has made, however much of it there is; the namespace stays, or may be gone.

    Raises NetlinkError if the kernel refuses a step.
    """
    await threads.finish(partial(_tear_down, network, podns, host_netns))


def _look(
    network: PodNetwork, podns: str, host_interface: str, host_netns: str | None
) -> tuple[Underlay | None, str]:
    with Namespace.open(host_netns) as host, Rtnetlink(host) as outside:
        defaults = outside.routes(default_only=True)
        route = primary_route(defaults)
        if route is None:
            return None, "no IPv4 default route"
        if network.dedicated and host_interface in ("", route.device):
            raise InvalidArgumentError(
                f"the tunnel is to run on an interface of its own, but --host-interface is"
                f" {host_interface or 'not set'} and the primary interface is {route.device}"
            )
        primary, seen = _interface(outside, route.device)
        carrier, seen = _interface(outside, host_interface or route.device) if primary else (None, seen)
        if primary is None or carrier is None:
            return None, seen
        if not network.external_net_via_pod_vm:
            return Underlay(carrier.link.mtu), ""
        if moved := _moved_before(podns, network):
            return Underlay(carrier.link.mtu, moved), ""
        others = [
            Interface(link, tuple(outside.addresses(link)))
            for link in outside.links()
            if link.index != primary.link.index
        ]
        second = second_interface(others, primary, defaults)
        if second is None:
            return None, "no second interface for the pod's traffic to the outside"
        card, over_card = second
        return Underlay(carrier.link.mtu, External(card.link, card.addresses[0], over_card)), ""


def _interface(outside: Rtnetlink, name: str) -> tuple[Interface | None, str]:
    link = outside.link(name)
    if link is None:
        return None, f"no interface {name}"
    addresses = tuple(outside.addresses(link))
    if len(addresses) > 1:
        raise FailedPreconditionError(
            f"{name} of the pod VM must have one IPv4 address; it has {', '.join(map(str, addresses))}"
        )
    return (Interface(link, addresses), "") if addresses else (None, f"{name} has no IPv4 address")


def _moved_before(podns: str, network: PodNetwork) -> External | None:
    pod = Namespace.open_if_there(podns)
    if pod is None:
        return None
    with pod, Rtnetlink(pod) as inside:
        return _moved(inside, network)


def _moved(inside: Rtnetlink, network: PodNetwork) -> External | None:
    """The VM's second interface if it is in the pod's namespace."""
    for link in inside.links():
        if link.name != network.interface and may_be_second(link.name):
            routes = [route for route in inside.routes(default_only=True) if route.device == link.name]
            return External(link, next(iter(inside.addresses(link)), None), primary_route(routes))
    return None


def _podip_and_tunnel(network: PodNetwork) -> tuple[IPv4Interface, Vxlan]:
    podip, worker = network.podip, network.worker_node_ip
    if podip is None or worker is None or not network.interface:
        raise InvalidArgumentError("the pod network lacks its podip, worker-node-ip or interface")
    return podip, Vxlan(network.vxlan_id, worker.ip, network.vxlan_port)


def _set_up(network: PodNetwork, underlay: Underlay, podns: str, host_netns: str | None) -> None:
    podip, tunnel = _podip_and_tunnel(network)
    with Namespace.open_or_create(podns) as pod, Namespace.open(host_netns) as host:
        require_apart(pod, host)
        with Rtnetlink(pod) as inside, Rtnetlink(host) as outside:
            if loopback := inside.link("lo"):
                inside.set_up(loopback)
            leftover = inside.link(network.interface)
            if leftover is not None and leftover.kind != "vxlan":
                raise FailedPreconditionError(
                    f"{podns} has an interface {network.interface} already, which is no tunnel's"
                )
            if leftover is not None:
                inside.delete_link(leftover)
            outside.add_vxlan(
                network.interface,
                tunnel,
                inside=pod,
                hardware_address=network.pod_hw_addr,
                mtu=fitting_mtu(network.mtu, underlay.mtu),
            )
            firewall.exempt(host, vni=tunnel.vni, remote=tunnel.remote, port=tunnel.port)
            links = {link.name: link for link in inside.links()}
            inside.add_address(links[network.interface], podip, subnet_route=False)
            inside.set_up(links[network.interface])
            _add_routes_and_neighbors(inside, links, network)
            if underlay.external is not None:
                if underlay.external.route is not None:
                    _delete_default_routes(inside)
                _move(underlay.external, outside, inside, pod)


def _add_routes_and_neighbors(inside: Rtnetlink, links: dict[str, Link], network: PodNetwork) -> None:
    for route in planned_routes(network):
        if route.device not in links:
            # A pod with several interfaces: the tunnel carries the primary one only.
            log.warning("left out a route over an interface that the pod does not have", route=str(route))
            continue
        # The JSON has no metrics, so two routes to one destination may differ in nothing else: the first is
        # the best.
        with already(errno.EEXIST):
            inside.add_route(route, links[route.device])
    for neighbor in network.neighbors:
        device = neighbor.dev or network.interface
        if neighbor.ip is not None and neighbor.hw_addr and device in links:
            inside.set_neighbor(links[device], NeighborEntry(neighbor.ip, neighbor.hw_addr, NUD_PERMANENT))


def _delete_default_routes(inside: Rtnetlink) -> None:
    links = {link.name: link for link in inside.links()}
    while (route := primary_route(inside.routes(default_only=True))) is not None:
        inside.delete_route(route, links[route.device])


def _move(external: External, source: Rtnetlink, target: Rtnetlink, target_namespace: Namespace) -> None:
    """Move a card if it isn't there yet. It loses its address and routes on the way, and gets them again."""
    link = source.link(external.link.name)
    if link is not None:
        source.move(link, target_namespace)
    moved = target.link(external.link.name)
    if moved is None:
        raise NotFoundError(f"the interface {external.link.name} has vanished from the VM")
    if external.address is not None:
        target.add_address(moved, external.address, subnet_route=True)
    target.set_up(moved)
    if external.route is not None:
        with already(errno.EEXIST):
            target.add_route(external.route, moved)


def _tear_down(
    network: PodNetwork, podns: str, host_netns: str | None, external: External | None = None
) -> None:
    """`external` is what a set-up that is undone had found; otherwise the pod's namespace tells."""
    with Namespace.open(host_netns) as host:
        try:
            if pod := Namespace.open_if_there(podns):
                with pod:
                    if not pod.is_same_as(host):
                        _tear_down_inside(pod, host, network, external)
        finally:
            firewall.restore(host, vni=network.vxlan_id)


def _tear_down_inside(
    pod: Namespace, host: Namespace, network: PodNetwork, external: External | None
) -> None:
    with Rtnetlink(pod) as inside, Rtnetlink(host) as outside:
        device = inside.link(network.interface)
        if device is not None and device.kind == "vxlan":
            inside.delete_link(device)
        if network.external_net_via_pod_vm and (moved := _moved(inside, network)):
            _move(external or moved, inside, outside, host)
