"""rtnetlink in one namespace: links, addresses, routes, neighbours and traffic control.

The messages are pyroute2's; the sockets are ours. pyroute2's own `IPRoute` opens a socket for each thread
that uses it, in whatever namespace that thread is in, makes an event loop for each object (which fails where
uvloop has set the policy), and takes three times as long.
"""

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_DELQDISC,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_GETTFILTER,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from caa.tunnel.netlink import Message, Netlink, NetlinkError, already
from caa.tunnel.netns import Namespace

IFF_UP = 1
RT_TABLE_MAIN = 254
RTN_UNICAST = 1
NUD_PERMANENT = 0x80
VXLAN_OVERHEAD = 50
"""What a packet grows by, in bytes: the headers of the frame that it is in, and of VXLAN, UDP and IPv4."""

_RTEXT_FILTER_SKIP_STATS = 8
_IFA_F_NOPREFIXROUTE = 0x200
_ETH_P_ALL = socket.htons(3)
# An ingress qdisc has this place and this handle (linux/pkt_sched.h: TC_H_INGRESS and its major number).
_INGRESS, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_EGRESS_REDIRECT, _STOLEN = 1, 4

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL})


@dataclass(frozen=True)
class Vxlan:
    vni: int
    remote: IPv4Address
    port: int

    def __str__(self) -> str:
        return f"VNI {self.vni}, remote {self.remote}:{self.port}"


@dataclass(frozen=True)
class Link:
    index: int
    name: str
    hardware_address: str
    mtu: int
    kind: str = ""
    """As in `ip link add … type KIND`; "" for hardware."""
    vxlan: Vxlan | None = None
    """None also for a VXLAN device without a fixed IPv4 remote."""
    is_up: bool = False


@dataclass(frozen=True)
class RouteEntry:
    """An IPv4 route, with the numbers that the kernel has for protocol, scope, type and table."""

    destination: IPv4Network
    gateway: IPv4Address | None
    device: str
    metric: int = 0
    protocol: int = 3
    scope: int = 0
    kind: int = RTN_UNICAST
    table: int = RT_TABLE_MAIN

    def __str__(self) -> str:
        return (
            f"{self.destination}" + (f" via {self.gateway}" if self.gateway else "") + f" dev {self.device}"
        )


@dataclass(frozen=True)
class NeighborEntry:
    address: IPv4Address
    hardware_address: str
    state: int


class Rtnetlink(Netlink):
    """Links, addresses, routes, neighbours and traffic control of one namespace; IPv4 only."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(namespace, socket.NETLINK_ROUTE)

    def _request(self, kind: int, flags: int, message: Any, doing: str) -> list[Message]:
        message["header"]["type"] = kind
        message["header"]["flags"] = NLM_F_REQUEST | flags
        message.encode()
        return self.exchange(bytes(message.data), doing)

    def _dump(
        self, kind: int, message: Any, doing: str, *, wanted: Callable[[bytes], bool] | None = None
    ) -> list[Any]:
        """Decoded answers of the same class as `message`; `wanted` judges them undecoded, as decoding is
        slow.
        """
        for attempts_left in reversed(range(10)):
            try:
                answers = self._request(kind, NLM_F_DUMP, message, doing)
            except NetlinkError as error:
                if error.number != errno.EINTR or not attempts_left:
                    raise
                message.reset()
            else:
                break
        return [_decode(type(message), a.raw) for a in answers if wanted is None or wanted(a.raw)]

    # Links

    def links(self) -> list[Link]:
        message = ifinfmsg()
        message["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
        return [_link(answer) for answer in self._dump(RTM_GETLINK, message, "listing the links")]

    def link(self, name: str = "", *, index: int = 0) -> Link | None:
        message = ifinfmsg()
        message["index"] = index
        message["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
        if name:
            message["attrs"].append(("IFLA_IFNAME", name))
        try:
            (answer,) = self._request(RTM_GETLINK, NLM_F_ACK, message, f"looking up the link {name or index}")
        except NetlinkError as error:
            if error.number == errno.ENODEV:
                return None
            raise
        return _link(_decode(ifinfmsg, answer.raw))

    def add_vxlan(
        self, name: str, vxlan: Vxlan, *, inside: Namespace, hardware_address: str = "", mtu: int = 0
    ) -> None:
        """Make a VXLAN device that is born in the namespace `inside`, down, with its UDP socket in this one.

        Like upstream's, it learns nothing and has the kernel's defaults otherwise (UDP checksums, TTL of the
        route).
        """
        message = ifinfmsg()
        message["attrs"] = [
            ("IFLA_IFNAME", name),
            ("IFLA_NET_NS_FD", inside.fd),
            (
                "IFLA_LINKINFO",
                {
                    "attrs": [
                        ("IFLA_INFO_KIND", "vxlan"),
                        (
                            "IFLA_INFO_DATA",
                            {
                                "attrs": [
                                    ("IFLA_VXLAN_ID", vxlan.vni),
                                    ("IFLA_VXLAN_GROUP", str(vxlan.remote)),
                                    ("IFLA_VXLAN_PORT", vxlan.port),
                                    ("IFLA_VXLAN_LEARNING", 0),
                                ]
                            },
                        ),
                    ]
                },
            ),
        ]
        if hardware_address:
            message["attrs"].append(("IFLA_ADDRESS", hardware_address))
        if mtu:
            message["attrs"].append(("IFLA_MTU", mtu))
        self._request(
            RTM_NEWLINK,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            message,
            f"adding the VXLAN device {name} ({vxlan}) to {inside.name} with its socket",
        )

    def set_up(self, link: Link) -> None:
        message = ifinfmsg()
        message["index"] = link.index
        message["flags"] = message["change"] = IFF_UP
        self._request(RTM_NEWLINK, NLM_F_ACK, message, f"setting {link.name} up")

    def move(self, link: Link, target: Namespace) -> None:
        message = ifinfmsg()
        message["index"] = link.index
        message["attrs"] = [("IFLA_NET_NS_FD", target.fd)]
        self._request(RTM_NEWLINK, NLM_F_ACK, message, f"moving {link.name} to {target.name}")

    def delete_link(self, link: Link) -> None:
        message = ifinfmsg()
        message["index"] = link.index
        with already(*_GONE):
            self._request(RTM_DELLINK, NLM_F_ACK, message, f"deleting {link.name}")

    # Addresses

    def addresses(self, link: Link) -> list[IPv4Interface]:
        """The IPv4 addresses of a link. One that has a peer counts as /32, as its prefix is the peer's."""
        message = ifaddrmsg()
        message["family"] = socket.AF_INET
        message["index"] = link.index
        answers = self._dump(
            RTM_GETADDR,
            message,
            f"listing the addresses of {link.name}",
            wanted=lambda raw: bool(struct.unpack_from("=I", raw, 20)[0] == link.index),
        )
        return [_address(answer) for answer in answers]

    def add_address(self, link: Link, address: IPv4Interface, *, subnet_route: bool) -> None:
        """Give `link` an address, with the route to its subnet that the kernel adds by itself or without."""
        message = ifaddrmsg()
        message["family"] = socket.AF_INET
        message["index"] = link.index
        message["prefixlen"] = address.network.prefixlen
        message["attrs"] = [
            ("IFA_LOCAL", str(address.ip)),
            ("IFA_ADDRESS", str(address.ip)),
            ("IFA_FLAGS", 0 if subnet_route else _IFA_F_NOPREFIXROUTE),
        ]
        if address.network.prefixlen < 31:
            message["attrs"].append(("IFA_BROADCAST", str(address.network.broadcast_address)))
        self._request(
            RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, message, f"giving {link.name} {address}"
        )

    # Routes

    def routes(self, *, default_only: bool = False) -> list[RouteEntry]:
        """The IPv4 routes of all tables. A route of several hops counts as that over its first."""
        message = rtmsg()
        message["family"] = socket.AF_INET
        answers = self._dump(
            RTM_GETROUTE,
            message,
            "listing the routes",
            # A worker may have thousands of routes: rtm_dst_len tells the default ones before they are
            # decoded.
            wanted=(lambda raw: raw[17] == 0) if default_only else None,
        )
        names: dict[int, str] = {}
        entries = []
        for answer in answers:
            hop = answer
            if answer.get_attr("RTA_MULTIPATH"):
                hop = answer.get_attr("RTA_MULTIPATH")[0]
            index = hop["oif"] if hop is not answer else answer.get_attr("RTA_OIF")
            if index and index not in names:
                link = self.link(index=index)
                names[index] = link.name if link else ""
            gateway = hop.get_attr("RTA_GATEWAY")
            entries.append(
                RouteEntry(
                    destination=IPv4Network(f"{answer.get_attr('RTA_DST') or '0.0.0.0'}/{answer['dst_len']}"),
                    gateway=IPv4Address(gateway) if gateway else None,
                    device=names.get(index, ""),
                    metric=answer.get_attr("RTA_PRIORITY") or 0,
                    protocol=answer["proto"],
                    scope=answer["scope"],
                    kind=answer["type"],
                    table=answer.get_attr("RTA_TABLE") or answer["table"],
                )
            )
        return entries

    def add_route(self, route: RouteEntry, link: Link) -> None:
        self._request(
            RTM_NEWROUTE,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            _route_message(route, link),
            f"adding the route {route}",
        )

    def delete_route(self, route: RouteEntry, link: Link) -> None:
        with already(*_GONE):
            self._request(RTM_DELROUTE, NLM_F_ACK, _route_message(route, link), f"deleting the route {route}")

    # Neighbours

    def neighbors(self, link: Link) -> list[NeighborEntry]:
        message = ndmsg()
        message["family"] = socket.AF_INET
        answers = self._dump(
            RTM_GETNEIGH,
            message,
            f"listing the neighbours of {link.name}",
            wanted=lambda raw: bool(struct.unpack_from("=i", raw, 20)[0] == link.index),
        )
        return [
            NeighborEntry(
                IPv4Address(answer.get_attr("NDA_DST")), answer.get_attr("NDA_LLADDR") or "", answer["state"]
            )
            for answer in answers
        ]

    def set_neighbor(self, link: Link, neighbor: NeighborEntry) -> None:
        message = ndmsg()
        message["family"] = socket.AF_INET
        message["ifindex"] = link.index
        message["state"] = neighbor.state
        message["attrs"] = [("NDA_DST", str(neighbor.address)), ("NDA_LLADDR", neighbor.hardware_address)]
        self._request(
            RTM_NEWNEIGH,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            message,
            f"adding the neighbour {neighbor.address} of {link.name}",
        )

    # Traffic control

    def redirect(self, source: Link, target: Link) -> None:
        """Send everything that arrives at `source` out of `target`, which the stack here never sees then.

        Whatever else there is at the ingress of `source` is replaced.
        """
        try:
            self._add_ingress(source)
        except NetlinkError as error:
            if error.number != errno.EEXIST:
                raise
            self.delete_ingress(source)
            self._add_ingress(source)
        message = tcmsg()
        message["index"] = source.index
        message["parent"] = _INGRESS_HANDLE
        message["info"] = _ETH_P_ALL
        message["attrs"] = [("TCA_KIND", "u32"), ("TCA_OPTIONS", _match_all_and_redirect(target.index))]
        self._request(
            RTM_NEWTFILTER,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            message,
            f"redirecting {source.name} to {target.name}",
        )

    def _add_ingress(self, link: Link) -> None:
        message = tcmsg()
        message["index"] = link.index
        message["parent"] = _INGRESS
        message["handle"] = _INGRESS_HANDLE
        message["attrs"] = [("TCA_KIND", "ingress")]
        self._request(
            RTM_NEWQDISC,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            message,
            f"adding an ingress qdisc to {link.name}",
        )

    def delete_ingress(self, link: Link) -> None:
        message = tcmsg()
        message["index"] = link.index
        message["parent"] = _INGRESS
        # Kernels before 5.x say EINVAL where there is no such qdisc.
        with already(*_GONE, errno.EINVAL):
            self._request(RTM_DELQDISC, NLM_F_ACK, message, f"deleting the ingress qdisc of {link.name}")

    def redirections(self, link: Link) -> list[int | None]:
        """For each filter at the ingress of `link` the index of the link that it redirects to, or None."""
        message = tcmsg()
        message["index"] = link.index
        message["parent"] = _INGRESS_HANDLE
        answers = self._dump(RTM_GETTFILTER, message, f"listing the filters of {link.name}")
        # A u32 filter is listed with its hash tables, which have no handle below that of the table, or no
        # options.
        return [_redirection(answer) for answer in answers if _is_filter(answer)]


def _decode(kind: type[Any], raw: bytes) -> Any:
    message = kind(raw)
    message.decode()
    return message


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info and info.get_attr("IFLA_INFO_KIND")) or ""
    vxlan = None
    if kind == "vxlan":
        data = info.get_attr("IFLA_INFO_DATA")
        remote = data.get_attr("IFLA_VXLAN_GROUP")
        if remote:
            vxlan = Vxlan(
                data.get_attr("IFLA_VXLAN_ID"), IPv4Address(remote), data.get_attr("IFLA_VXLAN_PORT")
            )
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        hardware_address=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        kind=kind,
        vxlan=vxlan,
        is_up=bool(message["flags"] & IFF_UP),
    )


def _address(message: Any) -> IPv4Interface:
    local, address = message.get_attr("IFA_LOCAL"), message.get_attr("IFA_ADDRESS")
    length = message["prefixlen"] if local in (None, address) else 32
    return IPv4Interface(f"{local or address}/{length}")


def _route_message(route: RouteEntry, link: Link) -> Any:
    message = rtmsg()
    message["family"] = socket.AF_INET
    message["dst_len"] = route.destination.prefixlen
    message["table"] = route.table
    message["proto"] = route.protocol
    message["scope"] = route.scope
    message["type"] = route.kind
    message["attrs"] = [("RTA_OIF", link.index)]
    if route.destination.prefixlen:
        message["attrs"].append(("RTA_DST", str(route.destination.network_address)))
    if route.gateway is not None:
        message["attrs"].append(("RTA_GATEWAY", str(route.gateway)))
    if route.metric:
        message["attrs"].append(("RTA_PRIORITY", route.metric))
    return message


def _match_all_and_redirect(index: int) -> dict[str, Any]:
    """u32 with a selector of one key that any packet fits: mask and value 0."""
    redirection = {
        "attrs": [
            ("TCA_ACT_KIND", "mirred"),
            (
                "TCA_ACT_OPTIONS",
                {
                    "attrs": [
                        (
                            "TCA_MIRRED_PARMS",
                            {"eaction": _EGRESS_REDIRECT, "action": _STOLEN, "ifindex": index},
                        )
                    ]
                },
            ),
        ]
    }
    return {
        "attrs": [
            ("TCA_U32_SEL", {"keys": ["0x0/0x0+0"]}),
            ("TCA_U32_ACT", {"attrs": [("TCA_ACT_PRIO_1", redirection)]}),
        ]
    }


def _is_filter(message: Any) -> bool:
    return message.get_attr("TCA_KIND") != "u32" or bool(message["handle"] & 0xFFF)


def _redirection(message: Any) -> int | None:
    options = message.get_attr("TCA_OPTIONS")
    actions = options.get_attr("TCA_U32_ACT") if message.get_attr("TCA_KIND") == "u32" else None
    found: Sequence[Any] = actions.get_attrs("TCA_ACT_PRIO_1") if actions else ()
    for action in found:
        if action.get_attr("TCA_ACT_KIND") == "mirred":
            parameters = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
            if parameters["eaction"] == _EGRESS_REDIRECT:
                return int(parameters["ifindex"])
    return None
