"""The exemption from connection tracking, as the kernel applies it."""

import asyncio
import random
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caa.tunnel import firewall, set_up_worker, tear_down_worker
from caa.tunnel.netlink import Netlink
from caa.tunnel.netns import Namespace
from tests.integration.tunnel.conftest import FIRST_VNI, PORT, nft_chains, nft_exempted, nft_tables, ping

if TYPE_CHECKING:
    from tests.integration.conftest import LabNamespace, Netlab
    from tests.integration.tunnel.conftest import World

pytestmark = pytest.mark.root

REMOTE = IPv4Address("10.10.1.1")


def track_connections(namespace: "LabNamespace") -> None:
    """A rule that looks at a connection's state makes the kernel track this namespace's connections."""
    rule = firewall._expression("ct", firewall._number(1, 1) + firewall._number(2, 0))
    batch = b"".join(
        (
            firewall._message(0, 0x400, firewall._string(1, "other")),
            firewall._message(
                3,
                0x400,
                firewall._string(1, "other")
                + firewall._string(3, "in")
                + firewall._nested(4, firewall._number(1, 1) + firewall._number(2, 0))
                + firewall._string(7, "filter"),
            ),
            firewall._message(
                6,
                0xC00,
                firewall._string(1, "other")
                + firewall._string(2, "in")
                + firewall._nested(4, firewall._nested(1, rule)),
            ),
        )
    )
    with Namespace.open(namespace.path) as opened, Netlink(opened, 12) as netlink:
        netlink.exchange(firewall._batch(batch), "tracking connections")


def tracked(namespace: "LabNamespace") -> list[str]:
    """The tracked flows of tunnels."""
    listed = namespace.run(Path("/proc/thread-self/net/nf_conntrack").read_text)
    return [line for line in listed.splitlines() if f"dport={PORT} " in line]


async def test_the_tunnels_flow_is_not_tracked_either_way(world: "World") -> None:
    pod, vm = world.pod(), world.vm(1)
    for namespace in (world.worker, vm.host):
        track_connections(namespace)
    await world.join(pod, vm)
    # The worker's end comes up first, and its first packets (IPv6's) reach a VM that has no tunnel yet.
    flush_tracked(vm.host)
    await ping(world.worker, pod.address)
    await ping(vm.pod, pod.gateway)
    assert tracked(world.worker) == []
    assert tracked(vm.host) == []

    # With the exemptions gone the same packets are tracked, so that the above says something.
    for namespace in (world.worker, vm.host):
        with Namespace.open(namespace.path) as opened:
            firewall.restore(opened, vni=FIRST_VNI)
    await ping(world.worker, pod.address)
    assert tracked(world.worker) != []
    assert tracked(vm.host) != []


async def test_other_flows_are_tracked(world: "World") -> None:
    """Exempt is what has this VNI, this remote and this port; not another tunnel, say a CNI plugin's."""
    pod, vm = world.pod(), world.vm(1)
    track_connections(world.worker)
    network = await world.join(pod, vm)
    with Namespace.open(world.worker.path) as host:
        for other in (
            {"vni": FIRST_VNI + 1, "remote": vm.address, "port": PORT},
            {"vni": FIRST_VNI, "remote": REMOTE + 1, "port": PORT},
            {"vni": FIRST_VNI, "remote": vm.address, "port": PORT + 1},
        ):
            firewall.restore(host, vni=FIRST_VNI)
            firewall.exempt(host, **other)  # type: ignore[arg-type]  # three keywords of two types
            await ping(world.worker, pod.address)
            assert tracked(world.worker) != []
            firewall.restore(host, vni=other["vni"])  # type: ignore[arg-type]  # as above
            await tear_down_worker(pod.netns.path, network, host_netns=world.worker.path)
            flush_tracked(world.worker)
            await set_up_worker(pod.netns.path, network, [vm.address], host_netns=world.worker.path)


def flush_tracked(namespace: "LabNamespace") -> None:
    """Forget all flows: ctnetlink's DELETE without attributes."""
    with Namespace.open(namespace.path) as opened, Netlink(opened, 12) as netlink:
        message = bytearray(firewall._message(2, 0, b""))
        message[4:6] = (1 << 8 | 2).to_bytes(2, "little")
        message[16] = 0
        netlink.exchange(bytes(message), "forgetting the tracked flows")


def test_table_holds_what_its_tunnels_need_and_goes_with_the_last(netlab: "Netlab") -> None:
    host = netlab.namespace("host")
    shared = {"untracked", "output", "prerouting"}
    with Namespace.open(host.path) as namespace:
        firewall.restore(namespace, vni=1)
        for vni in (1, 2, 3):
            for _ in range(2):
                firewall.exempt(namespace, vni=vni, remote=REMOTE, port=PORT)
        assert nft_tables(host) == ["caa"]
        assert nft_exempted(host) == [1, 2, 3]
        assert nft_chains(host) == shared | {"vni-1", "vni-2", "vni-3"}
        firewall.exempt(namespace, vni=2, remote=REMOTE + 1, port=PORT)
        firewall.restore(namespace, vni=1)
        firewall.restore(namespace, vni=1)
        assert nft_exempted(host) == [2, 3]
        assert nft_chains(host) == shared | {"vni-2", "vni-3"}
        firewall.restore(namespace, vni=2)
        firewall.restore(namespace, vni=3)
        assert nft_tables(host) == []
        firewall.restore(namespace, vni=3)


async def test_tunnels_that_come_and_go_at_once_do_not_disturb_each_other(netlab: "Netlab") -> None:
    """The table is made and removed all the time, and whoever has an exemption keeps it meanwhile."""
    host = netlab.namespace("host")
    lost: list[int] = []

    def come_and_go(vni: int) -> None:
        order = random.Random(vni)
        with Namespace.open(host.path) as namespace:
            for _ in range(order.randint(5, 15)):
                firewall.exempt(namespace, vni=vni, remote=REMOTE, port=PORT)
                if vni not in nft_exempted(host):
                    lost.append(vni)
                firewall.restore(namespace, vni=vni)

    firewall._warn.cache_clear()
    await asyncio.gather(*(asyncio.to_thread(come_and_go, vni) for vni in range(1, 7)))
    assert lost == []
    assert firewall._warn.cache_info().currsize == 0
    assert nft_tables(host) == []
