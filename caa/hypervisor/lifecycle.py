"""The life of every sandbox of this node: the side effects between the states of `caa.sandbox`.

Each create, start and take-down is a task that the lifecycle owns; an RPC only waits for it. A caller
that goes away cancels its create or start, which then undoes itself. A take-down can't be cancelled: it
goes on until nothing is left, in the background if need be, and after a restart if even that was cut off.
"""

import asyncio
import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import structlog

from caa.agent_proxy import AgentProxy
from caa.errors import (
    AbortedError,
    AlreadyExistsError,
    CaaError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from caa.hypervisor.annotations import PodRequest
from caa.hypervisor.peer_pods import PeerPods
from caa.hypervisor.podvm_files import PodVmFiles
from caa.polling import growing
from caa.providers import SANDBOX, Holding, Keep, Provider, VmOrder
from caa.sandbox import RECOVERY, Debt, Event, Journal, Recovery, Sandbox, State, Step
from caa.tunnel import PodNetwork, WorkerOptions, read_pod_network, set_up_worker, tear_down_worker
from caa.unix_socket import MAX_PATH

T = TypeVar("T")

StepObserver = Callable[[str, Step], None]
"""Told the sandbox id and the step that was just reached."""

PullSecrets = Callable[[str, str], Coroutine[Any, Any, bytes | None]]
"""The auth.json of a pod, given its namespace and name. Takes 2 s at most, and raises nothing."""

AGENT_SOCKET = "agent.ttrpc"
FORWARDER_CONFIG = "apf.json"

_log = structlog.get_logger(__name__)

_PATIENCE = 15.0
"""Seconds that a caller waits for a take-down that does not get done, before it goes on without him.
Shims give a call 60 s or more; StopVM must not hold a pod up for a cloud that refuses."""

_LOOK_EVERY, _ABANDONED_AFTER = 30.0, 120.0
"""Seconds: between looks for running sandboxes that nobody will stop, and for how long one looks like it."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What the lifecycle needs of the settings."""

    pods_dir: Path
    proxy_timeout: float
    vxlan_port: int
    vxlan_min_id: int
    host_interface: str
    external_net_via_pod_vm: bool
    pod_subnet_cidrs: tuple[str, ...]
    boot_id: str


@dataclass(eq=False)
class _Entry:
    """A sandbox that is alive here, with what belongs to it in this process."""

    id: str
    slot: int
    pod: tuple[str, str]
    sandbox: Sandbox | None = None
    """None until CreateVM has read the pod's network."""
    proxy: AgentProxy | None = None
    work: asyncio.Task[Any] | None = None
    """The create or start at work."""
    take_down: asyncio.Task[None] | None = None
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    """A removal failed for now and is tried again: nobody should wait for it."""

    @property
    def known(self) -> Sandbox:
        """Its record, for those who come after CreateVM has made it."""
        assert self.sandbox is not None
        return self.sandbox


class Lifecycle:
    """Creates, starts and stops sandboxes. Calls for different sandboxes never wait for each other."""

    def __init__(
        self,
        options: NodeOptions,
        journal: Journal,
        provider: Provider,
        files: PodVmFiles,
        peer_pods: PeerPods,
        pull_secrets: PullSecrets,
        *,
        on_step: StepObserver,
    ) -> None:
        self._options = options
        self._journal = journal
        self._provider = provider
        self._files = files
        self._peer_pods = peer_pods
        self._pull_secrets = pull_secrets
        self._on_step = on_step
        self._entries: dict[str, _Entry] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._instance_known = asyncio.Condition()
        self._closing = asyncio.Event()

    # The calls

    async def create(self, sandbox_id: str, pod: PodRequest, netns: str) -> Path:
        """Reserve a sandbox and return the path of its agent socket-to-be. Makes no cloud call.

        Raises AlreadyExistsError for an id that is alive, InvalidArgumentError and NotFoundError for a
        request that can't be met, ResourceExhaustedError when the VNIs are used up.
        """
        if not _ID.fullmatch(sandbox_id) or ".." in sandbox_id:
            raise InvalidArgumentError(
                f"{sandbox_id[:200]!r} is not a sandbox id: 1 to 128 letters, digits, '_', '.' and '-',"
                " without '..'"
            )
        self._refuse_at_the_end()
        if sandbox_id in self._entries:
            raise AlreadyExistsError(
                f"sandbox {sandbox_id} exists{self._condition(self._entries[sandbox_id])}"
            )
        socket = self._folder(sandbox_id) / AGENT_SOCKET
        if len(os.fsencode(socket)) > MAX_PATH:
            raise InvalidArgumentError(
                f"the agent socket {socket} would have more than the {MAX_PATH} bytes that unix sockets"
                " allow: use a shorter folder for --pods-dir (PODS_DIR)"
            )
        entry = _Entry(sandbox_id, self._free_slot(), (pod.namespace, pod.name))
        self._entries[sandbox_id] = entry
        return await self._work(entry, lambda: self._create(entry, pod, netns))

    async def start(self, sandbox_id: str) -> None:
        """Make the sandbox's VM and connect to it. Returns when a shim can use the agent socket.

        Raises NotFoundError for an unknown id, FailedPreconditionError while another start or a stop is at
        work, and what the cloud, the tunnel or the connection said. After an error nothing is left, or what
        is left is being removed.
        """
        entry = self._entries.get(sandbox_id)
        if entry is None:
            raise NotFoundError(
                f"there is no sandbox {sandbox_id}: CreateVM comes first, also after a StartVM that failed"
            )
        self._refuse_at_the_end()
        if entry.work is None and entry.sandbox is not None:
            if entry.sandbox.state is State.RUNNING:
                return
            if entry.sandbox.state is State.CREATED:
                created = entry.sandbox
                await self._work(entry, lambda: self._start(entry, created))
                return
        raise FailedPreconditionError(f"sandbox {sandbox_id} can't be started{self._condition(entry)}")

    async def stop(self, sandbox_id: str) -> None:
        """Take the sandbox down and forget it; an unknown one is no error.

        Returns when all of it is gone or, when the cloud refuses for now, after a while: the journal keeps
        the sandbox, and its removal is tried until it succeeds.
        """
        entry = self._entries.get(sandbox_id)
        if entry is None:
            return
        if entry.work is not None:
            entry.work.cancel()
            await asyncio.wait([entry.work])
        await self._taken_down(entry)

    async def stop_left(self, sandbox_id: str) -> None:
        """As `stop`, of a sandbox that an earlier daemon left in the journal, without `recover`: for a
        command while no daemon runs, which has to leave all others as they are.
        """
        for sandbox in self._journal.read():
            if sandbox.id == sandbox_id:
                self._entries.setdefault(sandbox_id, _entry_of(sandbox))
        await self.stop(sandbox_id)

    async def instance_of(self, namespace: str, pod: str, *, wait: bool) -> str:
        """The id of the pod's instance. With `wait`, as soon as there is one. Raises NotFoundError."""

        def instance() -> str:
            sandboxes = (entry.sandbox for entry in self._entries.values() if entry.pod == (namespace, pod))
            # A pod may have a sandbox that is being taken down beside its present one.
            alive = (each for each in sandboxes if each is not None and each.state is not State.STOPPING)
            return next((each.instance_id for each in alive if each.instance_id), "")

        async with self._instance_known:
            if wait:
                await self._instance_known.wait_for(lambda: instance() or self._closing.is_set())
            found = instance()
        if wait and not found:
            self._refuse_at_the_end()
        if not found:
            raise NotFoundError(f"pod {namespace}/{pod} has no instance on this node")
        return found

    def names(self, sandbox_id: str) -> dict[str, str]:
        """What is known of a sandbox, as the fields of a log line about it: see `caa.logs`."""
        entry = self._entries.get(sandbox_id)
        return _names_of(entry) if entry else {"sandbox": sandbox_id[:200]}

    # Restart and end

    async def recover(self) -> None:
        """Take up what an earlier daemon left: running sandboxes listen again when this returns; what was
        half made or half gone is being removed from then on.
        """
        await self._peer_pods.recover()
        self._spawn(self._look_for_abandoned())
        for sandbox in self._journal.read():
            entry = self._entries[sandbox.id] = _entry_of(sandbox)
            recovery = RECOVERY[sandbox.state]
            if sandbox.boot_id != self._options.boot_id:
                recovery = Recovery.UNDO
                _log.warning("sandbox is from before this node's last boot", sandbox=sandbox.id)
            _log.info(
                "sandbox found in the journal", **_names(sandbox), state=sandbox.state, action=recovery.value
            )
            match recovery:
                case Recovery.UNDO:
                    self._begin_take_down(entry)
                case Recovery.RESUME:
                    await self._resume(entry, sandbox)
                case Recovery.KEEP:
                    pass

    async def _resume(self, entry: _Entry, sandbox: Sandbox) -> None:
        """A sandbox that ran goes on running, whatever of its worker's end has to be made again."""
        await self._put_claimed(entry, sandbox)  # one of an earlier version had no PeerPod object
        try:
            entry.proxy = self._new_proxy(sandbox)
            await entry.proxy.listen()
            await set_up_worker(sandbox.netns, _network(sandbox), _addresses(sandbox))
        except (CaaError, OSError) as error:
            _log.error("a running sandbox could not be taken up whole", **_names(sandbox), error=str(error))

    async def _look_for_abandoned(self) -> None:
        """Take down what runs for a pod that is gone. A shim does not dial its agent again: when an earlier
        daemon's end cuts its connection it gives the pod up, and asks for the VM's end only once, perhaps
        while there is nobody to hear it.
        """
        since: dict[str, float] = {}
        while not self._closing.is_set():
            now = time.monotonic()
            abandoned = {entry.id: entry for entry in self._entries.values() if _looks_abandoned(entry)}
            since = {each: since.get(each, now) for each in abandoned}
            for sandbox_id, entry in abandoned.items():
                if now - since[sandbox_id] >= _ABANDONED_AFTER:
                    _log.warning("a pod is gone, and its VM is taken down", **_names(entry.known))
                    self._begin_take_down(entry, "its pod was gone, and nobody had asked for its end")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._closing.wait()

    async def close(self, grace: float) -> None:
        """Cancel and undo what is being made, and give that and other removals `grace` seconds. Running
        sandboxes stay as they are, for the next daemon; their agent sockets close.
        """
        self._closing.set()
        async with self._instance_known:
            self._instance_known.notify_all()
        for entry in self._entries.values():
            if entry.work is not None:
                entry.work.cancel()
        deadline = time.monotonic() + grace
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        for entry in self._entries.values():
            if entry.take_down is not None:
                _log.info("removal is left to the next daemon", **_names_of(entry))
            if entry.proxy is not None:
                await entry.proxy.close()

    # Creating

    async def _create(self, entry: _Entry, pod: PodRequest, netns: str) -> Path:
        async with asyncio.TaskGroup() as side_by_side:
            secrets = side_by_side.create_task(self._pull_secrets(pod.namespace, pod.name))
            network = await read_pod_network(
                netns,
                WorkerOptions(
                    host_interface=self._options.host_interface,
                    vxlan_port=self._options.vxlan_port,
                    vxlan_id=self._options.vxlan_min_id + entry.slot,
                    index=entry.slot,
                    pod_subnet_cidrs=self._options.pod_subnet_cidrs,
                    external_net_via_pod_vm=self._options.external_net_via_pod_vm,
                ),
            )
        vm = self._files.make(entry.id, pod, network, secrets.result())
        holding = self._provider.plan(
            VmOrder(
                sandbox_id=entry.id,
                pod_name=pod.name,
                pod_namespace=pod.namespace,
                name=vm.name,
                user_data=vm.user_data,
                client_token=f"caa-{uuid.uuid4().hex}",
                image=pod.image,
                instance_type=pod.instance_type,
                vcpus=pod.vcpus,
                memory_mib=pod.memory_mib,
                gpus=pod.gpus,
                second_interface=self._options.external_net_via_pod_vm,
            )
        )
        sandbox = Sandbox(
            id=entry.id,
            pod_name=pod.name,
            pod_namespace=pod.namespace,
            netns=netns,
            name=vm.name,
            slot=entry.slot,
            boot_id=self._options.boot_id,
            state=State.CREATING,
            network=network.model_dump(mode="json", by_alias=True),
            holding=holding,
            pod_uid=pod.uid,
        )
        await self._record(entry, sandbox, Step.CREATE_INTENDED)
        folder = self._folder(entry.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(folder / FORWARDER_CONFIG, vm.forwarder_config)
        self._reached(entry.id, Step.FOLDER_MADE)
        await self._record(entry, sandbox.move(State.CREATED), Step.CREATE_RECORDED)
        return folder / AGENT_SOCKET

    # Starting

    async def _start(self, entry: _Entry, sandbox: Sandbox) -> None:
        await self._record(entry, sandbox.move(State.STARTING), Step.LAUNCH_INTENDED)

        instance_id = await self._provider.launch(sandbox.holding, self._keeper(entry))
        self._reached(entry.id, Step.LAUNCHED)
        await self._put_claimed(entry, entry.known.learn(instance_id=instance_id))
        _speak_for(entry)  # which has an instance now
        self._reached(entry.id, Step.LAUNCH_RECORDED)
        async with self._instance_known:
            self._instance_known.notify_all()

        addresses = await self._provider.addresses(entry.known.holding, self._keeper(entry))
        self._reached(entry.id, Step.ADDRESS_KNOWN)
        texts = tuple(str(address) for address in addresses)
        sandbox = await self._learn(entry, Step.ADDRESS_RECORDED, addresses=texts)

        entry.proxy = proxy = self._new_proxy(sandbox)
        async with asyncio.TaskGroup() as side_by_side:
            side_by_side.create_task(self._join(sandbox))
            side_by_side.create_task(self._reach_agent(sandbox, proxy))
        await self._provider.complete(sandbox.holding)
        await proxy.listen()
        self._reached(entry.id, Step.SOCKET_LISTENING)
        await self._record(entry, sandbox.move(State.RUNNING), Step.RUNNING_RECORDED)

    async def _join(self, sandbox: Sandbox) -> None:
        await set_up_worker(sandbox.netns, _network(sandbox), _addresses(sandbox))
        self._reached(sandbox.id, Step.TUNNEL_UP)

    async def _reach_agent(self, sandbox: Sandbox, proxy: AgentProxy) -> None:
        await proxy.connect(self._options.proxy_timeout)
        self._reached(sandbox.id, Step.AGENT_REACHED)

    def _new_proxy(self, sandbox: Sandbox) -> AgentProxy:
        forwarder = self._files.forwarder(sandbox.name, sandbox.addresses[0])
        return AgentProxy(self._folder(sandbox.id) / AGENT_SOCKET, forwarder, _log.bind(**_names(sandbox)))

    # Taking down

    def _begin_take_down(self, entry: _Entry, error: str = "") -> asyncio.Task[None]:
        if entry.take_down is None:
            entry.take_down = self._spawn(self._take_down(entry, error))
        return entry.take_down

    async def _taken_down(self, entry: _Entry, error: str = "") -> None:
        """Wait for the take-down, though not for long, and not for one that is refused for now."""
        refused = asyncio.create_task(entry.refused.wait())
        try:
            await asyncio.wait(
                [self._begin_take_down(entry, error), refused],
                timeout=_PATIENCE,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            refused.cancel()

    async def _take_down(self, entry: _Entry, error: str) -> None:
        """Remove all that is left of a sandbox, however often that takes, then forget it."""
        _speak_for(entry)
        sandbox = entry.sandbox
        if sandbox is None:  # nothing was done yet, nothing was written
            del self._entries[entry.id]
            return
        if sandbox.state is not State.STOPPING:
            sandbox = sandbox.move(State.STOPPING, error=error)
        await self._insist(entry, "journal", lambda: self._record(entry, sandbox, Step.STOP_INTENDED))
        await self._remove(entry, sandbox, "agent socket", self._close_proxy, Step.SOCKET_CLOSED)
        async with asyncio.TaskGroup() as side_by_side:
            for what, remove, step in (
                ("tunnel", self._leave, Step.TUNNEL_DOWN),
                ("instance", self._release, Step.INSTANCE_DELETED),
            ):
                side_by_side.create_task(self._remove(entry, sandbox, what, remove, step))
        await self._remove(entry, sandbox, "folder", self._remove_folder, Step.FOLDER_REMOVED)
        owing = self._peer_pods.disclaimed(entry.known)
        await self._insist(entry, "journal", lambda: self._journal.forget(entry.id, owing))
        self._peer_pods.settle(owing)
        del self._entries[entry.id]
        self._reached(entry.id, Step.FORGOTTEN)

    async def _remove(
        self,
        entry: _Entry,
        sandbox: Sandbox,
        what: str,
        remove: Callable[[_Entry, Sandbox], Awaitable[None]],
        step: Step,
    ) -> None:
        await self._insist(entry, what, lambda: remove(entry, sandbox))
        self._reached(entry.id, step)

    async def _insist(self, entry: _Entry, what: str, remove: Callable[[], Awaitable[None]]) -> None:
        """Try until it succeeds: what is left behind costs money or stands in a later pod's way. Only the
        daemon's end ends it; then it is for the next one, by the journal."""
        for pause in growing(0.2, 2.0, 60.0):
            try:
                return await remove()
            except Exception as error:  # noqa: BLE001  a fault of ours must not leave an instance behind either
                self._note_error(entry, str(error) or repr(error), removing=what)
                _log.warning(
                    "removal failed and is tried again",
                    sandbox=entry.id,
                    pod="/".join(entry.pod),
                    what=what,
                    error=str(error),
                    again_in=pause,
                    exc_info=not isinstance(error, (CaaError, OSError)),
                )
            entry.refused.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            if self._closing.is_set():
                break
        raise _LeftToTheNextDaemonError

    async def _close_proxy(self, entry: _Entry, _sandbox: Sandbox) -> None:
        if entry.proxy is not None:
            await entry.proxy.close()

    async def _leave(self, _entry: _Entry, sandbox: Sandbox) -> None:
        await tear_down_worker(sandbox.netns, _network(sandbox))

    async def _release(self, entry: _Entry, _sandbox: Sandbox) -> None:
        await self._provider.release(entry.known.holding, self._keeper(entry))

    async def _remove_folder(self, entry: _Entry, _sandbox: Sandbox) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder(entry.id))

    # Bookkeeping

    async def _work(self, entry: _Entry, work: Callable[[], Awaitable[T]]) -> T:
        """Do a create or start as the entry's work; what keeps it from succeeding takes the entry down."""

        async def undone_unless_done() -> T:
            _speak_for(entry)
            try:
                return await work()
            except BaseException as error:
                reason = _reason(error)
                self._note_error(entry, str(reason))
                _log.warning(
                    "sandbox failed",
                    sandbox=entry.id,
                    pod="/".join(entry.pod),
                    error=str(reason),
                    exc_info=isinstance(reason, InternalError),
                )
                # A second cancellation only ends the wait: the take-down goes on.
                await self._taken_down(entry, str(reason))
                raise reason from error
            finally:
                entry.work = None

        entry.work = task = self._spawn(undone_unless_done())
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task], timeout=_PATIENCE)
            if task.cancelled():  # before it ran at all
                entry.work = None
                self._begin_take_down(entry)
            raise
        if task.cancelled():  # a second time, while it undid itself
            raise _reason(asyncio.CancelledError())
        return task.result()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has it, or has gone: either way it was logged

    async def _record(self, entry: _Entry, sandbox: Sandbox, step: Step) -> None:
        await self._put(entry, sandbox)
        self._reached(entry.id, step)

    async def _learn(self, entry: _Entry, step: Step, **changes: Any) -> Sandbox:
        sandbox = entry.known.learn(**changes)
        await self._record(entry, sandbox, step)
        return sandbox

    def _keeper(self, entry: _Entry) -> Keep:
        async def keep(holding: Holding) -> None:
            await self._put(entry, entry.known.learn(holding=holding))

        return keep

    async def _put(self, entry: _Entry, sandbox: Sandbox, owing: Debt | None = None) -> None:
        """In memory first: if the write is cut short, the take-down still knows what happened."""
        entry.sandbox = sandbox
        await self._journal.put(sandbox, owing)

    async def _put_claimed(self, entry: _Entry, sandbox: Sandbox) -> None:
        """Put it, with the PeerPod object that it owes the cluster now that its instance is known."""
        sandbox, owing = self._peer_pods.claimed(sandbox)
        if sandbox is not entry.sandbox:
            await self._put(entry, sandbox, owing)
            self._peer_pods.settle(owing)

    def _reached(self, sandbox_id: str, step: Step) -> None:
        self._on_step(sandbox_id, step)

    def _note_error(self, entry: _Entry, error: str, **details: str) -> None:
        self._journal.note(entry.id, Event(time.time(), "error", error, details))

    def _refuse_at_the_end(self) -> None:
        if self._closing.is_set():
            raise UnavailableError("the daemon is ending; the next one takes such calls")

    def _folder(self, sandbox_id: str) -> Path:
        return self._options.pods_dir / sandbox_id

    def _free_slot(self) -> int:
        taken = {entry.slot for entry in self._entries.values()}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        if self._options.vxlan_min_id + slot >= 2**24:
            raise ResourceExhaustedError(
                f"no VNI is free: {len(taken)} sandboxes are alive and VNIs begin at"
                f" {self._options.vxlan_min_id}; lower --vxlan-min-id"
            )
        return slot

    @staticmethod
    def _condition(entry: _Entry) -> str:
        if entry.take_down is not None:
            return " and is being taken down"
        state = entry.sandbox.state if entry.sandbox is not None else State.CREATING
        return f" and is {state}"


class _LeftToTheNextDaemonError(Exception):
    """Not a CancelledError: a TaskGroup would take that for an end like any other, and what comes after the
    group, forgetting the sandbox, would be done."""


def _reason(error: BaseException) -> CaaError:
    """What a caller is told: of several errors side by side, the first that was raised on purpose."""
    if isinstance(error, BaseExceptionGroup):
        reasons = [_reason(each) for each in error.exceptions]
        return next((each for each in reasons if not isinstance(each, AbortedError)), reasons[0])
    if isinstance(error, CaaError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return AbortedError(
            "cut short: the caller went away, the sandbox was stopped, or the daemon is ending"
        )
    if isinstance(error, OSError):
        return InternalError(str(error))
    return InternalError(f"{type(error).__name__}: {error}")


def _speak_for(entry: _Entry) -> None:
    """From here on, this task's log lines and calls to the cloud name the sandbox."""
    SANDBOX.set(entry.id)
    structlog.contextvars.bind_contextvars(**_names_of(entry))


def _entry_of(sandbox: Sandbox) -> _Entry:
    return _Entry(sandbox.id, sandbox.slot, (sandbox.pod_namespace, sandbox.pod_name), sandbox)


def _names_of(entry: _Entry) -> dict[str, str]:
    return _names(entry.sandbox) if entry.sandbox else {"sandbox": entry.id, "pod": "/".join(entry.pod)}


def _looks_abandoned(entry: _Entry) -> bool:
    """Whether it runs, but its pod's network namespace is gone and no shim is connected."""
    running = entry.sandbox is not None and entry.sandbox.state is State.RUNNING
    if not running or entry.take_down is not None or (entry.proxy and entry.proxy.in_use):
        return False
    return not Path(entry.known.netns).exists()


def _names(sandbox: Sandbox) -> dict[str, str]:
    names = {"sandbox": sandbox.id, "pod": f"{sandbox.pod_namespace}/{sandbox.pod_name}"}
    if sandbox.instance_id:
        names["instance"] = sandbox.instance_id
    return names


def _network(sandbox: Sandbox) -> PodNetwork:
    return PodNetwork.model_validate(sandbox.network)


def _addresses(sandbox: Sandbox) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(address) for address in sandbox.addresses)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
