"""Namespaces and sockets in them: a netlink socket must work in its namespace whichever thread uses it."""

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caa.errors import InternalError, NotFoundError, PermissionDeniedError
from caa.tunnel.netlink import NetlinkError
from caa.tunnel.netns import Namespace
from caa.tunnel.rtnetlink import Rtnetlink, Vxlan

if TYPE_CHECKING:
    from tests.integration.conftest import Netlab

pytestmark = pytest.mark.root

SIOCGSKNS = 0x894C


def test_netlink_socket_works_in_its_namespace_from_any_thread(netlab: "Netlab") -> None:
    here, there = netlab.namespace("here"), netlab.namespace("there")
    for index, place in enumerate((here, there)):
        netlab.bridge(place, f"mark{index}")
    with (
        Namespace.open(here.path) as one,
        Namespace.open(there.path) as two,
        Rtnetlink(one) as in_one,
        Rtnetlink(two) as in_two,
        ThreadPoolExecutor(1) as pool,
    ):
        for netlink, other, expected in ((in_one, there, "mark0"), (in_two, here, "mark1")):
            # In this thread, in another in neither namespace, and in one in the wrong namespace.
            assert names(netlink) == ["lo", expected]
            assert pool.submit(names, netlink).result() == ["lo", expected]
            assert other.run(partial(names, netlink)) == ["lo", expected]


def names(netlink: Rtnetlink) -> list[str]:
    return [link.name for link in netlink.links()]


def test_kernel_confirms_the_sockets_namespace(netlab: "Netlab") -> None:
    place = netlab.namespace("place")
    with Namespace.open(place.path) as namespace, namespace.open_netlink(socket.NETLINK_ROUTE) as opened:
        of_socket = fcntl.ioctl(opened, SIOCGSKNS)
        try:
            assert os.path.samestat(os.fstat(of_socket), Path(place.path).stat())
            assert not os.path.samestat(os.fstat(of_socket), Path("/proc/thread-self/ns/net").stat())
        finally:
            os.close(of_socket)


def test_callers_thread_stays_where_it_is(netlab: "Netlab") -> None:
    place = netlab.namespace("place")
    own = Path("/proc/thread-self/ns/net")
    before = own.stat().st_ino
    with Namespace.open(place.path) as namespace:
        assert namespace.run(lambda: own.stat().st_ino) == Path(place.path).stat().st_ino
    assert own.stat().st_ino == before


def test_no_descriptor_is_left(netlab: "Netlab") -> None:
    place = netlab.namespace("place")

    def use() -> None:
        with Namespace.open(place.path) as namespace, Rtnetlink(namespace) as netlink:
            netlink.links()
            with pytest.raises(NetlinkError):
                netlink.add_vxlan(
                    "too-long-a-name-for-it", Vxlan(1, IPv4Address("10.0.0.1"), 1), inside=namespace
                )
        with pytest.raises(NotFoundError):
            Namespace.open("/etc/passwd")

    use()
    before = len(list(Path("/proc/self/fd").iterdir()))
    use()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_works_where_uvloop_makes_the_event_loops(netlab: "Netlab") -> None:
    """A new process, as a policy is for the whole of one."""
    place = netlab.namespace("place")
    program = f"""
import asyncio, uvloop
from caa.tunnel.rtnetlink import Rtnetlink
from caa.tunnel.netns import Namespace
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
def names():
    with Namespace.open({place.path!r}) as namespace, Rtnetlink(namespace) as netlink:
        return [link.name for link in netlink.links()]
async def main():
    print(await asyncio.to_thread(names))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['lo']\n"


@pytest.mark.parametrize(
    "path", ["/run/netns/caat-nothing-here", "/etc/passwd/x", "/etc/passwd", "/proc/self/ns/mnt", "/run"]
)
def test_what_is_no_network_namespace_is_not_found(path: str) -> None:
    with pytest.raises(NotFoundError, match="no network namespace at"):
        Namespace.open(path)


def test_fifo_does_not_hold_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotFoundError):
        Namespace.open(str(tmp_path / "fifo"))


def test_path_that_can_not_be_opened_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teardown that runs out of descriptors must fail and not think that there is nothing to do."""

    def full(path: str, flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("caa.tunnel.netns.os.open", full)
    with pytest.raises(InternalError, match="Too many open files"):
        Namespace.open("/run/netns/x")


def test_created_namespace_is_like_one_of_ip_netns(netlab: "Netlab") -> None:
    place = netlab.namespace("place")
    place.delete()
    with Namespace.open_or_create(place.path) as made, Namespace.open_or_create(place.path) as again:
        assert made.is_same_as(again)
        with Namespace.open(None) as ours:
            assert not made.is_same_as(ours)
    assert place.devices() == {"lo"}


def test_namespace_that_can_not_be_created() -> None:
    with pytest.raises(InternalError, match="can't make the network namespace /proc/here/x"):
        Namespace.open_or_create("/proc/here/x")


async def test_lack_of_rights_is_named(netlab: "Netlab", monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(fd: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    place = netlab.namespace("place")
    monkeypatch.setattr("caa.tunnel.netns.pyroute2_netns.setns", forbidden)
    with Namespace.open(place.path) as namespace, pytest.raises(PermissionDeniedError, match="CAP_SYS_ADMIN"):
        await asyncio.to_thread(Rtnetlink, namespace)
