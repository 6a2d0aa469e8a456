"""Whether this machine can make a worker's end of a tunnel: each step of it is tried in namespaces that only
this process can find, so that nothing is left even if it is killed.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address

from pyroute2.netlink import NETLINK_NETFILTER

from caa.errors import CaaError, InternalError
from caa.tunnel.firewall import set_up_batch
from caa.tunnel.inspection import read_worker
from caa.tunnel.netlink import Netlink, NetlinkError
from caa.tunnel.netns import Namespace
from caa.tunnel.rtnetlink import Link, Rtnetlink, Vxlan
from caa.tunnel.worker import DEVICE

_NOWHERE = IPv4Address("192.0.2.1")  # RFC 5737: an example's address
_ITSELF = IPv4Address("127.0.0.1")  # where what a device says when it comes up leaves the machine alone


@dataclass(frozen=True)
class KernelFeature:
    """What the kernel said to one step."""

    name: str
    modules: str
    """That it needs, where they are not built in."""
    required: bool
    refusal: str = ""
    """Empty: it works."""


def probe_kernel() -> list[KernelFeature]:
    """Try what a tunnel takes, up to the first required step that fails. Blocks for some milliseconds."""
    return list(_probe())


def _probe() -> Iterator[KernelFeature]:
    with ExitStack() as closing:
        spaces: list[Namespace] = []

        def make_namespaces() -> None:
            spaces.extend(
                closing.enter_context(Namespace.make_nameless(f"a network namespace for the {whose}"))
                for whose in ("pod", "host")
            )

        yield (made := _tried("network namespaces", "", make_namespaces))
        if made.refusal:
            return
        pod, host = spaces
        inside = closing.enter_context(Rtnetlink(pod))
        outside = closing.enter_context(Rtnetlink(host))

        def add_device() -> None:
            outside.add_vxlan(DEVICE, Vxlan(1, _NOWHERE, 4789), inside=pod)

        yield (made := _tried("VXLAN devices", "vxlan", add_device))
        if made.refusal:
            return

        def redirect() -> None:
            device, other = _link(inside, DEVICE), _link(inside, "lo")
            inside.redirect(other, device)
            inside.redirect(device, other)
            inside.set_up(device)

        yield _tried("redirection of packets", "sch_ingress cls_u32 act_mirred", redirect)

        def exempt() -> None:
            with Netlink(host, NETLINK_NETFILTER) as netlink:
                netlink.exchange(set_up_batch(1, _NOWHERE, 4789, with_table=True), "adding nf_tables rules")

        yield _tried("nf_tables", "nf_tables nft_ct", exempt, required=False)


def _tried(name: str, modules: str, step: Callable[[], None], *, required: bool = True) -> KernelFeature:
    try:
        step()
    except (CaaError, OSError) as error:
        return KernelFeature(name, modules, required, str(error))
    return KernelFeature(name, modules, required)


def _link(inside: Rtnetlink, name: str) -> Link:
    link = inside.link(name)
    if link is None:
        raise InternalError(f"the device {name} is not in its namespace")
    return link


def free_vnis(vnis: Sequence[int], port: int) -> list[int]:
    """Those that no VXLAN device with this UDP port has in this process's namespace, where the tunnels'
    sockets will be; devices that are in other namespaces count.

    Raises NetlinkError, such as for a port that another program has, and PermissionDeniedError.
    """
    free: list[int] = []
    with (
        Namespace.make_nameless("a network namespace") as pod,
        Namespace.open(None) as host,
        Rtnetlink(pod) as inside,
        Rtnetlink(host) as outside,
    ):
        for vni in vnis:
            try:
                outside.add_vxlan(DEVICE, Vxlan(vni, _ITSELF, port), inside=pod)
            except NetlinkError as error:
                if error.number != errno.EEXIST:
                    raise
                continue
            device = _link(inside, DEVICE)
            if not free:
                inside.set_up(device)  # which is when the port is taken
            inside.delete_link(device)
            free.append(vni)
    return free


def worker_address(host_interface: str) -> tuple[str, IPv4Address]:
    """The interface that carries the tunnels and its address. Raises FailedPreconditionError if there is
    none.
    """
    with Namespace.open(None) as host, Rtnetlink(host) as outside:
        name, address, _ = read_worker(outside, host_interface)
        return name, address.ip
