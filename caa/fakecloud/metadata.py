"""The metadata service, which instances reach at 100.100.100.200: who they are, and their user data.

In token mode, PUT /latest/api/token with X-aliyun-ecs-metadata-token-ttl-seconds (1 to 21600) gives a token
for X-aliyun-ecs-metadata-token. A wrong one is always refused, a missing one where tokens are required.
"""

import secrets
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network

from aiohttp import web

from caa.fakecloud.clock import Clock
from caa.fakecloud.enis import Eni
from caa.fakecloud.instances import Instance

ADDRESS = "100.100.100.200"
PORT = 80
LONGEST_TOKEN = 21600
TOKEN_HEADER = "X-aliyun-ecs-metadata-token"  # noqa: S105  a header's name
TTL_HEADER = "X-aliyun-ecs-metadata-token-ttl-seconds"


class Metadata:
    def __init__(
        self,
        find: Callable[[str], Instance | None],
        *,
        region: str,
        vpc_id: str,
        vpc_cidr: IPv4Network,
        tokens_required: bool,
        clock: Clock,
        interfaces: Callable[[Instance], Sequence[Eni]],
    ) -> None:
        """`find` gives the instance that has an address, `interfaces` those that it has."""
        self._find = find
        self._interfaces = interfaces
        self._vpc_cidr = vpc_cidr
        self._region = region
        self._vpc_id = vpc_id
        self._tokens_required = tokens_required
        self._clock = clock
        self._tokens: dict[str, tuple[str, float]] = {}

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_put("/latest/api/token", self._token)
        application.router.add_get("/latest/user-data", self._user_data)
        application.router.add_get("/latest/meta-data/{key:.*}", self._value)
        return application

    async def _token(self, request: web.Request) -> web.Response:
        ttl = request.headers.get(TTL_HEADER, "")
        if not ttl.isdecimal() or not 1 <= int(ttl) <= LONGEST_TOKEN:
            raise web.HTTPBadRequest(text=f"{TTL_HEADER} must be from 1 to {LONGEST_TOKEN}")
        now = self._clock.now()
        self._tokens = {token: (of, until) for token, (of, until) in self._tokens.items() if until > now}
        token = secrets.token_urlsafe(32)
        self._tokens[token] = (self._caller(request).id, now + int(ttl))
        return web.Response(text=token)

    async def _user_data(self, request: web.Request) -> web.Response:
        data = self._admitted(request).order.user_data
        if not data:
            raise web.HTTPNotFound
        return web.Response(body=data, content_type="application/octet-stream")

    async def _value(self, request: web.Request) -> web.Response:
        """Of a key, its value; of a folder, what is in it, folders with a slash at the end."""
        values = self._values(self._admitted(request))
        key = request.match_info["key"]
        if key in values:
            return web.Response(text=values[key])
        folder = f"{key.rstrip('/')}/" if key else ""
        below = (each.removeprefix(folder) for each in values if each.startswith(folder))
        entries = {f"{first}/" if slash else first for first, slash, _ in (e.partition("/") for e in below)}
        if not entries:
            raise web.HTTPNotFound
        return web.Response(text="\n".join(sorted(entries)))

    def _values(self, instance: Instance) -> dict[str, str]:
        order = instance.order
        public = {"public-ipv4": str(instance.public_address)} if instance.public_address else {}
        return {
            "hostname": order.host_name or instance.id.replace("-", "Z"),
            "image-id": order.image_id,
            "instance-id": instance.id,
            "instance/instance-name": order.name,
            "instance/instance-type": order.type.id,
            "mac": instance.mac,
            "private-ipv4": str(instance.address),
            "region-id": self._region,
            "vpc-id": self._vpc_id,
            "vswitch-cidr-block": str(order.pool.vswitch.cidr),
            "vswitch-id": order.pool.vswitch.id,
            "zone-id": order.pool.vswitch.zone_id,
            **public,
        } | {
            f"network/interfaces/macs/{eni.mac}/{key}": value
            for eni in self._interfaces(instance)
            for key, value in self._interface(eni).items()
        }

    def _interface(self, eni: Eni) -> dict[str, str]:
        return {
            # Where vSwitches have networks and gateways of their own, the local VPC is all one network.
            "gateway": str(self._vpc_cidr.broadcast_address - 2),
            "netmask": str(self._vpc_cidr.netmask),
            "network-interface-id": eni.id,
            "primary-ip-address": str(eni.address),
            "private-ipv4s": f'["{eni.address}"]',
            "vpc-cidr-block": str(self._vpc_cidr),
            "vpc-id": self._vpc_id,
            "vswitch-cidr-block": str(eni.pool.vswitch.cidr),
            "vswitch-id": eni.pool.vswitch.id,
        }

    def _admitted(self, request: web.Request) -> Instance:
        """The caller, if its token is right, or is not needed."""
        instance = self._caller(request)
        token = request.headers.get(TOKEN_HEADER)
        if token is None and not self._tokens_required:
            return instance
        of, until = self._tokens.get(token or "", ("", 0.0))
        if of != instance.id or until <= self._clock.now():
            raise web.HTTPForbidden(text=f"{TOKEN_HEADER} is missing, wrong or expired")
        return instance

    def _caller(self, request: web.Request) -> Instance:
        instance = self._find(request.remote or "")
        if instance is None:
            raise web.HTTPNotFound
        return instance
