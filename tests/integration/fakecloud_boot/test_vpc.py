"""The local cloud's VPC, seen from the namespaces that are plugged into it."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caa.fakecloud.netns import FOLDER, Namespace, discard
from caa.fakecloud.vpc import Vpc

if TYPE_CHECKING:
    from tests.integration.fakecloud_boot.conftest import Lab

pytestmark = pytest.mark.root

CIDR = IPv4Network("10.77.0.0/24")
MACHINE = IPv4Address("10.77.0.20")
MAC = "00:16:3e:00:00:20"


@pytest.fixture
async def machine(name: str) -> AsyncIterator[Namespace]:
    namespace = await Namespace.create(f"{name}-machine")
    yield namespace
    await namespace.remove()


@pytest.fixture
async def other(name: str) -> AsyncIterator[Namespace]:
    namespace = await Namespace.create(f"{name}-other")
    yield namespace
    await namespace.remove()


def _listen(lab: "Lab", namespace: Namespace) -> socket.socket:
    return lab.inside(namespace, lambda: socket.create_server(("0.0.0.0", lab.port)))


async def test_worker_and_machine_reach_each_other(lab: "Lab", machine: Namespace) -> None:
    await lab.vpc.plug(machine.fd, MACHINE, MAC)
    with _listen(lab, machine) as server, await lab.connect(MACHINE) as client:
        connection, (peer, _port) = server.accept()
        connection.close()
        assert peer == str(lab.worker_address)
        assert client.getpeername()[0] == str(MACHINE)
    assert lab.neighbor(MACHINE) == MAC, "they are neighbours: nobody routes between them"


@pytest.mark.parametrize("default_route", [True, False])
async def test_listeners_see_who_asks(lab: "Lab", machine: Namespace, *, default_route: bool) -> None:
    await lab.vpc.attach(machine.name, MACHINE, "eth7", default_route=default_route)
    for address in ("100.100.100.200", str(lab.vpc.gateway)):
        with lab.vpc.listen(address, 80) as server:
            lab.inside(machine, lambda to=address: socket.create_connection((to, 80), 30).close())  # type: ignore[misc]  # a default to bind early
            connection, (peer, _port) = server.accept()
            connection.close()
            assert peer == str(MACHINE)


async def test_gateway_is_the_third_last_address(lab: "Lab") -> None:
    assert str(lab.vpc.gateway) == "10.77.0.253"


async def test_syn_to_a_dark_port_vanishes_while_arp_is_answered(lab: "Lab", machine: Namespace) -> None:
    port = await lab.vpc.plug(machine.fd, MACHINE, MAC, dark=True)
    with _listen(lab, machine) as server, lab.dial(MACHINE) as early:
        await lab.until("the SYN to be swallowed", lambda: lab.vanished() > 0)
        assert lab.neighbor(MACHINE) == MAC
        assert lab.handshake(early) == "SYN sent"

        await lab.vpc.light_up(port)
        with await lab.connect(MACHINE):
            server.accept()[0].close()
        await lab.until("the kernel's next SYN to get through", lambda: lab.handshake(early) == "established")
        server.accept()[0].close()


async def test_dark_port_lets_nothing_through_but_arp(lab: "Lab", machine: Namespace) -> None:
    await lab.vpc.plug(machine.fd, MACHINE, MAC, dark=True)
    assert lab.inside(machine, lambda: Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").read_text()) == "1\n"
    before = lab.vanished()
    with lab.inside(lab.worker, lambda: socket.socket(type=socket.SOCK_DGRAM)) as udp:
        udp.connect((str(MACHINE), 7))
        udp.send(b"anybody?")
        await lab.until("the datagram to be swallowed", lambda: lab.vanished() > before)
        assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "no ICMP came back"


async def test_address_of_a_machine_that_is_gone_is_known_anew(
    lab: "Lab", machine: Namespace, other: Namespace
) -> None:
    port = await lab.vpc.plug(machine.fd, MACHINE, MAC)
    with _listen(lab, machine), await lab.connect(MACHINE):
        assert lab.neighbor(MACHINE) == MAC
    await lab.vpc.unplug(port)
    await lab.vpc.plug(other.fd, MACHINE, "00:16:3e:00:00:21")
    assert lab.neighbor(MACHINE) == "00:16:3e:00:00:21"


async def test_unplugged_interface_is_gone_on_both_sides(lab: "Lab", machine: Namespace) -> None:
    port = await lab.vpc.plug(machine.fd, MACHINE, MAC)
    assert lab.links(machine) == {"lo", "eth0"}
    assert port in lab.links(lab.vpc._namespace)
    await lab.vpc.unplug(port)
    await lab.vpc.unplug(port)
    assert lab.links(machine) == {"lo"}
    assert port not in lab.links(lab.vpc._namespace)


async def test_failed_plug_leaves_nothing(lab: "Lab", machine: Namespace) -> None:
    before = lab.links(lab.vpc._namespace)
    await lab.vpc.plug(machine.fd, MACHINE, MAC)
    with pytest.raises(Exception, match="File exists"):
        await lab.vpc.plug(machine.fd, MACHINE + 1, MAC)  # eth0 is taken
    with pytest.raises(Exception, match="Network is unreachable"):  # the gateway; by then the pair is made
        await lab.vpc.plug(machine.fd, IPv4Address("10.88.0.1"), MAC, "eth1")
    assert lab.links(machine) == {"lo", "eth0"}
    assert len(lab.links(lab.vpc._namespace)) == len(before) + 1


async def test_cancelled_plug_leaves_nothing(lab: "Lab", machine: Namespace) -> None:
    before = lab.links(lab.vpc._namespace)
    cancelled = 0
    for tenths in range(0, 120, 3):
        plug = asyncio.create_task(lab.vpc.plug(machine.fd, MACHINE, MAC, dark=True))
        await asyncio.sleep(tenths / 10_000)  # no rendezvous: any moment will do
        plug.cancel()
        await asyncio.wait([plug])
        if plug.cancelled():
            cancelled += 1
        else:
            await lab.vpc.unplug(plug.result())
        assert lab.links(machine) == {"lo"}
        assert lab.links(lab.vpc._namespace) == before
    assert cancelled


async def test_cancelled_create_leaves_nothing(name: str) -> None:
    cancelled = 0
    for tenths in range(0, 120, 3):
        create = asyncio.create_task(Vpc.create(name, CIDR))
        await asyncio.sleep(tenths / 10_000)  # as above
        create.cancel()
        await asyncio.wait([create])
        if create.cancelled():
            cancelled += 1
        else:
            await create.result().close()
        assert list(FOLDER.glob(f"{name}*")) == []
    assert cancelled


async def test_close_takes_the_workers_interfaces_even_while_someone_listens(
    lab: "Lab", machine: Namespace
) -> None:
    await lab.vpc.attach(machine.name, MACHINE, "eth1", default_route=True)
    with lab.vpc.listen(str(lab.vpc.gateway), 80):
        await lab.vpc.close()
        await lab.vpc.close()
        assert lab.links(machine) == {"lo"}
        assert not (FOLDER / lab.vpc.name).exists()


async def test_name_in_use_is_refused(lab: "Lab") -> None:
    with pytest.raises(FileExistsError, match="runs already"):
        await Vpc.create(lab.vpc.name, CIDR)
    assert "vpc0" in lab.links(lab.vpc._namespace)


@pytest.mark.parametrize("bad", ["", "a.b", "a/b", "..", "x" * 65])
def test_names_that_could_be_taken_for_another_clouds_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="VPC name"):
        Vpc(bad, CIDR)


def test_network_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="/29"):
        Vpc("caat", IPv4Network("10.0.0.0/30"))


KILLED = """
import asyncio, sys
from ipaddress import IPv4Address, IPv4Network
from caa.fakecloud.netns import Namespace
from caa.fakecloud.vpc import Vpc

async def main(name, worker):
    vpc = await Vpc.create(name, IPv4Network("10.77.0.0/24"))
    await vpc.attach(worker, IPv4Address("10.77.0.9"), "eth1", default_route=True)
    await Namespace.create(f"{name}.i-1")
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_next_vpc_of_the_name_removes_what_a_killed_one_left_and_nothing_else(
    lab: "Lab", name: str, machine: Namespace
) -> None:
    killed = f"{name}-killed"
    bystander = await Namespace.create(f"{killed}2")  # the name of another cloud
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, killed, machine.name], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        assert "eth1" in lab.links(machine)
        with pytest.raises(FileExistsError, match="runs already"):
            await Vpc.create(killed, CIDR)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (FOLDER / killed).exists()

        again = await Vpc.create(killed, CIDR)
        try:
            assert "eth1" not in lab.links(machine)
            await again.attach(machine.name, MACHINE, "eth1", default_route=True)
            assert {path.name for path in FOLDER.glob(f"{killed}*")} == {killed, bystander.name}
        finally:
            await again.close()
    finally:
        process.kill()
        process.communicate()
        await bystander.remove()
        for path in FOLDER.glob(f"{killed}*"):
            discard(path.name)
