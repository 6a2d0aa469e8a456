"""Both ends of a tunnel together: packets of the pod come out where they should."""

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from caa.tunnel import set_up_pod, set_up_worker, tear_down_pod, tear_down_worker
from tests.integration.tunnel.conftest import PATIENCE, fetch, leftovers, ping, web_server

if TYPE_CHECKING:
    from tests.integration.tunnel.conftest import Plugin, World

pytestmark = pytest.mark.root

ETH_P_ALL = 3


@pytest.mark.parametrize("plugin", ["flannel", "calico", "ptp"])
async def test_pod_and_worker_reach_each_other(world: "World", plugin: "Plugin") -> None:
    pod, vm = world.pod(plugin), world.vm(1)
    network = await world.join(pod, vm)
    body = os.urandom(1_000_000)
    async with web_server(vm.pod, pod.address, body) as (port, clients):
        assert await fetch(world.worker, pod.address, port) == body
        assert len(clients) == 1
    async with web_server(world.worker, "0.0.0.0", body) as (port, clients):
        assert await fetch(vm.pod, pod.gateway, port) == body
        assert clients == [pod.address]
    await ping(world.worker, pod.address)
    await ping(vm.pod, pod.gateway, size=1400)
    await ping(vm.pod, pod.gateway, size=4000)
    await tear_down_worker(pod.netns.path, network, host_netns=world.worker.path)
    await tear_down_pod(network, podns=vm.pod.path, host_netns=vm.host.path)
    assert leftovers(world.worker, pod.netns, vm.host, vm.pod) == {}


@pytest.mark.parametrize("plugin", ["flannel", "calico", "ptp"])
async def test_pods_on_two_vms_reach_each_other(world: "World", plugin: "Plugin") -> None:
    pods = [world.pod(plugin), world.pod(plugin)]
    vms = [world.vm(1), world.vm(2)]
    for index, (pod, vm) in enumerate(zip(pods, vms, strict=True)):
        await world.join(pod, vm, index)
    body = os.urandom(100_000)
    for here, there in ((0, 1), (1, 0)):
        async with web_server(vms[there].pod, pods[there].address, body) as (port, clients):
            assert await fetch(vms[here].pod, pods[there].address, port) == body
            assert clients == [pods[here].address]
        await ping(vms[here].pod, pods[there].address)


@pytest.mark.parametrize("plugin", ["flannel", "calico", "ptp"])
async def test_pod_vm_has_what_the_plugin_has_made(world: "World", plugin: "Plugin") -> None:
    pod, vm = world.pod(plugin), world.vm(1)
    plugins_own = [
        (r["dst"], r.get("gateway"), r["dev"], r["protocol"], r["scope"])
        for r in pod.netns.show("route show")
    ]
    await world.join(pod, vm)
    assert [
        (r["dst"], r.get("gateway"), r["dev"], r["protocol"], r["scope"]) for r in vm.pod.show("route show")
    ] == plugins_own
    for what in ("addr show dev eth0", "neigh show nud permanent"):
        (theirs, ours) = (ns.show(what) for ns in (pod.netns, vm.pod))
        if what.startswith("addr"):
            ((their_link,), (our_link,)) = (theirs, ours)
            assert our_link["address"] == their_link["address"]
            assert our_link["mtu"] == 1450
            theirs, ours = (
                [a for a in link["addr_info"] if a["family"] == "inet"] for link in (their_link, our_link)
            )
            assert [(a["local"], a["prefixlen"]) for a in ours] == [
                (a["local"], a["prefixlen"]) for a in theirs
            ]
        else:
            assert ours == theirs


async def test_udp_of_every_size_comes_back(world: "World") -> None:
    pod, vm = world.pod(), world.vm(1)
    await world.join(pod, vm)
    loop = asyncio.get_running_loop()
    with (
        vm.pod.open_socket(socket.SOCK_DGRAM) as server,
        world.worker.open_socket(socket.SOCK_DGRAM) as client,
    ):
        server.bind((pod.address, 7))
        for size in (0, 1, 1422, 1423, 1472, 1473, 8972, 65507):
            sent = os.urandom(size)
            async with asyncio.timeout(PATIENCE):
                await loop.sock_sendto(client, sent, (pod.address, 7))
                data, back = await loop.sock_recvfrom(server, 65536)
                await loop.sock_sendto(server, data, back)
                assert await loop.sock_recv(client, 65536) == sent


async def test_fifty_tunnels_at_once(world: "World") -> None:
    count = 50
    pods = [world.pod() for _ in range(count)]
    vm = world.vm(1)
    inner = [world.lab.namespace(f"podns-{i}") for i in range(count)]
    networks = await asyncio.gather(*(world.read(pod, i) for i, pod in enumerate(pods)))
    await asyncio.gather(
        *(
            set_up_worker(pod.netns.path, network, [vm.address], host_netns=world.worker.path)
            for pod, network in zip(pods, networks, strict=True)
        ),
        *(
            set_up_pod(network, podns=podns.path, host_netns=vm.host.path, timeout=PATIENCE)
            for podns, network in zip(inner, networks, strict=True)
        ),
    )
    await asyncio.gather(*(ping(world.worker, pod.address) for pod in pods))
    await ping(inner[0], pods[-1].address)
    await asyncio.gather(
        *(
            tear_down_worker(pod.netns.path, network, host_netns=world.worker.path)
            for pod, network in zip(pods, networks, strict=True)
        ),
        *(
            tear_down_pod(network, podns=podns.path, host_netns=vm.host.path)
            for podns, network in zip(inner, networks, strict=True)
        ),
    )
    assert leftovers(world.worker, vm.host, *inner, *(pod.netns for pod in pods)) == {}


async def test_large_segments_reach_the_underlay_whole(world: "World") -> None:
    """GSO: what the pod's stack hands down in one piece passes the tunnel in one piece."""
    pod, vm = world.pod(), world.vm(1)
    await world.join(pod, vm)
    seen: dict[str, int] = {}
    body = os.urandom(8_000_000)
    for direction, underlay, server_side, client_side, address in (
        ("to the VM", world.worker, world.worker, vm.pod, pod.gateway),
        ("from the VM", vm.host, vm.pod, world.worker, pod.address),
    ):
        with underlay.open_socket(
            socket.SOCK_RAW, family=socket.AF_PACKET, protocol=socket.htons(ETH_P_ALL)
        ) as sniffer:
            sniffer.bind(("eth0", ETH_P_ALL))
            sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64_000_000)
            async with web_server(server_side, address, body) as (port, _):
                assert await fetch(client_side, address, port) == body
            largest = 0
            while True:
                try:
                    frame, (_, _, kind, _, _) = sniffer.recvfrom(70000)
                except BlockingIOError:
                    break
                if kind == socket.PACKET_OUTGOING:
                    largest = max(largest, len(frame))
        seen[direction] = largest
    assert min(seen.values()) > 60_000, seen
