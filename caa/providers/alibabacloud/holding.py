"""What a sandbox has in the cloud, or may have: the provider's side of a `Holding`.

An instance, an ENI and an EIP are each asked for by a request that carries a client token, so one state does
for all three: first only the request is known (it may have been sent, its answer may be lost), then the id.
Whoever finds a request without an id repeats it, which gives the id of what it made the first time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from caa.providers.base import Holding, Keep

Kind = Literal["instance", "eni", "eip"]


class Place(NamedTuple):
    """What stock is a matter of. Empty: the launch template's."""

    instance_type: str
    vswitch: str


@dataclass(frozen=True)
class Order:
    """What is to be made. Its request holds the user data, in which there are keys."""

    request: Mapping[str, Any]
    """RunInstances, but for what the place decides."""
    token: str
    """Each request's client token begins with it."""
    places: tuple[Place, ...]
    """Where it may be made, the best first."""
    interface: Mapping[str, Any] | None
    """The second interface, as CreateNetworkInterface and RunInstances both take it; None: there is none."""
    eip: Mapping[str, Any] | None
    """AllocateEipAddress, for the second interface."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "places": tuple(Place(*each) for each in value["places"])})

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class Resource:
    """Something that the cloud was asked for, or is about to be."""

    request: Mapping[str, Any] | None = None
    """Until the id is known."""
    id: str = ""
    vswitch: str = ""
    """That it is bound to, if that matters to those who come later."""


class Held:
    """A holding at work: each change of it is in the journal before the work goes on."""

    def __init__(self, holding: Holding, keep: Keep) -> None:
        self._keep = keep
        self.order: Order | None = None
        self._resources: dict[Kind, Resource] = {}
        self.seen = False
        """Calls other than the one that made it have found the instance."""
        if "version1" in holding:
            self._read_version1(**holding["version1"])
            return
        if holding.get("order"):
            self.order = Order.from_json(holding["order"])
        self._resources = {kind: Resource(**each) for kind, each in holding.get("resources", {}).items()}
        self.seen = holding.get("seen", False)

    def _read_version1(self, plan: Mapping[str, Any] | None, *, launched: bool, instance_id: str) -> None:
        """What the journal's first schema knew: an instance, or its request."""
        request = plan["RunInstances"] if plan else None
        if instance_id:
            self._resources["instance"] = Resource(id=instance_id)
            self.seen = True
        elif request and launched:
            self._resources["instance"] = Resource(request)
        elif request:
            place = Place(request["InstanceType"], request["VSwitchId"])
            self.order = Order(request, request["ClientToken"], (place,), None, None)

    def to_json(self) -> Holding:
        return {
            "order": self.order.to_json() if self.order else None,
            "resources": {kind: vars(each) for kind, each in self._resources.items()},
            "seen": self.seen,
        }

    def __getitem__(self, kind: Kind) -> Resource | None:
        return self._resources.get(kind)

    async def set(self, kind: Kind, resource: Resource | None) -> None:
        """None: it does not exist, whatever was asked for."""
        if resource is None:
            self._resources.pop(kind, None)
        else:
            self._resources[kind] = resource
        await self._keep(self.to_json())

    async def launched(self, instance_id: str) -> None:
        """The instance is there, so the order, with its keys, is no longer needed."""
        self.order = None
        await self.set("instance", Resource(id=instance_id))

    async def found(self) -> None:
        self.seen = True
        await self._keep(self.to_json())
