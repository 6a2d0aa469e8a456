"""The local cloud's VPC: a network namespace with a bridge, which machines and worker nodes plug into.

It looks like an Alibaba Cloud vSwitch from inside: one flat IPv4 network, its gateway at the third last
address with that well-known MAC, the metadata service at 100.100.100.200 behind it. Nothing leads out.

    namespace <name>                         namespace of a machine or worker
      vpc0 (bridge) ── port1 ═══ veth ═══════ eth0
      void (bridge with no ports)

A port can be dark: everything but ARP that is sent to it goes to `void`, so that a SYN vanishes and
nobody is told, as with a cloud machine that has not booted yet.
"""

import errno
import itertools
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

from caa.fakecloud import syscalls
from caa.fakecloud.netns import FOLDER, Namespace, apart, apart_now, discard, netlink

METADATA_ADDRESS = "100.100.100.200"

_GATEWAY_MAC = "ee:ff:ff:ff:ff:ff"
_BACKLOG = 128
_EGRESS_OF_CLSACT = 0xFFFFFFF3  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)
_ETH_P_IP = 0x0800


class Vpc:
    """`name` is that of its namespace; its machines' namespaces are to be called `<name>.<something>`."""

    def __init__(self, name: str, cidr: IPv4Network) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):  # no dot: see _remove_leftovers
            raise ValueError(f"VPC name {name!r}: allowed are 1 to 64 letters, digits, _ and -")
        if cidr.prefixlen > 29:
            raise ValueError(f"VPC network {cidr}: a vSwitch has 8 addresses at least (/29)")
        self.name = name
        self.cidr = cidr
        self.gateway = cidr.broadcast_address - 2
        self._netns: Namespace | None = None
        self._claim: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._bridge = self._void = 0

    @classmethod
    async def create(cls, name: str, cidr: IPv4Network) -> "Vpc":
        """Also removes what a VPC of that name left behind when its process was killed.

        Raises FileExistsError if one of that name is in use. Failed or cancelled, it leaves nothing behind.
        """
        vpc = cls(name, cidr)
        vpc._claim = _claim(name)
        try:
            await apart(vpc._remove_leftovers)
            vpc._netns = await Namespace.create(name)
            await apart(vpc._build)
        except BaseException:
            await vpc.close()
            raise
        return vpc

    def _remove_leftovers(self) -> None:
        # Its links are deleted one by one, because those of a namespace go only some time after it.
        own = FOLDER / self.name
        with suppress(OSError), own.open("rb") as file:  # not there, or not a namespace yet
            _remove_links(file.fileno())
        for path in [own, *FOLDER.glob(f"{self.name}.*")]:
            discard(path.name)

    def _build(self) -> None:
        with netlink(self._namespace.fd) as link:
            # A bridge without a MAC of its own takes the lowest of its ports', and these come and go.
            link.link("add", ifname="vpc0", kind="bridge", address=_GATEWAY_MAC)
            link.link("add", ifname="void", kind="bridge")
            self._bridge, self._void = socket.if_nametoindex("vpc0"), socket.if_nametoindex("void")
            link.addr("add", index=self._bridge, address=str(self.gateway), prefixlen=self.cidr.prefixlen)
            link.addr("add", index=self._bridge, address=METADATA_ADDRESS, prefixlen=32)
            for index in (1, self._bridge, self._void):
                link.link("set", index=index, state="up")
            # Workers reach the machines' public addresses by the gateway.
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            for name in ("all", "vpc0"):
                Path(f"/proc/sys/net/ipv4/conf/{name}/send_redirects").write_text("0")

    @property
    def _namespace(self) -> Namespace:
        if self._netns is None:
            raise RuntimeError(f"VPC {self.name} is closed")
        return self._netns

    def listen(self, address: str, port: int) -> socket.socket:
        """A listening TCP socket inside the VPC, at the gateway's or the metadata service's address."""

        def listen() -> socket.socket:
            syscalls.setns(self._namespace.fd, syscalls.CLONE_NEWNET)
            return socket.create_server((address, port), backlog=_BACKLOG)

        return apart_now(listen)

    async def attach(self, netns: str, address: IPv4Address, interface: str, *, default_route: bool) -> None:
        """Join an existing namespace (a name, or a path) to the VPC with a new interface, until `close`."""
        fd = os.open(FOLDER / netns, os.O_RDONLY)
        try:
            mac = "02:00:" + address.packed.hex(":")
            route = "default" if default_route else f"{METADATA_ADDRESS}/32"
            await self.plug(fd, address, mac, interface, route=route)
        finally:
            os.close(fd)

    async def plug(
        self,
        netns: int,
        address: IPv4Address,
        mac: str,
        interface: str = "eth0",
        *,
        route: str | None = "default",
        dark: bool = False,
        public: IPv4Address | None = None,
    ) -> str:
        """Give a namespace an interface in the VPC, and return the name of its port. `route` is what it
        reaches through the VPC's gateway. Nothing that is sent to a `dark` one arrives until it is lit up.
        """
        port = f"port{next(self._numbers)}"

        def plug() -> None:
            with netlink(self._namespace.fd) as cloud:
                peer = {"ifname": interface, "address": mac, "net_ns_fd": netns}
                cloud.link("add", ifname=port, kind="veth", master=self._bridge, state="up", peer=peer)
                index = socket.if_nametoindex(port)
                if dark:
                    self._darken(cloud, index)
                with netlink(netns) as machine:
                    eth = socket.if_nametoindex(interface)
                    # Of two interfaces in one network, only the one that has an address answers for it: so
                    # it looks in a cloud, where the network answers ARP and not the machines.
                    Path(f"/proc/sys/net/ipv4/conf/{interface}/arp_ignore").write_text("1")
                    self._configure(machine, eth, address, route)
                    if public:
                        # A cloud translates addresses. Here the machine has it too, apart from its interface.
                        machine.addr("add", index=1, address=str(public), prefixlen=32)
                        cloud.route("replace", dst=f"{public}/32", gateway=str(address))
                    # Asking for the link makes the kernel act at once on the carrier that the port has now.
                    # (Its own time for that is up to a second, in which the bridge does not forward.)
                    cloud.link("get", index=index)
                    # Announce whose address this is now: some may know it as that of a machine that is gone.
                    Path(f"/proc/sys/net/ipv4/conf/{interface}/arp_notify").write_text("1")
                    machine.link("set", index=eth, address=mac)  # which is what arp_notify acts on

        try:
            await apart(plug)
        except BaseException:
            await self.unplug(port)
            raise
        return port

    def _darken(self, cloud: IPRoute, index: int) -> None:
        cloud.tc("add", "clsact", index)
        cloud.tc(
            "add-filter",
            "u32",  # with mirred, the classifier and action that every kernel has
            index,
            parent=_EGRESS_OF_CLSACT,
            protocol=_ETH_P_IP,
            target=1,
            keys=["0x0/0x0+0"],
            action={"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": self._void},
        )

    def _configure(self, machine: IPRoute, index: int, address: IPv4Address, route: str | None) -> None:
        machine.addr("add", index=index, address=str(address), prefixlen=self.cidr.prefixlen)
        machine.link("set", index=index, state="up")
        if route:
            machine.route("add", dst=route, gateway=str(self.gateway), oif=index)

    async def light_up(self, port: str) -> None:
        """Let a dark port's machine hear what is sent to it."""

        def light_up() -> None:
            with netlink(self._namespace.fd) as cloud:
                cloud.tc("del", "clsact", socket.if_nametoindex(port))

        await apart(light_up)

    async def unplug(self, port: str) -> None:
        """Remove a port, and with it the interface in the machine's namespace. No error if it is gone."""

        def unplug() -> None:
            with netlink(self._namespace.fd) as cloud, _gone_is_fine():
                cloud.link("del", ifname=port)

        if self._netns:
            await apart(unplug)

    async def close(self) -> None:
        """Remove all of it, the interfaces of those who joined too. Any number of times, at any point."""
        netns, self._netns = self._netns, None
        try:
            if netns:
                fd = netns.fd
                try:
                    # Sockets of `listen` that are still open keep the namespace alive, but it will be empty.
                    await apart(lambda: _remove_links(fd))
                finally:
                    await netns.remove()
        finally:
            if self._claim:
                self._claim.close()


def _claim(name: str) -> socket.socket:
    """Held while a VPC of that name lives: an abstract address is free again when its process ends."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0caa-fakecloud/{name}")
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            message = f"a local cloud with a VPC named {name} runs already: stop it, or choose another name"
            raise FileExistsError(errno.EEXIST, message) from None
        raise
    return claim


def _remove_links(netns: int) -> None:
    with netlink(netns) as link:
        for entry in link.get_links():
            if entry["index"] != 1:  # the loopback
                with _gone_is_fine():
                    link.link("del", index=entry["index"])


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
