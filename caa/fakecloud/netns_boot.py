"""Plays machines as network namespaces of this computer, which boot and run a pod VM's programs."""

import asyncio
import itertools
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO

import structlog

from caa.fakecloud.boot import Interface, Machine
from caa.fakecloud.netns import Namespace
from caa.fakecloud.vpc import Vpc
from caa.fakecloud.zygote import Zygote

_CAA = (sys.executable, "-m", "caa")

PROGRAMS: Sequence[Sequence[str]] = (
    (*_CAA, "process-user-data", "provision-files"),
    (
        *_CAA,
        "kata-agent",
        "--socket",
        "/run/kata-containers/agent.sock",
        "--pod-namespace",
        "/run/netns/podns",
    ),
    (*_CAA, "agent-protocol-forwarder"),
)
"""What runs in a pod VM: the first until it succeeds, then the others, side by side."""

IMPORTS = (
    "caa.cli",
    "caa.podvm:provision_files",
    "caa.podvm:run_forwarder",
    "caa.kata_agent:run_agent",
    "uvloop",
)
"""What those programs import, as `pkgutil.resolve_name` takes it. The cloud itself uses none of it."""


class _Plugs:
    """The interfaces of one machine: eth0, eth1, … in the order in which they were plugged in."""

    def __init__(self, vpc: Vpc, netns: Namespace) -> None:
        self._vpc = vpc
        self._netns = netns
        self._dark = True
        self._ports: dict[str, tuple[Interface, str]] = {}
        self._changing = asyncio.Lock()

    async def add(self, interface: Interface) -> None:
        async with self._changing:
            name = next(name for name in map("eth{}".format, itertools.count()) if name not in self._ports)
            port = await self._vpc.plug(
                self._netns.fd,
                interface.address,
                interface.mac,
                name,
                route="default" if name == "eth0" else None,
                dark=self._dark,
                public=interface.public_address,
            )
            self._ports[name] = interface, port

    async def remove(self, interface: Interface) -> None:
        async with self._changing:
            for name, (of, port) in list(self._ports.items()):
                if of == interface:
                    await self._vpc.unplug(port)
                    del self._ports[name]

    async def remove_all(self) -> None:
        for interface, _ in list(self._ports.values()):
            await self.remove(interface)

    async def light_up(self) -> None:
        """From now on they hear what is sent to them."""
        async with self._changing:
            self._dark = False
            for _, port in self._ports.values():
                await self._vpc.light_up(port)


class NetnsBoot:
    """A `Boot` whose machines are network namespaces, `<vpc name>.<instance id>`, plugged into a `Vpc`.

    Until a machine has booted it answers ARP and nothing else. Then it gets processes: an init, and
    `programs`, which see their machine's network, processes, /run and host name. What they print goes to
    `<console_dir>/<instance id>.console`.

    Nothing outlives this object's process, even if that is killed, but names of namespaces; the next
    `Vpc` of the same name removes those.
    """

    def __init__(
        self,
        vpc: Vpc,
        console_dir: Path,
        *,
        programs: Sequence[Sequence[str]] = PROGRAMS,
        imports: Sequence[str] = IMPORTS,
    ) -> None:
        self._vpc = vpc
        self._console_dir = console_dir
        self._programs = programs
        self._imports = imports
        self._machines: dict[str, asyncio.Task[None]] = {}
        self._plugs: dict[str, _Plugs] = {}
        self._zygote: Zygote | None = None
        self._log = structlog.get_logger(__name__)

    async def start(self, machine: Machine) -> None:
        name = machine.instance_id
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):  # it becomes part of names and paths
            raise ValueError(f"instance id {name!r}: allowed are 1 to 64 letters, digits, _ and -")
        if name in self._machines:
            raise ValueError(f"instance {name} is powered on already")
        if self._zygote is None:
            self._zygote = Zygote(self._imports)  # now, so that it imports while the machine boots
        plugged = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._run(machine, self._zygote, plugged), name=f"machine {name}")
        self._machines[name] = task
        try:
            await asyncio.wait([plugged, task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop(name)
            raise
        if not plugged.done():
            self._forget(name, task)
            if task.cancelled():
                raise RuntimeError(f"instance {name} was powered off before it was in the VPC")
            task.result()

    async def _run(self, machine: Machine, zygote: Zygote, plugged: asyncio.Future[None]) -> None:
        """From power on until the guest ends, or until cancelled, which is power off."""
        console = self._console_dir / f"{machine.instance_id}.console"
        try:
            async with AsyncExitStack() as undo:
                netns = await Namespace.create(f"{self._vpc.name}.{machine.instance_id}")
                undo.push_async_callback(netns.remove)
                plugs = _Plugs(self._vpc, netns)
                undo.push_async_callback(plugs.remove_all)
                for interface in machine.interfaces:
                    await plugs.add(interface)
                self._plugs[machine.instance_id] = plugs
                undo.callback(self._plugs.pop, machine.instance_id)
                plugged.set_result(None)

                await asyncio.sleep(machine.boot_seconds)
                await plugs.light_up()
                with _open_console(console) as output:
                    guest = await zygote.fork(machine.name, self._programs, netns.fd, output.fileno())
                undo.push_async_callback(guest.kill)
                await guest.wait()
                self._log.warning(
                    "pod VM ended by itself", instance_id=machine.instance_id, console=str(console)
                )
        except Exception:
            if not plugged.done():
                raise  # from `start`
            self._log.exception("pod VM failed", instance_id=machine.instance_id, console=str(console))

    async def stop(self, instance_id: str) -> None:
        task = self._machines.get(instance_id)
        if task is None:
            return
        if not task.cancelling():  # once: a second time would cut its cleaning up short
            task.cancel()
        await asyncio.wait([task])
        self._forget(instance_id, task)

    async def plug(self, instance_id: str, interface: Interface) -> None:
        plugs = self._plugs.get(instance_id)
        if plugs:
            await plugs.add(interface)

    async def unplug(self, instance_id: str, interface: Interface) -> None:
        plugs = self._plugs.get(instance_id)
        if plugs:
            await plugs.remove(interface)

    def _forget(self, instance_id: str, task: asyncio.Task[None]) -> None:
        if self._machines.get(instance_id) is task:  # and not one that was started since
            del self._machines[instance_id]

    async def close(self) -> None:
        await asyncio.gather(*(self.stop(instance_id) for instance_id in list(self._machines)))
        zygote, self._zygote = self._zygote, None
        if zygote:
            await zygote.close()


def _open_console(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb", buffering=0)
