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
from caa.fakecloud.addresses import Addresses
from caa.fakecloud.admin import Admin
from caa.fakecloud.books import Books
from caa.fakecloud.boot import Boot, NoBoot
from caa.fakecloud.calls import CallLog
from caa.fakecloud.clock import Clock, SystemClock
from caa.fakecloud.ecs import ecs
from caa.fakecloud.eips import Eips
from caa.fakecloud.enis import Enis
from caa.fakecloud.faults import Faults
from caa.fakecloud.files import make_private_folder, write_private
from caa.fakecloud.image_api import ImageApi
from caa.fakecloud.images import Images
from caa.fakecloud.instances import Instances
from caa.fakecloud.keys import KeyRing
from caa.fakecloud.limits import Limiter
from caa.fakecloud.oidc import Issuer, oidc_routes
from caa.fakecloud.oss import OssServer
from caa.fakecloud.oss_signature import OssVerifier
from caa.fakecloud.oss_store import ObjectStore
from caa.fakecloud.page import Page
from caa.fakecloud.ram import Ram
from caa.fakecloud.region import Region
from caa.fakecloud.server import MAX_HEADER, MAX_REQUEST, ApiServer
from caa.fakecloud.settings import PUBLIC_ADDRESSES, FakeCloudSettings
from caa.fakecloud.signature import SignatureVerifier
from caa.fakecloud.sts import Sts
from caa.fakecloud.templates import Templates
from caa.fakecloud.tls import LocalAuthority
from caa.fakecloud.vpc_api import vpc
from caa.fakecloud.vswitches import AddressPool

if TYPE_CHECKING:
    from caa.fakecloud.vpc import Vpc

log = structlog.get_logger(__name__)

GRACE = 1.0
"""Seconds that calls under way get at the end."""
ROTATE_AT = 0.8
"""Part of a token's lifetime after which the kubelet replaces it."""


class LocalCloud:
    """A running local cloud, as an async context manager. All services are at one address, but for OSS.

    `boot` plays the machines; if it is not given, the one that the settings name.
    """

    calls: CallLog
    eips: Eips
    enis: Enis
    faults: Faults
    images: Images
    instances: Instances
    issuer: Issuer
    keys: KeyRing
    objects: ObjectStore
    region: Region

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
        self._oss_port = 0
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
        """The URL at which this computer reaches ECS, and every other service but OSS."""
        return self._url(self.settings.host)

    @property
    def oss_endpoint(self) -> str:
        """The URL at which this computer reaches OSS."""
        return self._url(self.settings.host, self._oss_port)

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings of a daemon that uses this cloud, in a worker's namespace if there are workers."""
        settings = self.settings
        endpoint = self._url(str(self._gateway)) if self._gateway and settings.workers else self.ecs_endpoint
        environment = {
            "REGION": settings.region,
            "IMAGEID": settings.images[0].id,
            "VSWITCH_ID": settings.vswitches[0].id,
            "SECURITY_GROUP_IDS": settings.security_groups[0].id,
            "ALIBABACLOUD_ECS_ENDPOINT": endpoint,
            "ALIBABACLOUD_VPC_ENDPOINT": endpoint,
            "ALIBABACLOUD_STS_ENDPOINT": endpoint,
            "ALIBABACLOUD_OSS_ENDPOINT": self.oss_endpoint,
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

    def leftovers(self) -> list[str]:
        """What somebody made here and has not deleted: the instances, network interfaces and elastic
        addresses, each with its id, name and status.
        """
        secondary = [each for each in self.enis if not each.primary]
        return [
            *(f"{each.id} {each.order.name} {self.instances.status(each)}" for each in self.instances),
            *(f"{each.id} {each.name} {each.status}" for each in (*secondary, *self.eips)),
        ]

    def mint_token(self) -> str:
        """A service account token as in the folder's file `token`."""
        return self.issuer.mint(self.settings.service_account, seconds=self.settings.token_seconds)

    def _url(self, host: str, port: int = 0) -> str:
        return f"{'https' if self.settings.tls else 'http'}://{host}:{port or self._port}"

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        make_private_folder(settings.dir)
        listeners = [stack.enter_context(socket.create_server((settings.host, settings.port)))]
        self._port = listeners[0].getsockname()[1]
        oss_listener = stack.enter_context(socket.create_server((settings.host, settings.oss_port)))
        self._oss_port = oss_listener.getsockname()[1]
        self._ram = Ram(settings, issuer=self.ecs_endpoint)
        self.images = Images(settings, self._clock)
        self.region = Region(
            settings,
            [AddressPool(vswitch) for vswitch in settings.vswitches],
            find_image=self.images.find,
        )
        network = await self._start_vpc(stack, self.region.pools[0]) if settings.boot == "netns" else None

        self.keys = KeyRing(self._clock)
        self.issuer = await asyncio.to_thread(Issuer, self.ecs_endpoint, self._clock)
        self._open_books(stack)
        self.calls = CallLog()
        self.faults = Faults()

        if network:
            listeners.append(stack.enter_context(network.listen(str(network.gateway), self._port)))
            at = stack.enter_context(network.listen(metadata.ADDRESS, metadata.PORT))
            await _serve(stack, self._metadata(), [at])
        await self._serve_api(stack, listeners, oss_listener)
        await self._write_files(stack)
        log.info("local cloud is up", endpoint=self.ecs_endpoint, boot=settings.boot)

    def _open_books(self, stack: AsyncExitStack) -> None:
        settings, clock = self.settings, self._clock
        folder = settings.dir / "oss"
        make_private_folder(folder)
        self.objects = ObjectStore(folder, clock)
        stack.callback(folder.rmdir)
        stack.callback(self.objects.close)
        public = Addresses(PUBLIC_ADDRESSES[1], PUBLIC_ADDRESSES[-2])
        self.eips = Eips(clock, settings.timings, public, quota=settings.eip_quota)
        stack.push_async_callback(self.eips.close)
        self.enis = Enis(clock, settings.timings, quota=settings.eni_quota)
        self.enis.on_gone = self.eips.forget
        stack.push_async_callback(self.enis.close)
        self.instances = Instances(
            self._boot or NoBoot(),
            clock,
            settings.timings,
            settings.boot_seconds,
            enis=self.enis,
            public_addresses=public,
            stock=self.region.stock,
            quota=settings.instance_quota,
        )
        stack.push_async_callback(self.instances.close)

    async def _start_vpc(self, stack: AsyncExitStack, pool: AddressPool) -> "Vpc":
        from caa.fakecloud.netns_boot import NetnsBoot  # noqa: PLC0415  netlink is for those who boot
        from caa.fakecloud.vpc import Vpc  # noqa: PLC0415  as above

        network = await Vpc.create(self.settings.vpc_name, self.settings.vpc_cidr)
        stack.push_async_callback(network.close)
        self._gateway = network.gateway
        for netns in self.settings.workers:
            address = self.worker_addresses[netns] = pool.allocate()
            await network.attach(netns, address, "eth0", default_route=True)
        if self._boot is None:
            consoles = self.settings.dir / "consoles"
            make_private_folder(consoles)
            self._boot = NetnsBoot(network, consoles)
        return network

    async def _serve_api(
        self, stack: AsyncExitStack, listeners: Sequence[socket.socket], oss_listener: socket.socket
    ) -> None:
        settings = self.settings
        templates = Templates(self._clock, settings.launch_templates)
        server = ApiServer(
            [
                ecs(
                    self.region,
                    self.instances,
                    self.enis,
                    self.eips,
                    templates,
                    ImageApi(self.region, self.images, self.objects, self._clock).actions,
                ),
                vpc(self.region, self.instances, self.enis, self.eips),
                Sts(settings, self.keys, self.issuer, self._ram).service,
            ],
            verifier=SignatureVerifier(self.keys.find, self._clock),
            limiter=Limiter(settings.limits, self._clock),
            ram=self._ram,
            faults=self.faults,
            calls=self.calls,
            clock=self._clock,
        )
        books = Books(
            settings=settings,
            clock=self._clock,
            instances=self.instances,
            enis=self.enis,
            eips=self.eips,
            images=self.images,
            pools=self.region.pools,
            stock=self.region.stock,
            calls=self.calls,
            faults=self.faults,
        )
        page = Page()
        application = web.Application(client_max_size=MAX_REQUEST)
        application.router.add_route("*", "/", page.or_else(server.handle))
        application.add_routes(oidc_routes(self.issuer))
        application.add_subapp("/local", Admin(books, self.issuer).application(*page.routes()))
        context = None
        if settings.tls:
            authority = LocalAuthority()
            ca = settings.dir / "ca.pem"
            ca.write_bytes(authority.pem)
            stack.callback(ca.unlink, missing_ok=True)
            services = [f"{name}.{settings.region}.aliyuncs.com" for name in ("ecs", "vpc", "sts")]
            services += [f"{each}oss-{settings.region}.aliyuncs.com" for each in ("", "*.")]
            names = {"localhost", "127.0.0.1", settings.host, *services}
            context = authority.server_context(names | ({str(self._gateway)} if self._gateway else set()))
        await _serve(stack, application, listeners, context)
        oss = OssServer(
            settings,
            self.objects,
            verifier=OssVerifier(self.keys.find, self._clock, settings.region),
            ram=self._ram,
            faults=self.faults,
            calls=self.calls,
            clock=self._clock,
        )
        await _serve(stack, oss.application(), [oss_listener], context)

    def _metadata(self) -> web.Application:
        return metadata.Metadata(
            self.instances.at,
            region=self.settings.region,
            vpc_id=self.settings.vpc_id,
            vpc_cidr=self.settings.vpc_cidr,
            interfaces=self.instances.interfaces,
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
        ready(
            f"local cloud at {cloud.ecs_endpoint}, for a browser too;"
            f" a daemon's settings are in {settings.dir / 'env'}"
        )
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
