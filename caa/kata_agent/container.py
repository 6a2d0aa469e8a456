"""Containers, and the sandbox that holds them."""

import asyncio
import re
import secrets
import signal
from pathlib import Path

from caa.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from caa.kata_agent.process import Process
from caa.kata_agent.procfs import Members, Usage
from caa.polling import growing, poll
from caa.proto import agent_pb2


class Container:
    """An init process, and what was executed next to it. When the first ends, all end."""

    def __init__(self, name: str, init: agent_pb2.Process, netns: str) -> None:
        """Raises InvalidArgumentError, also for a process that can't be run."""
        self.name = name
        self._netns = netns
        self._mark = f"KATA_AGENT_CONTAINER={name}.{secrets.token_hex(8)}"
        self._execs: dict[str, Process] = {}
        self._forgotten = Usage()
        self._going = False
        self.init = Process(init, netns, self._mark)

    def start(self) -> None:
        """Raises FailedPreconditionError the second time, InvalidArgumentError for what can't be run."""
        if self._going:
            raise FailedPreconditionError(f"container {self.name} is being removed")
        self.init.start(at_end=lambda: self.signal(signal.SIGKILL))

    def execute(self, exec_id: str, spec: agent_pb2.Process) -> None:
        """Start another process in it."""
        if not self.init.running or self._going:
            raise FailedPreconditionError(f"container {self.name} is not running")
        if exec_id in ("", self.name):
            raise InvalidArgumentError(f"exec id {exec_id!r} is the init process's: give another")
        if exec_id in self._execs:
            raise AlreadyExistsError(f"container {self.name} has a process {exec_id} already")
        process = Process(spec, self._netns, self._mark)
        try:
            process.start()
        except BaseException:
            process.discard()
            raise
        self._execs[exec_id] = process

    def process(self, exec_id: str) -> Process:
        """The init process goes by the container's id (the Go shim's way) and by none (runtime-rs's)."""
        if exec_id in ("", self.name):
            return self.init
        if exec_id in self._execs:
            return self._execs[exec_id]
        raise NotFoundError(f"container {self.name} has no process {exec_id}")

    def forget_settled(self) -> None:
        """Drop processes that nobody will ask about again. The init process stays."""
        for exec_id, process in list(self._execs.items()):
            if process.settled:
                self._forgotten += process.used
                del self._execs[exec_id]

    def signal(self, number: int) -> int:
        """To every process of the container; returns to how many."""
        return self._members().signal(number)

    def usage(self) -> Usage:
        ended = (process.used for process in (self.init, *self._execs.values()))
        return sum(ended, self._members().usage() + self._forgotten)

    def _members(self) -> Members:
        processes = (self.init, *self._execs.values())
        return Members(self._mark, {process.pid for process in processes if process.running})

    async def end(self, timeout: float) -> None:
        """Kill and reap all of it. Raises DeadlineExceededError after `timeout` seconds."""
        self._going = True
        processes = (self.init, *self._execs.values())

        async def ask() -> tuple[bool | None, str]:
            # Again and again, as a process may fork while the others are being killed.
            left = self.signal(signal.SIGKILL) + sum(process.running for process in processes)
            return (None if left else True), f"{left} left"

        await poll(
            ask,
            what=f"the end of container {self.name}'s processes",
            pauses=growing(0.002, longest=0.1),
            timeout=timeout,
        )
        for process in processes:
            process.discard()


class Sandbox:
    """The pod's containers."""

    def __init__(self, podns: str) -> None:
        """`podns`: network namespace of containers that name none, a path; "" for the agent's own."""
        self._podns = podns
        self._containers: dict[str, Container] = {}
        self.ended = asyncio.Event()

    def create_container(self, name: str, spec: agent_pb2.Spec) -> None:
        # The rule that the real agent has for ids.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]+", name):
            raise InvalidArgumentError(f"container id {name!r}: allowed are letters, digits, _, - and .")
        if self.ended.is_set():
            raise FailedPreconditionError("the sandbox is being destroyed")
        if name in self._containers:
            raise AlreadyExistsError(f"container {name} exists already")
        named = [space.Path for space in spec.Linux.Namespaces if space.Type == "network" and space.Path]
        netns = named[0] if named else self._podns
        if netns and not Path(netns).exists():
            raise FailedPreconditionError(f"container {name}: there is no network namespace {netns}")
        self._containers[name] = Container(name, spec.Process, netns)

    def container(self, name: str) -> Container:
        if name not in self._containers:
            raise NotFoundError(f"there is no container {name}")
        return self._containers[name]

    async def remove_container(self, name: str, timeout: float) -> None:
        """Raises DeadlineExceededError; then the container is still there, and can be removed again."""
        await self.container(name).end(timeout)
        self._containers.pop(name, None)

    async def destroy(self, timeout: float) -> None:
        """Remove all containers. What could not be removed stays, and the first such error is raised."""
        self.ended.set()
        removals = (self.remove_container(name, timeout) for name in list(self._containers))
        for result in await asyncio.gather(*removals, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
