"""A worker, its CNI plugin and pod VMs, as network namespaces on one switch, and ways to look at them."""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETSETELEM,
    NFT_MSG_GETTABLE,
    nft_chain_msg,
    nft_set_elem_list_msg,
    nft_table_msg,
)

from caa.tunnel import PodNetwork, WorkerOptions, read_pod_network, set_up_pod, set_up_worker
from caa.tunnel.netlink import Message, Netlink, NetlinkError

if TYPE_CHECKING:
    from tests.integration.conftest import LabNamespace, Netlab

Plugin = Literal["flannel", "calico", "ptp"]
WORKER = IPv4Address("10.10.0.4")
PORT = 4789
FIRST_VNI = 555000
PATIENCE = 30.0


@dataclass(frozen=True)
class Vm:
    """A pod VM: its own namespace and that of its pod."""

    host: "LabNamespace"
    pod: "LabNamespace"
    address: IPv4Address


@dataclass(frozen=True)
class WorkerPod:
    """What a CNI plugin has made of a pod on the worker."""

    netns: "LabNamespace"
    address: str
    gateway: str
    """An address of the worker that the pod reaches without a router."""


class World:
    def __init__(self, lab: "Netlab") -> None:
        self.lab = lab
        self._pods = 0
        self.fabric = lab.namespace("fabric")
        lab.bridge(self.fabric, "br0", "10.10.255.254/16")
        self.worker = lab.namespace("worker")
        self._plug_in(self.worker, f"{WORKER}/16")
        self.worker.sysctl("net.ipv4.ip_forward", "1")
        lab.bridge(self.worker, "cni0", "10.244.1.1/24")

    def _plug_in(self, namespace: "LabNamespace", address: str) -> None:
        port = f"p{address.partition('/')[0]}"
        self.lab.plug(self.fabric, "br0", port, namespace, "eth0")
        namespace.ip(f"addr add {address} dev eth0", "route add default via 10.10.255.254")

    def vm(self, number: int) -> Vm:
        address = IPv4Address("10.10.1.0") + number
        host = self.lab.namespace(f"vm{number}")
        self._plug_in(host, f"{address}/16")
        return Vm(host, self.lab.namespace(f"podns{number}"), address)

    def pod(self, plugin: Plugin = "flannel") -> WorkerPod:
        self._pods += 1
        netns = self.lab.namespace(f"pod{self._pods}")
        return getattr(self, f"_{plugin}")(netns, self._pods)  # type: ignore[no-any-return]  # by name

    def _flannel(self, netns: "LabNamespace", number: int) -> WorkerPod:
        address = f"10.244.1.{number + 1}"
        self.lab.plug(self.worker, "cni0", f"veth{number}", netns, "eth0")
        netns.ip(
            f"addr add {address}/24 dev eth0",
            "route add default via 10.244.1.1",
            "route add 10.244.0.0/16 via 10.244.1.1",
        )
        return WorkerPod(netns, address, "10.244.1.1")

    def _calico(self, netns: "LabNamespace", number: int) -> WorkerPod:
        address, host_end = f"10.244.2.{number}", f"cali{number}"
        self.lab.veth(self.worker, host_end, netns, "eth0")
        self.worker.ip(
            f"link set {host_end} address ee:ee:ee:ee:ee:ee", f"route add {address} dev {host_end} scope link"
        )
        netns.ip(
            f"addr add {address}/32 dev eth0",
            "route add 169.254.1.1 dev eth0 scope link",
            "route add default via 169.254.1.1",
            "neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
        )
        return WorkerPod(netns, address, str(WORKER))

    def _ptp(self, netns: "LabNamespace", number: int) -> WorkerPod:
        address, host_end = f"10.244.3.{number + 1}", f"ptp{number}"
        self.lab.veth(self.worker, host_end, netns, "eth0")
        self.worker.ip(
            f"addr add 10.244.3.1/32 dev {host_end}", f"route add {address} dev {host_end} scope link"
        )
        netns.ip(
            f"addr add {address}/24 dev eth0",
            "route del 10.244.3.0/24 dev eth0",
            f"route add 10.244.3.1 dev eth0 scope link src {address}",
            f"route add 10.244.3.0/24 via 10.244.3.1 src {address}",
            "route add default via 10.244.3.1",
        )
        return WorkerPod(netns, address, "10.244.3.1")

    async def read(self, pod: WorkerPod, index: int = 0, **options: Any) -> PodNetwork:
        return await read_pod_network(
            pod.netns.path,
            WorkerOptions(
                host_interface=options.pop("host_interface", ""),
                vxlan_port=PORT,
                vxlan_id=FIRST_VNI + index,
                index=index,
                **options,
            ),
            host_netns=self.worker.path,
        )

    async def join(self, pod: WorkerPod, vm: Vm, index: int = 0) -> PodNetwork:
        """Both ends of a tunnel. The VM's is made from the JSON that the worker's side has written."""
        network = await self.read(pod, index)
        await set_up_worker(pod.netns.path, network, [vm.address], host_netns=self.worker.path)
        received = PodNetwork.model_validate_json(network.model_dump_json())
        await set_up_pod(received, podns=vm.pod.path, host_netns=vm.host.path, timeout=PATIENCE)
        return network


@pytest.fixture
def world(netlab: "Netlab") -> World:
    return World(netlab)


# Traffic


async def ping(source: "LabNamespace", address: str, *, size: int = 56) -> None:
    """ICMP echo with `size` bytes of data, which must come back."""
    data = os.urandom(size)
    request = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1) + data
    request = request[:2] + struct.pack(">H", _checksum(request)) + request[4:]
    loop = asyncio.get_running_loop()
    with source.open_socket(socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP) as icmp:
        await loop.sock_sendto(icmp, request, (address, 0))
        async with asyncio.timeout(PATIENCE):
            while True:
                packet = await loop.sock_recv(icmp, 65536)
                if packet[20] == 0 and packet[28:] == data:
                    return


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


@asynccontextmanager
async def web_server(
    namespace: "LabNamespace", address: str, body: bytes
) -> AsyncIterator[tuple[int, list[str]]]:
    """An HTTP server; gives its port, and the list of its clients' addresses as it grows."""
    clients: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        clients.append(writer.get_extra_info("peername")[0])
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listening = namespace.listen(address)
    server = await asyncio.start_server(answer, sock=listening)
    async with server:
        yield listening.getsockname()[1], clients


async def fetch(source: "LabNamespace", address: str, port: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        client = source.open_socket(socket.SOCK_STREAM)
        await asyncio.get_running_loop().sock_connect(client, (address, port))
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.0 200 OK"
    return body


# What is there


def leftovers(*namespaces: "LabNamespace") -> dict[str, Any]:
    """Everything in the namespaces that an end of a tunnel consists of; {} if there is nothing."""
    found: dict[str, Any] = {}
    for namespace in namespaces:
        found[f"{namespace.name} devices"] = [
            link["ifname"]
            for link in namespace.show("link show")
            if link.get("linkinfo", {}).get("info_kind") == "vxlan"
        ]
        # No filter without its qdisc.
        qdiscs = [qdisc["dev"] for qdisc in namespace.show_tc("qdisc show") if qdisc["kind"] == "ingress"]
        found[f"{namespace.name} qdiscs"] = qdiscs
        found[f"{namespace.name} filters"] = [
            entry for device in qdiscs for entry in namespace.show_tc(f"filter show dev {device} ingress")
        ]
        found[f"{namespace.name} tables"] = nft_tables(namespace)
    return {what: there for what, there in found.items() if there}


def nft_tables(namespace: "LabNamespace") -> list[str]:
    return [
        str(table.get_attr("NFTA_TABLE_NAME")) for table in _nft(namespace, NFT_MSG_GETTABLE, nft_table_msg())
    ]


def nft_chains(namespace: "LabNamespace") -> set[str]:
    return {chain.get_attr("NFTA_CHAIN_NAME") for chain in _nft(namespace, NFT_MSG_GETCHAIN, nft_chain_msg())}


def nft_exempted(namespace: "LabNamespace") -> list[int]:
    """The VNIs in the map of the table `caa`, if there is one."""
    request = nft_set_elem_list_msg()
    request["attrs"] = [("NFTA_SET_ELEM_LIST_TABLE", "caa"), ("NFTA_SET_ELEM_LIST_SET", "tunnels")]
    return sorted(
        int.from_bytes(element.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE"), "big")
        for answer in _nft(namespace, NFT_MSG_GETSETELEM, request)
        for element in answer.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS") or []
    )


def _nft(namespace: "LabNamespace", kind: int, request: Any) -> list[Any]:
    """A dump of nf_tables, asked for and read without caa's code."""
    request["header"]["type"] = 10 << 8 | kind
    request["header"]["flags"] = 0x301
    request["nfgen_family"] = socket.AF_INET
    request.encode()
    answers: list[Any] = []
    with namespace.open_socket(socket.SOCK_RAW, family=socket.AF_NETLINK, protocol=12) as nft:
        nft.send(bytes(request.data))
        while True:
            received = nft.recv(65536)
            offset = 0
            while offset < len(received):
                length, answer_kind = struct.unpack_from("=IH", received, offset)
                if answer_kind in (2, 3):
                    return answers
                answer = type(request)(received[offset : offset + length])
                answer.decode()
                answers.append(answer)
                offset += (length + 3) & ~3


# Trouble


class Trouble:
    """Lets the n-th exchange with the kernel happen, and then hit a snag.

    With `gate`, the thread waits there until the gate is opened; otherwise the exchange fails.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, *, gate: bool = False) -> None:
        self.happened = threading.Event()
        self._gate = threading.Event() if gate else None
        self._left = at
        self._lock = threading.Lock()
        exchange: Callable[[Netlink, bytes, str], list[Message]] = Netlink.exchange
        trouble = self

        def troubled(self: Netlink, request: bytes, doing: str) -> list[Message]:
            answers = exchange(self, request, doing)
            trouble.strike(doing)
            return answers

        monkeypatch.setattr(Netlink, "exchange", troubled)

    def strike(self, doing: str) -> None:
        with self._lock:
            self._left -= 1
            hit = self._left == 0
        if not hit:
            return
        self.happened.set()
        if self._gate is None:
            raise NetlinkError(f"{doing}, in trouble", 5)
        assert self._gate.wait(PATIENCE)

    def open_gate(self) -> None:
        assert self._gate is not None
        self._gate.set()
