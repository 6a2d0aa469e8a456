"""HTTP for those who watch the daemon: Prometheus and the kubelet. Read-only; on loopback by default."""

import os
from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from caa.errors import StartupError
from caa.metrics import Metrics

HOST = "127.0.0.1"


class StatusServer:
    """GET /metrics, /healthz (the event loop turns), /readyz (shims can call) and /startup (and the pods that
    ran before are Ready again).
    """

    def __init__(self, metrics: Metrics) -> None:
        self.ready = False
        """Shims can call."""
        self.waits_for: Callable[[], str] = str
        """What startup waits for beside that; empty: nothing."""
        self._metrics = metrics
        app = web.Application()
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/healthz", self._show_health)
        app.router.add_get("/readyz", self._show_readiness)
        app.router.add_get("/startup", self._show_startup)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=15.0, shutdown_timeout=1.0)

    async def start(self, port: int, addresses: Iterable[str] = (HOST,)) -> None:
        """Raises StartupError if the port can't be had at one of the addresses."""
        await self._runner.setup()
        for address in addresses:
            try:
                await web.TCPSite(self._runner, address, port).start()
            except OSError as error:
                await self._runner.cleanup()
                why = os.strerror(error.errno) if error.errno else str(error)
                raise StartupError(
                    f"can't listen on {address}:{port} for metrics and probes: {why}; give another port with"
                    " --probe-port (PROBE_PORT), 0 for none, or other addresses with --probe-address"
                    " (PROBE_ADDRESS)"
                ) from error

    @property
    def port(self) -> int:
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )

    async def _show_health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _show_readiness(self, _request: web.Request) -> web.Response:
        if self.ready:
            return web.Response(text="ok\n")
        return web.Response(text="not serving yet, or not any more\n", status=503)

    async def _show_startup(self, request: web.Request) -> web.Response:
        if self.ready and (waits_for := self.waits_for()):
            return web.Response(text=f"{waits_for}\n", status=503)
        return await self._show_readiness(request)
