"""The local cloud's own API, under /local/: look inside, order faults, mint tokens.

It speaks JSON and asks for no credentials: whoever reaches the listener may use it.

    GET    /local/state     instances, calls and armed faults; ?calls=N for the last N calls (100)
    POST   /local/fault     arm a fault (faults.Fault)
    DELETE /local/fault     disarm all
    POST   /local/token     {"seconds", "audience", "subject"}, all optional: a service account token
"""

import dataclasses
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from caa.fakecloud.calls import CallLog
from caa.fakecloud.clock import timestamp
from caa.fakecloud.faults import Fault, Faults
from caa.fakecloud.instances import Instance, Instances
from caa.fakecloud.oidc import AUDIENCE, Issuer


class _TokenOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: int = Field(default=3600, ge=-86400, le=86400)
    """Negative: a token that has expired already."""
    audience: str = AUDIENCE
    subject: str = ""


class Admin:
    def __init__(
        self, instances: Instances, calls: CallLog, faults: Faults, issuer: Issuer, service_account: str
    ) -> None:
        self._instances = instances
        self._calls = calls
        self._faults = faults
        self._issuer = issuer
        self._service_account = service_account

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/local/state", self._state),
            web.post("/local/fault", self._add_fault),
            web.delete("/local/fault", self._clear_faults),
            web.post("/local/token", self._mint_token),
        ]

    async def _state(self, request: web.Request) -> web.Response:
        wanted = request.query.get("calls", "100")
        if not wanted.isdecimal():
            raise web.HTTPBadRequest(text="calls must be a number")
        calls = list(self._calls)
        return web.json_response(
            {
                "instances": [self._show(each) for each in self._instances],
                "calls": [dataclasses.asdict(call) for call in calls[max(0, len(calls) - int(wanted)) :]],
                "faults": [fault.model_dump() for fault in self._faults],
            }
        )

    def _show(self, instance: Instance) -> dict[str, Any]:
        return {
            "id": instance.id,
            "name": instance.order.name,
            "type": instance.order.type.id,
            "status": self._instances.status(instance),
            "power": instance.power.value,
            "visible": self._instances.visible(instance.id) is not None,
            "address": str(instance.address),
            "public_address": str(instance.public_address) if instance.public_address else None,
            "zone": instance.order.pool.vswitch.zone_id,
            "created_at": timestamp(instance.created_at),
            "tags": dict(instance.order.tags),
        }

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault.model_validate_json(await request.read())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        self._faults.add(fault)
        return web.json_response(fault.model_dump())

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.json_response({})

    async def _mint_token(self, request: web.Request) -> web.Response:
        try:
            order = _TokenOrder.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        token = self._issuer.mint(
            order.subject or self._service_account, seconds=order.seconds, audience=order.audience
        )
        return web.json_response({"token": token})
