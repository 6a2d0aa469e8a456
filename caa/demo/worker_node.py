"""A worker node in a network namespace: a bridge for its pods as a CNI plugin makes it, and its pods."""

import asyncio
import contextlib
import http.client
import socket
import struct
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute
from pyroute2.nftables.main import NFTables

from caa.fakecloud import NETNS_FOLDER, Namespace, apart, netlink

T = TypeVar("T")

_BRIDGE = "cni0"
_POD_NETWORK = IPv4Network("10.244.1.0/24")


class WorkerNode:
    """The worker's namespace, and one for each of its pods, on one bridge.

    The pods' routes and addresses are those of Flannel: a /24, the bridge as the default gateway.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._hosts = _POD_NETWORK.hosts()
        self._prefix = _POD_NETWORK.prefixlen
        self._gateway = next(self._hosts)
        self._pods: dict[str, Namespace] = {}
        self._addresses: dict[str, IPv4Address] = {}

    @property
    def netns(self) -> Path:
        return NETNS_FOLDER / self._namespace.name

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, name: str) -> AsyncIterator["WorkerNode"]:
        """A node for as long as the context lasts; nothing of it is left after."""
        node = cls(await Namespace.create(name))
        try:
            await apart(node._make_bridge)
            yield node
        finally:
            for pod in list(node._pods):
                await node.remove_pod(pod)
            await node._namespace.remove()

    def _make_bridge(self) -> None:
        with netlink(self._namespace.fd) as ip:
            ip.link("set", index=1, state="up")
            ip.link("add", ifname=_BRIDGE, kind="bridge")
            bridge = _index(ip, _BRIDGE)
            ip.addr("add", index=bridge, address=str(self._gateway), prefixlen=self._prefix)
            ip.link("set", index=bridge, state="up")

    async def add_pod(self, name: str) -> tuple[Path, IPv4Address]:
        """What a CNI plugin does for a new pod; the path of its namespace, and its address."""
        address = self._addresses[name] = next(self._hosts)
        pod = self._pods[name] = await Namespace.create(f"{self._namespace.name}.{name}")
        await apart(lambda: self._connect(pod, address))
        return self.netns_of(name), address

    def _connect(self, pod: Namespace, address: IPv4Address) -> None:
        host_end = f"veth{address.packed[-1]}"
        with netlink(self._namespace.fd) as ip:
            peer = {"ifname": "eth0", "net_ns_fd": pod.fd}
            ip.link("add", ifname=host_end, kind="veth", peer=peer)
            ip.link("set", index=_index(ip, host_end), master=_index(ip, _BRIDGE), state="up")
        with netlink(pod.fd) as ip:
            ip.link("set", index=1, state="up")
            eth0 = _index(ip, "eth0")
            ip.addr("add", index=eth0, address=str(address), prefixlen=self._prefix)
            ip.link("set", index=eth0, state="up")
            ip.route("add", dst="default", gateway=str(self._gateway))

    def netns_of(self, pod: str) -> Path:
        return NETNS_FOLDER / self._pods[pod].name

    def address_of(self, pod: str) -> IPv4Address:
        return self._addresses[pod]

    async def nft_tables(self) -> list[str]:
        """Names of the node's nftables tables."""

        def look() -> list[str]:
            with netlink(self._namespace.fd), NFTables() as tables:
                return [table.get_attr("NFTA_TABLE_NAME") for table in tables.get_tables()]

        return await apart(look)

    async def remove_pod(self, name: str) -> None:
        await self._pods.pop(name).remove()

    async def devices(self, pod: str) -> dict[str, list[str]]:
        """Names of a pod's devices, each with the kinds of its qdiscs."""

        def look() -> dict[str, list[str]]:
            with netlink(self._pods[pod].fd) as ip:
                names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
                found: dict[str, list[str]] = {name: [] for name in names.values()}
                for qdisc in ip.get_qdiscs():
                    found[names[qdisc["index"]]].append(qdisc.get_attr("TCA_KIND"))
                return found

        return await apart(look)

    async def ping(self, address: IPv4Address, timeout: float) -> None:
        """One ICMP echo from the worker, repeated until it is answered. Raises TimeoutError."""
        with await self._in_namespace(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        ) as icmp:
            icmp.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(timeout):
                sequence = 0
                while True:
                    sequence += 1
                    await loop.sock_sendto(icmp, _echo_request(sequence), (str(address), 0))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            while not _is_reply(await loop.sock_recv(icmp, 2048), address):
                                pass
                            return

    async def fetch(self, address: IPv4Address, port: int, timeout: float) -> str:
        """A web page that a pod serves, fetched by the worker. Raises OSError, HTTPException."""

        def get() -> str:
            with socket.create_connection((str(address), port), timeout) as connection:
                client = http.client.HTTPConnection(str(address), port)
                client.sock = connection
                client.request("GET", "/")
                return client.getresponse().read(65536).decode()

        return await self._in_namespace(get)

    async def _in_namespace(self, work: Callable[[], T]) -> T:
        def moved() -> T:
            with netlink(self._namespace.fd):
                return work()

        return await apart(moved)


def _index(ip: IPRoute, name: str) -> int:
    index: int = ip.link_lookup(ifname=name)[0]
    return index


_IDENTIFIER = 0xCAA


def _echo_request(sequence: int) -> bytes:
    """ICMP echo request (RFC 792)."""
    payload = b"is anybody there"
    blank = struct.pack("!BBHHH", 8, 0, 0, _IDENTIFIER, sequence) + payload
    total = sum(struct.unpack(f"!{len(blank) // 2}H", blank))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHH", 8, 0, checksum, _IDENTIFIER, sequence) + payload


def _is_reply(packet: bytes, address: IPv4Address) -> bool:
    header = (packet[0] & 0x0F) * 4
    kind, _, _, identifier = struct.unpack_from("!BBHH", packet, header)
    return kind == 0 and identifier == _IDENTIFIER and packet[12:16] == address.packed
