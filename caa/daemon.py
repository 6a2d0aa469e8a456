"""The daemon: builds the parts, joins, runs and stops them. The only place that knows all of them."""

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

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
    PeerPods,
    PodVmFiles,
    PodVmInfoService,
    StepObserver,
    TtrpcFace,
)
from caa.kubernetes import Capacity, Startup, in_cluster, join
from caa.metrics import Metrics
from caa.proto import hypervisor_pb2, podvminfo_pb2
from caa.providers import CloudCall, Provider
from caa.redaction import hide_secrets
from caa.sandbox import Journal, Step
from caa.ttrpc import CallContext
from caa.unix_socket import is_served

if TYPE_CHECKING:
    from caa.admin.server import AdminServer
    from caa.kubernetes import Cluster
    from caa.status_server import StatusServer
    from caa.tracing import Tracing

_log = structlog.get_logger(__name__)

_GRACE = 20.0
"""Seconds that calls and removals in flight are given at the end. The manifests give the pod 60 in all."""

_LAST_ANSWERS = 1.0
"""Seconds after that for callers to be told."""

_LAST_CALLS = 3.0
"""Seconds for the API server after that, for what is owed of PeerPod objects."""


def log_step(sandbox: str, step: Step) -> None:
    _log.info("step", sandbox=sandbox, number=step.value, step=step.name.lower())


def log_call(call: CloudCall) -> None:
    """What changes something in the cloud, or fails, is for everybody; questions are many."""
    question = call.outcome == "ok" and call.action.startswith(("Describe", "Get", "List"))
    _log.log(
        logging.DEBUG if question else logging.INFO,
        "cloud call",
        action=call.action,
        outcome=call.outcome,
        request_id=call.request_id,
        seconds=round(call.seconds, 3),
        **({"sandbox": call.sandbox} if call.sandbox else {}),
    )


@dataclass(frozen=True)
class _Parts:
    """What the daemon works with, and a command that stands in for it."""

    journal: Journal
    provider: Provider
    lifecycle: Lifecycle
    metrics: Metrics


@contextlib.asynccontextmanager
async def _parts(
    settings: Settings,
    on_step: StepObserver,
    cluster: "Cluster | None" = None,
    tracing: "Tracing | None" = None,
) -> AsyncIterator[_Parts]:
    async with contextlib.AsyncExitStack() as closing:
        journal = closing.enter_context(Journal(settings.state_dir))
        files = PodVmFiles(settings)
        metrics = Metrics()

        def reached(sandbox: str, step: Step) -> None:
            metrics.on_step(sandbox, step)
            if tracing:
                tracing.on_step(sandbox, step)
            on_step(sandbox, step)
            journal.note(sandbox, of_step(step))

        def called(call: CloudCall) -> None:
            log_call(call)
            metrics.on_call(call)
            if tracing:
                tracing.on_call(call)
            if call.sandbox:
                journal.note(call.sandbox, of_call(call))

        from caa.providers.alibabacloud import AlibabaCloud  # noqa: PLC0415  the SDK is slow to import

        provider = AlibabaCloud(settings.alibabacloud, node=settings.node_name, on_call=called)
        closing.push_async_callback(provider.close)
        peer_pods = PeerPods(journal, cluster)
        closing.push_async_callback(peer_pods.close, _LAST_CALLS)
        pull_secrets = cluster.auth_json if cluster else _no_pull_secrets
        lifecycle = Lifecycle(
            _node_options(settings), journal, provider, files, peer_pods, pull_secrets, on_step=reached
        )
        yield _Parts(journal, provider, lifecycle, metrics)


async def run(settings: Settings, *, on_step: StepObserver = log_step) -> None:
    """Serve until cancelled.

    Raises StartupError, ConfigError or FailedPreconditionError if it can't start; nothing was changed then.
    """
    async with (
        _tracing(settings) as tracing,
        _membership() as cluster,
        _parts(settings, on_step, cluster, tracing) as parts,
        _status(settings, parts.metrics) as status,
    ):
        lifecycle, metrics = parts.lifecycle, parts.metrics
        metrics.watch_credentials(parts.provider.credentials_left)
        for sandbox in parts.journal.read():
            metrics.found(sandbox.id, sandbox.state)
        await parts.provider.check(
            verify=settings.alibabacloud.cloud_config_verify, second_interface=settings.ext_network_via_podvm
        )
        within = tracing.rpc if tracing else _untraced
        hypervisor = HypervisorService(lifecycle, on_rpc=metrics.on_rpc, within=within)
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
        presence: list[Capacity | Startup] = []
        try:
            await lifecycle.recover()
            faces.append(
                await _serve(TtrpcFace(services), settings.socket, "--socket (REMOTE_HYPERVISOR_ENDPOINT)")
            )
            if settings.grpc_socket:
                option = "--grpc-socket (HYPERVISOR_GRPC_ENDPOINT)"
                faces.append(await _serve(GrpcFace(services), settings.grpc_socket, option))
            await _serve_admin(admin, settings.state_dir / SOCKET)
            if cluster:
                startup = Startup(cluster, settings.runtime_class_name)
                status.waits_for = lambda: startup.waits_for
                owner = settings.pod_uid or f"caa-{uuid.uuid4()}"
                presence += startup, Capacity(cluster, settings.peerpods_limit_per_node, owner)
                for part in presence:
                    part.start()
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
            parts_to_end = admin, *presence
            try:
                await _end(lifecycle, faces, parts_to_end, _GRACE)
            except asyncio.CancelledError:
                _log.warning("told to end again: what is under way is left to the next daemon")
                await _end(lifecycle, faces, parts_to_end, 0.0)
                raise


class _Closable(Protocol):
    async def close(self) -> None: ...


async def _end(
    lifecycle: Lifecycle, faces: Iterable[TtrpcFace | GrpcFace], others: Iterable[_Closable], grace: float
) -> None:
    """Together: faces accept no more from the first moment, and calls in flight end by being cancelled and
    undone. Their callers can still be told once that is over.
    """
    async with asyncio.TaskGroup() as ending:
        for face in faces:
            ending.create_task(face.close(grace + _LAST_ANSWERS))
        ending.create_task(lifecycle.close(grace))
        for other in others:
            ending.create_task(other.close())


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
async def _tracing(settings: Settings) -> AsyncIterator["Tracing | None"]:
    """Only where a collector is named, by the variables that OpenTelemetry has for that."""
    tracing = None
    named = any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT"))
    if named and os.environ.get("OTEL_TRACES_EXPORTER") != "none":
        try:
            from caa.tracing import Tracing  # noqa: PLC0415  the SDK costs time and memory

            tracing = Tracing(settings.node_name)
        except Exception as error:  # noqa: BLE001  whatever it is, pods don't need it
            _log.warning("no spans are made", error=hide_secrets(str(error)))
    try:
        yield tracing
    finally:
        if tracing:
            await tracing.close()


def _untraced(
    _method: str, _sandbox: str, _context: CallContext
) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def _membership() -> AsyncIterator["Cluster | None"]:
    if not in_cluster(os.environ):
        yield None
        return
    cluster = join(os.environ)
    try:
        yield cluster
    finally:
        await cluster.close()


async def _no_pull_secrets(_namespace: str, _pod: str) -> None:
    """Outside of a cluster."""


@contextlib.asynccontextmanager
async def _status(settings: Settings, metrics: Metrics) -> AsyncIterator["StatusServer"]:
    from caa.status_server import StatusServer  # noqa: PLC0415  as above

    server = StatusServer(metrics)
    if settings.probe_port:
        await server.start(settings.probe_port, settings.probe_addresses)
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
