"""A laboratory: a VPC with one worker node in it, and ways to look into both from outside."""

import asyncio
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web

from caa.fakecloud import syscalls
from caa.fakecloud.netns import FOLDER, Namespace, apart_now
from caa.fakecloud.vpc import Vpc
from caa.polling import growing, poll

T = TypeVar("T")

PATIENCE = 60.0  # seconds; this machine may be busy

_numbers = itertools.count(1)


class Lab:
    cidr = IPv4Network("10.77.0.0/24")
    worker_address = IPv4Address("10.77.0.5")
    port = 15150
    """That a VM's forwarder listens on."""

    def __init__(self, vpc: Vpc, worker: Namespace) -> None:
        self.vpc = vpc
        self.worker = worker

    @staticmethod
    def inside(namespace: Namespace, work: Callable[[], T]) -> T:
        def entered() -> T:
            syscalls.setns(namespace.fd, syscalls.CLONE_NEWNET)
            return work()

        return apart_now(entered)

    def client(self) -> socket.socket:
        """A socket of the worker's."""
        client = self.inside(self.worker, socket.socket)
        client.setblocking(False)
        return client

    def dial(self, address: IPv4Address) -> socket.socket:
        """A connection to a forwarder that has only just begun."""
        client = self.client()
        client.connect_ex((str(address), self.port))
        return client

    async def connect(self, address: IPv4Address, port: int = port) -> socket.socket:
        """By attempts that are short, because a first SYN may vanish."""

        async def attempt() -> tuple[socket.socket | None, str]:
            client = self.client()
            try:
                async with asyncio.timeout(0.5):
                    await asyncio.get_running_loop().sock_connect(client, (str(address), port))
            except OSError as error:
                client.close()
                return None, repr(error)
            return client, ""

        return await poll(attempt, what=f"{address}:{port}", pauses=growing(0.02), timeout=PATIENCE)

    async def ask(
        self, address: IPv4Address, holds: Callable[[dict[str, Any]], bool] = lambda _seen: True
    ) -> dict[str, Any]:
        """What a program of that VM sees (vm_programs.py), once that `holds`."""

        async def ask() -> tuple[dict[str, Any] | None, str]:
            seen = await self._ask(address)
            return seen if holds(seen) else None, str(seen)

        return await poll(ask, what=f"what {address} sees", pauses=growing(0.01), timeout=PATIENCE)

    async def _ask(self, address: IPv4Address) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection(sock=await self.connect(address))
        try:
            async with asyncio.timeout(PATIENCE):
                seen: dict[str, Any] = json.loads(await reader.read())
            return seen
        finally:
            writer.close()
            await writer.wait_closed()

    def neighbor(self, address: IPv4Address) -> str:
        """The MAC by which the worker knows the address, or nothing."""

        def look() -> str:
            rows = [line.split() for line in Path("/proc/thread-self/net/arp").read_text().splitlines()]
            return next((row[3] for row in rows if row[0] == str(address) and row[2] == "0x2"), "")

        return self.inside(self.worker, look)

    def vanished(self) -> int:
        """How many packets dark ports have swallowed."""

        def count() -> int:
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
            return int(next(line for line in lines if "void:" in line).split()[10])

        return self.inside(self.vpc._namespace, count)

    def links(self, namespace: Namespace) -> set[str]:
        return {name for _index, name in self.inside(namespace, socket.if_nameindex)}

    @staticmethod
    def handshake(client: socket.socket) -> str:
        state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return {1: "established", 2: "SYN sent"}.get(state, f"TCP state {state}")

    @staticmethod
    def processes_in(name: str) -> set[int]:
        """The ids of the processes in the network namespace of that name."""
        wanted = (FOLDER / name).stat().st_ino
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "ns/net").stat().st_ino == wanted:
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not one of ours
                continue
        return found

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        async def ask() -> tuple[bool | None, str]:
            return holds() or None, "not yet"

        await poll(ask, what=what, pauses=growing(0.01, longest=0.2), timeout=PATIENCE)


@pytest.fixture
def name() -> Iterator[str]:
    """For this test's namespaces: their prefix. None may be left."""
    prefix = f"caat-{os.getpid()}-b{next(_numbers)}"
    yield prefix
    assert list(FOLDER.glob(f"{prefix}*")) == []


@pytest.fixture
async def lab(name: str) -> AsyncIterator[Lab]:
    vpc = await Vpc.create(name, Lab.cidr)
    try:
        worker = await Namespace.create(f"{name}-worker")
        try:
            await vpc.attach(worker.name, Lab.worker_address, "eth1", default_route=True)
            yield Lab(vpc, worker)
        finally:
            await worker.remove()
    finally:
        await vpc.close()


@pytest.fixture
async def metadata(lab: Lab) -> AsyncIterator[None]:
    """A metadata service whose user data names who asks."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"for {request.remote}")

    application = web.Application()
    application.router.add_get("/latest/user-data", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.SockSite(runner, lab.vpc.listen("100.100.100.200", 80)).start()
    yield
    await runner.cleanup()
