"""Builds the reaper's parts, joins, runs and stops them."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

import structlog

from caa import __version__
from caa.config import ReaperSettings
from caa.errors import ConfigError, StartupError
from caa.kubernetes import SERVICE_ACCOUNT, Api, Cluster, connect
from caa.metrics import Metrics
from caa.providers import CloudCall
from caa.providers.alibabacloud import AlibabaCloud
from caa.reaper.brake import Brake
from caa.reaper.leadership import Leadership
from caa.reaper.lease import Times
from caa.reaper.looks import Looks
from caa.reaper.metrics import ReaperMetrics
from caa.reaper.reaper import ROUND, Reaper
from caa.reaper.verdicts import Graces
from caa.reaper.watch import Claims
from caa.status_server import StatusServer

_log = structlog.get_logger(__name__)

LEASE = "caa-reaper"
ALWAYS = 10
"""Instances within an hour, however large a share that is: a small cluster may be one node."""


async def run(
    settings: ReaperSettings,
    environ: Mapping[str, str] = os.environ,
    *,
    service_account: Path = SERVICE_ACCOUNT,
    times: Times = Times(),  # noqa: B008  it is frozen
    every: float = ROUND,
) -> None:
    """Reap until cancelled. `times` and `every` (seconds between rounds) are for tests.

    Raises StartupError or ConfigError if it can't start.
    """
    namespace = _namespace(settings, environ, service_account)
    metrics = Metrics()
    counted = ReaperMetrics(metrics.registry)

    def called(call: CloudCall) -> None:
        _log.debug("cloud call", action=call.action, outcome=call.outcome, request_id=call.request_id)
        metrics.on_call(call)

    async with contextlib.AsyncExitStack() as closing:
        status = StatusServer(metrics)
        closing.push_async_callback(status.close)
        if settings.probe_port:
            await status.start(settings.probe_port, settings.probe_addresses)
        api = connect(environ, service_account)
        closing.push_async_callback(api.close)
        cloud = AlibabaCloud(settings.alibabacloud, on_call=called)
        closing.push_async_callback(cloud.close)
        metrics.watch_credentials(cloud.credentials_left)
        leadership = Leadership(
            api,
            namespace=namespace,
            name=LEASE,
            identity=f"{socket.gethostname()}_{secrets.token_hex(4)}",
            times=times,
            on_heard=lambda: setattr(status, "ready", True),
        )
        brake = Brake(per_minute=settings.per_minute, share=settings.max_share / 100, always=ALWAYS)

        async def term() -> None:
            await _term(settings, api, cloud, leadership, brake, counted, every)

        counted.leads.set_function(lambda: float(leadership.leads))
        _log.info("starting", version=__version__, region=settings.alibabacloud.region, namespace=namespace)
        await leadership.hold(term)


async def _term(
    settings: ReaperSettings,
    api: Api,
    cloud: AlibabaCloud,
    leadership: Leadership,
    brake: Brake,
    metrics: ReaperMetrics,
    every: float,
) -> None:
    """While leading."""
    claims = Claims(api)
    reaper = Reaper(
        claims,
        Looks(api),
        cloud,
        Cluster(api, "").disclaim,
        graces=Graces(pod=settings.grace, node=settings.node_grace),
        brake=brake,
        may_act=lambda: leadership.leads,
        metrics=metrics,
        dry_run=settings.dry_run,
        every=every,
    )
    try:
        async with asyncio.TaskGroup() as working:
            working.create_task(claims.follow())
            working.create_task(reaper.run())
    finally:
        metrics.forget()


def _namespace(settings: ReaperSettings, environ: Mapping[str, str], service_account: Path) -> str:
    """That the Lease is in. Raises StartupError outside of a cluster."""
    in_pod = bool(environ.get("KUBERNETES_SERVICE_HOST")) and (service_account / "token").is_file()
    if not in_pod and not environ.get("KUBECONFIG"):
        raise StartupError(
            f"no cluster: there is no service account in {service_account}, and KUBECONFIG is not set"
        )
    if settings.namespace:
        return settings.namespace
    with contextlib.suppress(OSError):
        if namespace := (service_account / "namespace").read_text().strip():
            return namespace
    raise ConfigError(
        "--namespace (POD_NAMESPACE) is required where no service account is mounted: the Lease is made there"
    )
