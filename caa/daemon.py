"""The daemon: builds the parts, joins, runs and stops them. The only place that knows all of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from caa import __version__
from caa.admin import SOCKET, Operator, of_call, of_step
from caa.config import Settings
from caa.errors import FailedPreconditionError, StartupError
from caa.hypervisor import (
    GrpcFace,
    HypervisorService,
    Lifecycle,
    NodeOptions,
    PodVmFiles,
    PodVmInfoService,
    StepObserver,
    TtrpcFace,
)
from caa.metrics import Metrics
from caa.proto import hypervisor_pb2, podvminfo_pb2
from caa.providers import CloudCall, Provider
from caa.sandbox import Journal, Step
from caa.unix_socket import is_served

if TYPE_CHECKING:
    from caa.admin.server import AdminServer
    from caa.status_server import StatusServer

_log = structlog.get_logger(__name__)

_GRACE = 20.0
"""Seconds that calls and removals in flight are given at the end. Kubernetes kills a pod after 30."""


def log_step(sandbox: str, step: Step) -> None:
    _log.info("step", sandbox=sandbox, number=step.value, step=step.name.lower())


def log_call(call: CloudCall) -> None:
    _log.debug(
        "cloud call",
        action=call.action,
        outcome=call.outcome,
        request_id=call.request_id,
        seconds=round(call.seconds, 3),
        sandbox=call.sandbox,
    )


@dataclass(frozen=True)
class _Parts:
    """What the daemon works with, and a command that stands in for it."""

    journal: Journal
    provider: Provider
    lifecycle: Lifecycle
    metrics: Metrics


@contextlib.asynccontextmanager
async def _parts(settings: Settings, on_step: StepObserver) -> AsyncIterator[_Parts]:
    async with contextlib.AsyncExitStack() as closing:
        journal = closing.enter_context(Journal(settings.state_dir))
        files = PodVmFiles(settings)
        metrics = Metrics()

        def reached(sandbox: str, step: Step) -> None:
            metrics.on_step(sandbox, step)
            on_step(sandbox, step)
            journal.note(sandbox, of_step(step))

        def called(call: CloudCall) -> None:
            log_call(call)
            metrics.on_call(call)
            if call.sandbox:
                journal.note(call.sandbox, of_call(call))

        from caa.providers.alibabacloud import AlibabaCloud  # noqa: PLC0415  the SDK is slow to import

        provider = AlibabaCloud(settings.alibabacloud, node=settings.node_name, on_call=called)
        closing.push_async_callback(provider.close)
        lifecycle = Lifecycle(_node_options(settings), journal, provider, files, on_step=reached)
        yield _Parts(journal, provider, lifecycle, metrics)


async def run(settings: Settings, *, on_step: StepObserver = log_step) -> None:
    """Serve until cancelled.

    Raises StartupError, ConfigError or FailedPreconditionError if it can't start; nothing was changed then.
    """
    async with (
        _parts(settings, on_step) as parts,
        _status(settings.probe_port, parts.metrics) as status,
    ):
        lifecycle, metrics = parts.lifecycle, parts.metrics
        metrics.watch_credentials(parts.provider.credentials_left)
        for sandbox in parts.journal.read():
            metrics.found(sandbox.id, sandbox.state)
        await parts.provider.check(
            verify=settings.alibabacloud.cloud_config_verify, second_interface=settings.ext_network_via_podvm
        )
        hypervisor = HypervisorService(lifecycle, on_rpc=metrics.on_rpc)
        services = (
            (hypervisor_pb2.DESCRIPTOR.services_by_name["Hypervisor"], hypervisor),
            (podvminfo_pb2.DESCRIPTOR.services_by_name["PodVMInfo"], PodVmInfoService(lifecycle)),
        )
        faces: list[TtrpcFace | GrpcFace] = []
        operator = Operator(
            parts.journal, parts.provider, lifecycle.stop, pods_dir=settings.pods_dir, alone=False
        )

        from caa.admin.server import AdminServer  # noqa: PLC0415  as above: only what serves needs aiohttp

        admin = AdminServer(operator)
        try:
            await lifecycle.recover()
            faces.append(
                await _serve(TtrpcFace(services), settings.socket, "--socket (REMOTE_HYPERVISOR_ENDPOINT)")
            )
            if settings.grpc_socket:
                option = "--grpc-socket (HYPERVISOR_GRPC_ENDPOINT)"
                faces.append(await _serve(GrpcFace(services), settings.grpc_socket, option))
            await _serve_admin(admin, settings.state_dir / SOCKET)
            status.ready = True
            _log.info(
                "serving",
                version=__version__,
                socket=str(settings.socket),
                grpc_socket=str(settings.grpc_socket or ""),
                state=str(settings.state_dir),
                region=settings.alibabacloud.region,
            )
            await asyncio.get_running_loop().create_future()
        finally:
            status.ready = False
            _log.info("ending", grace=_GRACE)
            # Together, since calls in flight end by being cancelled and undone.
            async with asyncio.TaskGroup() as ending:
                ending.create_task(lifecycle.close(_GRACE))
                ending.create_task(admin.close())
                for face in faces:
                    ending.create_task(face.close(_GRACE))


@contextlib.asynccontextmanager
async def standing_in(settings: Settings, *, on_step: StepObserver) -> AsyncIterator[Operator]:
    """For an operator's command while no daemon runs: what the daemon would do for it, and nothing else. No
    sandbox is taken up but those that are asked for.

    Raises StartupError if a daemon runs, with this state folder or another.
    """
    served = False
    with contextlib.suppress(OSError):  # what can't be asked is no daemon of this user's
        served = is_served(settings.socket)
    if served:
        raise StartupError(
            f"a daemon serves {settings.socket}, but nobody listens on {settings.state_dir / SOCKET}; give"
            " the daemon's own state folder with --state-dir (CAA_STATE_DIR)"
        )
    async with _parts(settings, on_step) as parts:
        stop = parts.lifecycle.stop_left
        try:
            yield Operator(parts.journal, parts.provider, stop, pods_dir=settings.pods_dir, alone=True)
        finally:
            await parts.lifecycle.close(_GRACE)


@contextlib.asynccontextmanager
async def _status(port: int, metrics: Metrics) -> AsyncIterator["StatusServer"]:
    from caa.status_server import StatusServer  # noqa: PLC0415  as above

    server = StatusServer(metrics)
    if port:
        await server.start(port)
    try:
        yield server
    finally:
        await server.close()


async def _serve_admin(admin: "AdminServer", path: Path) -> None:
    """Pods don't need it: without it the daemon does its work all the same."""
    try:
        await admin.start(path)
    except FailedPreconditionError as error:
        _log.warning("no admin API: caa ps, show, rm and gc will not reach this daemon", error=str(error))


Face = TypeVar("Face", TtrpcFace, GrpcFace)


async def _serve(face: Face, path: Path, option: str) -> Face:
    try:
        await face.start(path)
    except FailedPreconditionError as error:
        raise StartupError(f"{error}. Give another path with {option}, or stop what uses it") from error
    return face


def _node_options(settings: Settings) -> NodeOptions:
    return NodeOptions(
        pods_dir=settings.pods_dir,
        proxy_timeout=settings.proxy_timeout,
        vxlan_port=settings.vxlan_port,
        vxlan_min_id=settings.vxlan_min_id,
        host_interface=settings.host_interface,
        external_net_via_pod_vm=settings.ext_network_via_podvm,
        pod_subnet_cidrs=settings.pod_subnet_cidrs,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    )
