"""The worker's end of a tunnel: a VXLAN device in the pod's namespace, tied to its interface both ways."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

from caa.errors import InvalidArgumentError, NotFoundError
from caa.polling import growing, poll
from caa.tunnel import firewall, threads
from caa.tunnel.inspection import require_apart
from caa.tunnel.model import PodNetwork
from caa.tunnel.netlink import NetlinkError
from caa.tunnel.netns import Namespace
from caa.tunnel.rtnetlink import Link, Rtnetlink, Vxlan

DEVICE = "vxlan1"
_VNI_FREE_TIMEOUT = 10.0


async def set_up_worker(
    netns: str, network: PodNetwork, addresses: Sequence[IPv4Address], *, host_netns: str | None = None
) -> None:
    """Make the worker's end of the tunnel to the pod VM with `addresses`, in the pod's namespace at `netns`.

    An end that is whole and has the same parameters is left alone, any other is replaced. If this fails or is
    cancelled, nothing of the new end is left. The tunnel's packets leave from the namespace at `host_netns`;
    None: the one that this process is in.

    Raises NotFoundError if there is no namespace or the pod's interface is gone; InvalidArgumentError if the
    VM lacks the address for the tunnel; DeadlineExceededError if the VNI is taken; NetlinkError (an
    InternalError) if the kernel refuses a step.
    """
    tunnel = Vxlan(network.vxlan_id, _remote(network, addresses), network.vxlan_port)

    end = _End(netns, network, tunnel, host_netns)

    async def attempt() -> tuple[bool | None, str]:
        refusal = await threads.finish_or_undo(end.set_up, end.undo)
        return (None, refusal) if refusal else (True, "")

    # The device of a pod that had this VNI before may be with us for a moment: the kernel clears a deleted
    # namespace in the background.
    await poll(
        attempt,
        what=f"VXLAN network identifier {tunnel.vni} to become free on this node",
        pauses=growing(0.01),
        timeout=_VNI_FREE_TIMEOUT,
    )


async def tear_down_worker(netns: str, network: PodNetwork, *, host_netns: str | None = None) -> None:
    """Remove what `set_up_worker` has made, however much of it there is, and if the namespace itself is gone
    too.

    Raises NetlinkError if the kernel refuses a step.
    """
    await threads.finish(partial(_tear_down, netns, network, host_netns))


def _remote(network: PodNetwork, addresses: Sequence[IPv4Address]) -> IPv4Address:
    """The VM's first address; its second if the tunnel has an interface of its own."""
    wanted = 1 if network.dedicated else 0
    if len(addresses) <= wanted:
        listed = ", ".join(map(str, addresses)) or "none"
        raise InvalidArgumentError(
            f"the tunnel needs the pod VM's {'second' if wanted else 'first'} address; it has: {listed}"
        )
    return addresses[wanted]


@dataclass
class _End:
    netns: str
    network: PodNetwork
    tunnel: Vxlan
    host_netns: str | None
    touched: bool = False

    def set_up(self) -> str:
        """Returns "", or the kernel's words if the VNI is taken."""
        with Namespace.open(self.netns) as pod, Namespace.open(self.host_netns) as host:
            require_apart(pod, host)
            with Rtnetlink(pod) as inside, Rtnetlink(host) as outside:
                return self._set_up(inside, outside, pod, host)

    def _set_up(self, inside: Rtnetlink, outside: Rtnetlink, pod: Namespace, host: Namespace) -> str:
        interface = inside.link(self.network.interface)
        if interface is None:
            raise NotFoundError(f"the pod's interface {self.network.interface} is not in {self.netns}")
        device = inside.link(DEVICE)
        if device is not None and self._is_whole(inside, interface, device):
            self._exempt(host)
            return ""
        self.touched = True
        if device is not None:
            inside.delete_link(device)
        try:
            outside.add_vxlan(DEVICE, self.tunnel, inside=pod)
        except NetlinkError as error:
            if error.number == errno.EEXIST:
                return str(error)
            raise
        device = inside.link(DEVICE)
        if device is None:
            raise NotFoundError(f"the tunnel's device {DEVICE} has vanished from {self.netns}")
        self._exempt(host)
        inside.redirect(interface, device)
        inside.redirect(device, interface)
        inside.set_up(device)
        return ""

    def _is_whole(self, inside: Rtnetlink, interface: Link, device: Link) -> bool:
        return (
            device.vxlan == self.tunnel
            and device.is_up
            and inside.redirections(interface) == [device.index]
            and inside.redirections(device) == [interface.index]
        )

    def _exempt(self, host: Namespace) -> None:
        firewall.exempt(host, vni=self.tunnel.vni, remote=self.tunnel.remote, port=self.tunnel.port)

    def undo(self) -> None:
        """Nothing if the end was whole already: a restarted daemon that is stopped again must not cut a pod
        off.
        """
        if self.touched:
            _tear_down(self.netns, self.network, self.host_netns)


def _tear_down(netns: str, network: PodNetwork, host_netns: str | None) -> None:
    with Namespace.open(host_netns) as host:
        try:
            if pod := Namespace.open_if_there(netns):
                with pod:
                    if not pod.is_same_as(host):
                        _tear_down_inside(pod, network)
        finally:
            firewall.restore(host, vni=network.vxlan_id)


def _tear_down_inside(pod: Namespace, network: PodNetwork) -> None:
    with Rtnetlink(pod) as inside:
        if device := inside.link(DEVICE):
            inside.delete_link(device)
        if interface := inside.link(network.interface):
            inside.delete_ingress(interface)
