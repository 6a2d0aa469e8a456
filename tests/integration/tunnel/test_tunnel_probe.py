"""What `caa check` tries of the kernel, in namespaces that nobody sees."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from caa.errors import FailedPreconditionError
from caa.tunnel import NetlinkError, free_vnis, probe_kernel, worker_address
from caa.tunnel.netns import Namespace

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[str]:
    """A namespace that plays the node's; this process's own must not be changed."""
    name = f"probe-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            "link add eth0 type veth peer name peer0",
            "addr add 10.9.0.4/24 dev eth0",
            "link set eth0 up",
            "link set peer0 up",
            "route add default via 10.9.0.1",
        ):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_this_kernel_has_it_all() -> None:
    features = probe_kernel()
    assert [feature.name for feature in features] == [
        "network namespaces",
        "VXLAN devices",
        "redirection of packets",
        "nf_tables",
    ]
    assert not [feature for feature in features if feature.refusal]


def test_nothing_is_left() -> None:
    def namespaces() -> list[str]:
        """That this process holds open; the folder's own descriptor is gone when it is looked at."""
        targets = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if os.path.lexists(each)]
        return [target for target in targets if target.startswith("net:")]

    before = namespaces()
    probe_kernel()
    free_vnis(range(100, 103), 4790)
    assert namespaces() == before


def test_vnis_that_are_taken(host: str) -> None:
    device = "link add vx7 type vxlan id 7 remote 10.9.0.9 dstport 4790"
    subprocess.run(["ip", "-n", host, *device.split()], check=True)
    with Namespace.open(f"/run/netns/{host}") as node:
        assert node.run(lambda: free_vnis([6, 7, 8], 4790)) == [6, 8]


def test_a_port_that_a_program_has(host: str) -> None:
    with Namespace.open(f"/run/netns/{host}") as node:
        taken = node.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with taken:
            taken.bind(("0.0.0.0", 4790))
            with pytest.raises(NetlinkError, match="Address already in use"):
                node.run(lambda: free_vnis([6], 4790))


def test_the_interface(host: str) -> None:
    with Namespace.open(f"/run/netns/{host}") as node:
        assert [str(each) for each in node.run(lambda: worker_address(""))] == ["eth0", "10.9.0.4"]
        with pytest.raises(FailedPreconditionError, match="check --host-interface"):
            node.run(lambda: worker_address("eth7"))
