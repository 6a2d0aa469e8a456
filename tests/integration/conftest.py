"""`netlab`: network namespaces for a test, wired as it says, and gone when it ends.

It is made of iproute2's commands and of nothing of caa's, so that it can't share caa's mistakes. A test needs
`@pytest.mark.root`. Names are unique for each process that runs tests, and nothing is made outside of the
namespaces.

    def test_ping(netlab):
        left, right = netlab.namespace("left"), netlab.namespace("right")
        netlab.veth(left, "eth0", right, "eth0")
        left.ip("addr add 10.0.0.1/24 dev eth0", "link set eth0 up")
        right.ip("addr add 10.0.0.2/24 dev eth0", "link set eth0 up")
        with left.open_socket(socket.SOCK_DGRAM) as sender: ...
"""

import itertools
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pyroute2.netns import setns

T = TypeVar("T")

_numbers = itertools.count()


class LabNamespace:
    """One network namespace, with a loopback that is up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"
        _run("ip", "netns", "add", name)
        self.ip("link set lo up")

    def ip(self, *commands: str) -> None:
        """Run `ip` commands in here, all in one process: `ip("addr add 10.0.0.1/24 dev eth0", …)`."""
        _run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands))

    def show(self, command: str) -> list[dict[str, Any]]:
        """What `ip` answers as JSON, such as `show("route show table all")`."""
        return _json("ip", "-n", self.name, "-details", "-json", *command.split())

    def show_tc(self, command: str) -> list[dict[str, Any]]:
        """What `tc` answers as JSON, such as `show_tc("qdisc show")`."""
        return _json("tc", "-n", self.name, "-json", *command.split())

    def devices(self) -> set[str]:
        return {link["ifname"] for link in self.show("link show")}

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` in a thread that is in here, and wait for it. Sockets that it opens belong here for
        ever.
        """
        outcome: Future[T] = Future()

        def inside() -> None:
            try:
                setns(self.path)
                outcome.set_result(function())
            except BaseException as error:  # noqa: BLE001 - result() raises it again
                outcome.set_exception(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return outcome.result()

    def open_socket(
        self, kind: socket.SocketKind, *, family: socket.AddressFamily = socket.AF_INET, protocol: int = 0
    ) -> socket.socket:
        """A non-blocking socket that belongs here, for an event loop or to be given a timeout."""
        made = self.run(lambda: socket.socket(family, kind, protocol))
        made.setblocking(False)
        return made

    def listen(self, address: str, port: int = 0) -> socket.socket:
        """A listening TCP socket, for `asyncio.start_server(sock=…)` and the like."""
        made = self.open_socket(socket.SOCK_STREAM)
        made.bind((address, port))
        made.listen()
        return made

    def sysctl(self, name: str, value: str) -> None:
        self.run(lambda: Path("/proc/sys", name.replace(".", "/")).write_text(value))

    def delete(self) -> None:
        """What a CNI plugin or runtime does at the end of a pod. A second time is no error."""
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)


class Netlab:
    """Makes namespaces and wires them."""

    def __init__(self) -> None:
        self._namespaces: list[LabNamespace] = []

    def namespace(self, name: str) -> LabNamespace:
        """`name` is for people; a prefix makes it unique."""
        made = LabNamespace(f"caat-{os.getpid()}-{next(_numbers)}-{name}")
        self._namespaces.append(made)
        return made

    def veth(
        self, left: LabNamespace, left_name: str, right: LabNamespace, right_name: str, *, mtu: int = 1500
    ) -> None:
        """A cable between two namespaces; both ends are up."""
        left.ip(
            f"link add {left_name} mtu {mtu} type veth peer name {right_name} mtu {mtu} netns {right.name}",
            f"link set {left_name} up",
        )
        right.ip(f"link set {right_name} up")

    def bridge(self, namespace: LabNamespace, name: str, address: str = "") -> None:
        """A switch in a namespace, which itself has `address` there."""
        # Without IPv6 and multicast snooping it neither talks by itself nor waits before it forwards.
        namespace.ip(
            f"link add {name} type bridge mcast_snooping 0",
            f"link set {name} up",
            *([f"addr add {address} dev {name}"] if address else []),
        )

    def plug(
        self,
        switch: LabNamespace,
        bridge: str,
        port: str,
        namespace: LabNamespace,
        name: str,
        *,
        mtu: int = 1500,
    ) -> None:
        """A cable from `namespace`'s interface `name` to a bridge, on which its end is called `port`."""
        self.veth(switch, port, namespace, name, mtu=mtu)
        switch.ip(f"link set {port} master {bridge}")

    def close(self) -> None:
        for namespace in self._namespaces:
            namespace.delete()


@pytest.fixture
def netlab() -> Iterator[Netlab]:
    lab = Netlab()
    try:
        yield lab
    finally:
        lab.close()


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{stdin}"
    return done.stdout


def _json(*command: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(_run(*command) or "[]")
    # `ip` writes {} for what its filter left out.
    return [entry for entry in listed if entry]
