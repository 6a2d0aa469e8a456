"""The local cloud as a whole: builds the parts, joins them, runs and stops them."""

import asyncio
import shlex
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog
from aiohttp import web

from caa.fakecloud import metadata
from caa.fakecloud.admin import Admin
from caa.fakecloud.boot import Boot, NoBoot
from caa.fakecloud.calls import CallLog
from caa.fakecloud.clock import Clock, SystemClock
from caa.fakecloud.ecs import Ecs
from caa.fakecloud.faults import Faults
from caa.fakecloud.files import make_private_folder, write_private
from caa.fakecloud.instances import Instances
from caa.fakecloud.keys import KeyRing
from caa.fakecloud.oidc import Issuer, oidc_routes
from caa.fakecloud.policy import PUBLISHED, Policy
from caa.fakecloud.server import MAX_HEADER, MAX_REQUEST, ApiServer
from caa.fakecloud.settings import FakeCloudSettings
from caa.fakecloud.signature import SignatureVerifier
from caa.fakecloud.sts import Sts
from caa.fakecloud.tls import LocalAuthority
from caa.fakecloud.vpc_api import VpcApi
from caa.fakecloud.vswitches import AddressPool

if TYPE_CHECKING:
    from caa.fakecloud.vpc import Vpc

log = structlog.get_logger(__name__)

GRACE = 1.0
"""Seconds that calls under way get at the end."""
ROTATE_AT = 0.8
"""Part of a token's lifetime after which the kubelet replaces it."""


class LocalCloud:
    """A running local cloud, as an async context manager. All services are at one address.

    `boot` plays the machines; if it is not given, the one that the settings name.
    """

    calls: CallLog
    faults: Faults
    instances: Instances
    issuer: Issuer
    keys: KeyRing

    def __init__(
        self, settings: FakeCloudSettings, *, boot: Boot | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.worker_addresses: dict[str, IPv4Address] = {}
        """Of each of the settings' workers, its address in the VPC."""
        self._boot = boot
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._port = 0
        self._gateway: IPv4Address | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Power everything off. Nothing is left but the machines' consoles."""
        await self._stack.aclose()

    @property
    def ecs_endpoint(self) -> str:
        """The URL at which this computer reaches ECS, and every other service."""
        return self._url(self.settings.host)

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings of a daemon that uses this cloud, in a worker's namespace if there are workers."""
        settings = self.settings
        endpoint = self._url(str(self._gateway)) if self._gateway and settings.workers else self.ecs_endpoint
        environment = {
            "REGION": settings.region,
            "IMAGEID": settings.images[0].id,
            "VSWITCH_ID": settings.vswitches[0].id,
            "SECURITY_GROUP_IDS": settings.security_groups[0][0],
            "ALIBABACLOUD_ECS_ENDPOINT": endpoint,
            "ALIBABACLOUD_VPC_ENDPOINT": endpoint,
            "ALIBABACLOUD_STS_ENDPOINT": endpoint,
        }
        if settings.tls:
            environment["ALIBABACLOUD_CA_FILE"] = str(settings.dir.absolute() / "ca.pem")
        if settings.credentials == "keys":
            environment["ALIBABACLOUD_ACCESS_KEY_ID"] = self.keys.own.id
            environment["ALIBABACLOUD_ACCESS_KEY_SECRET"] = self.keys.own.secret
        else:
            environment["ALIBABA_CLOUD_ROLE_ARN"] = settings.role_arn
            environment["ALIBABA_CLOUD_OIDC_PROVIDER_ARN"] = settings.oidc_provider_arn
            environment["ALIBABA_CLOUD_OIDC_TOKEN_FILE"] = str(settings.dir.absolute() / "token")
        return environment

    def mint_token(self) -> str:
        """A service account token as in the folder's file `token`."""
        return self.issuer.mint(self.settings.service_account, seconds=self.settings.token_seconds)

    def _url(self, host: str) -> str:
        return f"{'https' if self.settings.tls else 'http'}://{host}:{self._port}"

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        make_private_folder(settings.dir)
        listeners = [stack.enter_context(socket.create_server((settings.host, settings.port)))]
        self._port = listeners[0].getsockname()[1]
        pools = [AddressPool(vswitch) for vswitch in settings.vswitches]
        vpc = await self._start_vpc(stack, pools[0]) if settings.boot == "netns" else None

        self.keys = KeyRing(self._clock)
        self.issuer = await asyncio.to_thread(Issuer, self.ecs_endpoint, self._clock)
        self.instances = Instances(
            self._boot or NoBoot(), self._clock, settings.timings, settings.boot_seconds
        )
        stack.push_async_callback(self.instances.close)
        self.calls = CallLog()
        self.faults = Faults()

        if vpc:
            listeners.append(stack.enter_context(vpc.listen(str(vpc.gateway), self._port)))
            at = stack.enter_context(vpc.listen(metadata.ADDRESS, metadata.PORT))
            await _serve(stack, self._metadata(), [at])
        await self._serve_api(stack, pools, listeners)
        await self._write_files(stack)
        log.info("local cloud is up", endpoint=self.ecs_endpoint, boot=settings.boot)

    async def _start_vpc(self, stack: AsyncExitStack, pool: AddressPool) -> "Vpc":
        from caa.fakecloud.netns_boot import NetnsBoot  # noqa: PLC0415  netlink is for those who boot
        from caa.fakecloud.vpc import Vpc  # noqa: PLC0415  as above

        vpc = await Vpc.create(self.settings.vpc_name, self.settings.vpc_cidr)
        stack.push_async_callback(vpc.close)
        self._gateway = vpc.gateway
        for netns in self.settings.workers:
            address = self.worker_addresses[netns] = pool.allocate()
            await vpc.attach(netns, address, "eth0", default_route=True)
        if self._boot is None:
            consoles = self.settings.dir / "consoles"
            make_private_folder(consoles)
            self._boot = NetnsBoot(vpc, consoles)
        return vpc

    async def _serve_api(
        self, stack: AsyncExitStack, pools: Sequence[AddressPool], listeners: Sequence[socket.socket]
    ) -> None:
        settings = self.settings
        server = ApiServer(
            [
                Ecs(settings, self.instances, pools).service,
                VpcApi(settings, pools).service,
                Sts(settings, self.keys, self.issuer).service,
            ],
            verifier=SignatureVerifier(self.keys.find, self._clock),
            policy=Policy(None if settings.policy == "full" else PUBLISHED.union(settings.allow)),
            faults=self.faults,
            calls=self.calls,
            clock=self._clock,
        )
        admin = Admin(self.instances, self.calls, self.faults, self.issuer, settings.service_account)
        application = web.Application(client_max_size=MAX_REQUEST)
        application.router.add_route("*", "/", server.handle)
        application.add_routes([*oidc_routes(self.issuer), *admin.routes()])
        context = None
        if settings.tls:
            authority = LocalAuthority()
            ca = settings.dir / "ca.pem"
            ca.write_bytes(authority.pem)
            stack.callback(ca.unlink, missing_ok=True)
            services = [f"{name}.{settings.region}.aliyuncs.com" for name in ("ecs", "vpc", "sts")]
            names = {"localhost", "127.0.0.1", settings.host, *services}
            context = authority.server_context(names | ({str(self._gateway)} if self._gateway else set()))
        await _serve(stack, application, listeners, context)

    def _metadata(self) -> web.Application:
        return metadata.Metadata(
            self.instances.at,
            region=self.settings.region,
            vpc_id=self.settings.vpc_id,
            tokens_required=self.settings.metadata_tokens_required,
            clock=self._clock,
        ).application()

    async def _write_files(self, stack: AsyncExitStack) -> None:
        """`env`, and `token` for as long as the cloud runs."""
        if self.settings.credentials == "rrsa":
            token = self.settings.dir / "token"
            write_private(token, self.mint_token())
            stack.callback(token.unlink, missing_ok=True)
            rotation = asyncio.create_task(self._rotate(token), name="token rotation")
            stack.push_async_callback(_cancel, rotation)
        env = self.settings.dir / "env"
        write_private(
            env, "".join(f"{name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        )
        stack.callback(env.unlink, missing_ok=True)

    async def _rotate(self, token: Path) -> None:
        while True:
            await self._clock.sleep(self.settings.token_seconds * ROTATE_AT)
            write_private(token, self.mint_token())


async def run(settings: FakeCloudSettings, ready: Callable[[str], object]) -> None:
    """Run a local cloud until cancelled. `ready` is told how to use it, once that is possible."""
    async with LocalCloud(settings) as cloud:
        ready(f"local cloud at {cloud.ecs_endpoint}; a daemon's settings are in {settings.dir / 'env'}")
        await asyncio.Event().wait()


async def _serve(
    stack: AsyncExitStack,
    application: web.Application,
    listeners: Iterable[socket.socket],
    context: ssl.SSLContext | None = None,
) -> None:
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=GRACE,
        max_line_size=MAX_REQUEST,
        max_field_size=MAX_HEADER,
    )
    await runner.setup()
    stack.push_async_callback(_shut, runner)
    for listener in listeners:
        await web.SockSite(runner, listener, ssl_context=context).start()


async def _shut(runner: web.AppRunner) -> None:
    connections = list(runner.server.connections) if runner.server else []
    transports = [each.transport for each in connections if each.transport]
    await runner.cleanup()
    # A client that keeps an idle TLS connection does not say goodbye, and asyncio waits 30 s for that.
    for transport in transports:
        with suppress(AttributeError):  # what Python 3.11.2 raises for a TLS connection that was closed twice
            transport.abort()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
