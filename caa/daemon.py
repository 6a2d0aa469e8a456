"""The daemon: builds the parts, joins, runs and stops them. The only place that knows all of them."""

import asyncio
import contextlib
from pathlib import Path
from typing import TypeVar

import structlog

from caa import __version__
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
from caa.proto import hypervisor_pb2, podvminfo_pb2
from caa.sandbox import Journal, Step

_log = structlog.get_logger(__name__)

_GRACE = 20.0
"""Seconds that calls and removals in flight are given at the end. Kubernetes kills a pod after 30."""


def log_step(sandbox: str, step: Step) -> None:
    _log.info("step", sandbox=sandbox, number=step.value, step=step.name.lower())


async def run(settings: Settings, *, on_step: StepObserver = log_step) -> None:
    """Serve until cancelled.

    Raises StartupError, ConfigError or FailedPreconditionError if it can't start; nothing was changed then.
    """
    async with contextlib.AsyncExitStack() as closing:
        journal = closing.enter_context(Journal(settings.state_dir))
        files = PodVmFiles(settings)

        from caa.providers.alibabacloud import AlibabaCloud  # noqa: PLC0415  the SDK is slow to import

        provider = AlibabaCloud(settings.alibabacloud)
        closing.push_async_callback(provider.close)
        await provider.check(verify=settings.alibabacloud.cloud_config_verify)

        lifecycle = Lifecycle(_node_options(settings), journal, provider, files, on_step=on_step)
        services = (
            (hypervisor_pb2.DESCRIPTOR.services_by_name["Hypervisor"], HypervisorService(lifecycle)),
            (podvminfo_pb2.DESCRIPTOR.services_by_name["PodVMInfo"], PodVmInfoService(lifecycle)),
        )
        faces: list[TtrpcFace | GrpcFace] = []
        try:
            await lifecycle.recover()
            faces.append(
                await _serve(TtrpcFace(services), settings.socket, "--socket (REMOTE_HYPERVISOR_ENDPOINT)")
            )
            if settings.grpc_socket:
                option = "--grpc-socket (HYPERVISOR_GRPC_ENDPOINT)"
                faces.append(await _serve(GrpcFace(services), settings.grpc_socket, option))
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
            _log.info("ending", grace=_GRACE)
            # Together, since calls in flight end by being cancelled and undone.
            async with asyncio.TaskGroup() as ending:
                ending.create_task(lifecycle.close(_GRACE))
                for face in faces:
                    ending.create_task(face.close(_GRACE))


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
