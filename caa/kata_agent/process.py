"""One process of a container."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from caa.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from caa.kata_agent.pipes import InputPipe, OutputPipe
from caa.kata_agent.procfs import Usage
from caa.proto import agent_pb2

_DRAIN = 0.5
"""Seconds after a process's end in which more of its output is waited for, as the real agent does. Another
process may hold the pipe open for ever."""


class Process:
    """From its creation, when its pipes are there, past its end, when its status is.

    It has a session of its own, so that a signal meant for the agent's session does not reach it.
    """

    def __init__(self, spec: agent_pb2.Process, netns: str, mark: str) -> None:
        """`netns` is the path of a network namespace, or "" for the agent's own; `mark` goes into the
        environment. Raises InvalidArgumentError for what can't be run.
        """
        if spec.Terminal:
            raise InvalidArgumentError("this agent has no terminals: set Terminal (tty) to false")
        self._cwd = spec.Cwd or "/"
        self._env = dict(word.partition("=")[::2] for word in (*spec.Env, mark))
        self._command = _command(spec.Args, self._cwd, self._env, netns)
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waited = False
        self.pid = 0
        """0 before the start."""
        self.used = Usage()
        """CPU time of it and the children that it waited for, once it has ended."""
        self.stdin, self.stdout, self.stderr = InputPipe(), OutputPipe(), OutputPipe()

    @property
    def running(self) -> bool:
        return self.pid != 0 and not self._exited.done()

    @property
    def settled(self) -> bool:
        """It has ended and nobody will ask again: it was waited for, and its output read to the end."""
        return self._waited and self.stdout.closed and self.stderr.closed

    def start(self, at_end: Callable[[], object] = bool) -> None:
        """`at_end` is called when it has ended, before it is reaped, while its pid still is its own.

        Raises FailedPreconditionError if it was started before, InvalidArgumentError if it can't be.
        """
        if self.pid or self._exited.done():
            raise FailedPreconditionError("the process has been started before")
        try:
            child = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._env,
                stdin=self.stdin.child_end,
                stdout=self.stdout.child_end,
                stderr=self.stderr.child_end,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(f"can't run a process in {self._cwd!r}: {error}") from error
        self.pid = child.pid
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close_child_end()
        # A pidfd works in any event loop, whatever it does with SIGCHLD.
        handle = os.pidfd_open(child.pid)
        asyncio.get_running_loop().add_reader(handle, self._end, child, handle, at_end)

    def _end(self, child: subprocess.Popen[bytes], handle: int, at_end: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(handle)
        os.close(handle)
        try:
            at_end()
        finally:
            _pid, status, resources = os.wait4(child.pid, 0)
            child.returncode = code = os.waitstatus_to_exitcode(status)
            self.used = Usage(int(resources.ru_utime * 1e9), int(resources.ru_stime * 1e9))
            self.stdin.close()
            for pipe in (self.stdout, self.stderr):
                loop.call_later(_DRAIN, pipe.expect_no_more)
            self._exited.set_result(code if code >= 0 else 128 - code)

    def signal(self, number: int) -> None:
        """To this process alone; that it has ended is no error.

        Raises FailedPreconditionError before its start, OSError for what is no signal.
        """
        if not self.pid:
            raise FailedPreconditionError("the process has not been started")
        if self.running:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Its exit status, or 128 + the signal that ended it."""
        status = await asyncio.shield(self._exited)
        self._waited = True
        return status

    def discard(self) -> None:
        """Close its pipes. One that was never started counts as killed."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close()
        if not self.pid and not self._exited.done():
            self._exited.set_result(128 + signal.SIGKILL)


def _command(args: Sequence[str], cwd: str, env: Mapping[str, str], netns: str) -> Sequence[str]:
    if not args:
        raise InvalidArgumentError("the process has no arguments, not even its program's name")
    program = str(Path(cwd, args[0])) if "/" in args[0] else args[0]
    if shutil.which(program, path=env.get("PATH", os.defpath)) is None:
        raise InvalidArgumentError(
            f"{args[0]!r} is not a program of this VM: containers have no image here, and run what the VM has"
        )
    if not netns:
        return args
    # Entered by a program of its own, after the fork and exec: Python code between the two is not safe in a
    # process with threads. It costs a fraction of a millisecond.
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        raise InternalError("nsenter (of util-linux) is not installed in this VM")
    return [nsenter, f"--net={netns}", "--", *args]
