"""The server: HTTP in front of the store, and who may come in."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from aiohttp import web

from apiserver.faults import Faults
from apiserver.front import Front, Request
from apiserver.handlers import LARGEST_BODY
from apiserver.rbac import ADMIN_GROUP, Rbac, User
from apiserver.scene import Scene
from apiserver.store import Store
from apiserver.tls import Authority
from apiserver.tokens import Tokens

ADMIN = User("kubernetes-admin", frozenset({ADMIN_GROUP, "system:authenticated"}))

Listen = Callable[[int], socket.socket]
"""Makes the listening socket, for a port (0: any), on an address that clients can use; say, in a network
namespace. Called again when the server comes back."""


def listen_on_loopback(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


class ServiceAccountFolder:
    """What a pod finds at /var/run/secrets/kubernetes.io/serviceaccount."""

    def __init__(self, path: Path, ca: str, namespace: str, user: User, tokens: Tokens) -> None:
        self.path = path
        self._user = user
        self._tokens = tokens
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path / "ca.crt", ca)
        _write(path / "namespace", namespace)
        self.token = ""
        self.rotate()

    def rotate(self, *, lifetime: float = 3600) -> None:
        """Put a new token in the old one's place, as kubelet does; the old one is no good any more."""
        self._tokens.expire(self.token)
        self.token = self._tokens.issue(self._user, lifetime=lifetime)
        _write(self.path / "token", self.token)


class ApiServer(Scene):
    """`async with ApiServer() as api`: it serves, on a port of its own, until the end of the block.

    Everything that clients may do is in `rbac`; `faults` spoils answers; `requests` tells what came. With
    `stop()` it is gone, with all connections; `start()` brings it back on the same port, with its objects.
    """

    def __init__(
        self, *, listen: Listen = listen_on_loopback, tls: bool = True, peer_pods: bool = True
    ) -> None:
        super().__init__(Store())
        self.rbac = Rbac()
        self.tokens = Tokens()
        self.faults = Faults()
        self.controllers_run = True
        """Whether garbage is collected and namespaces are emptied."""
        self._front = Front(self.store, self.rbac, self.tokens, self.faults)
        self._listen = listen
        self._authority = Authority() if tls else None
        self._address = ""
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()
        self._controllers: asyncio.Task[None] | None = None
        if peer_pods:
            self.define_peer_pods()

    async def __aenter__(self) -> Self:
        await self.start()
        self.store.listeners.add(lambda _: self._changed.set())
        self._controllers = asyncio.create_task(self._run_controllers())
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        assert self._controllers is not None
        self._controllers.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._controllers

    async def _run_controllers(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.controllers_run:
                self.store.collect()

    # -- its place in the network

    @property
    def url(self) -> str:
        return f"{'https' if self._authority else 'http'}://{self._address}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a pod finds in its environment."""
        return {"KUBERNETES_SERVICE_HOST": self._address, "KUBERNETES_SERVICE_PORT": str(self._port)}

    @property
    def ca(self) -> str:
        """Empty without TLS."""
        return self._authority.pem if self._authority else ""

    async def start(self) -> None:
        """Listen, again."""
        listening = self._listen(self._port)
        self._address, self._port = listening.getsockname()[:2]
        app = web.Application(client_max_size=LARGEST_BODY + 1)
        app.router.add_route("*", "/{path:.*}", self._front.handle)
        # A handler ends with its connection; what hangs would never end by itself.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        context = self._authority.server_context(self._address) if self._authority else None
        await web.SockSite(self._runner, listening, ssl_context=context).start()

    async def stop(self) -> None:
        """Be gone: connections are reset, and new ones refused. The objects stay."""
        self._front.abort()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    # -- who comes

    def token(self, user: User = ADMIN, *, lifetime: float = 3600) -> str:
        return self.tokens.issue(user, lifetime=lifetime)

    def kubeconfig(self, path: Path, user: User = ADMIN, *, namespace: str = "default") -> Path:
        """Write one."""
        cluster = {"server": self.url}
        if self.ca:
            _write(path.with_name(f"{path.name}.ca.crt"), self.ca)
            cluster["certificate-authority"] = str(path.with_name(f"{path.name}.ca.crt"))
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": user.name, "user": {"token": self.token(user)}}],
            "contexts": [
                {"name": "it", "context": {"cluster": "cluster", "user": user.name, "namespace": namespace}}
            ],
            "current-context": "it",
        }
        _write(path, yaml.safe_dump(config))
        return path

    def service_account_folder(
        self,
        path: Path,
        *,
        namespace: str = "confidential-containers-system",
        name: str = "cloud-api-adaptor",
    ) -> ServiceAccountFolder:
        """Write one. The account has the rights that `rbac` gives it, and need not exist."""
        user = User.service_account(namespace, name)
        return ServiceAccountFolder(path, self.ca, namespace, user, self.tokens)

    # -- what came

    @property
    def requests(self) -> list[Request]:
        return self._front.requests

    def count(self, verb: str = "*", resource: str = "*", *, user: str = "*") -> int:
        """Requests so far. `resource` is a plural, with its subresource if it has one."""
        return sum(
            verb in ("*", each.call.verb)
            and resource in ("*", each.call.full_resource)
            and user in ("*", each.user)
            for each in self.requests
        )

    @property
    def watching(self) -> int:
        """Watches that are open."""
        return len(self._front.watches)

    def close_watches(self) -> None:
        """End them all, as the server does now and then."""
        for watch in tuple(self._front.watches):
            watch.close()

    def bookmark(self) -> None:
        """Send one to every watch that wants them."""
        for watch in tuple(self._front.watches):
            watch.bookmark()

    def expire_versions(self, *, of_open_watches: bool = False) -> None:
        """Forget all changes: watches that begin at a version from before now get 410 Gone, as an ERROR.
        Those that are open go on, or get it too."""
        self.store.compact()
        for watch in tuple(self._front.watches) if of_open_watches else ():
            watch.expire()


def _write(path: Path, text: str) -> None:
    """At once, as kubelet does: a reader finds the old text or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.touch(0o600)
    new.write_text(text)
    new.replace(path)
