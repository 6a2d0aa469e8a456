"""What both ends of a tunnel must know about the pod's network, and its JSON form.

The JSON is a contract: the worker writes it into the forwarder config that goes to the pod VM (`pod-network`
in apf.json), where a Go program of another release may read it, and the other way round. So a model writes
exactly what the Go structure writes: every key, except the few that Go leaves out at their zero value, with
"" for an address that is not set and never null. It reads more: any key may be missing, and a list may be
null.
"""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

RouteProtocol = Literal["static", "boot", "dhcp", "kernel"]
RouteScope = Literal["universe", "site", "link", "host", "nowhere"]
NeighborState = Literal[
    "none", "incomplete", "reachable", "stale", "delay", "probe", "failed", "noarp", "permanent"
]

DEFAULT_ROUTE = IPv4Network("0.0.0.0/0")


def _unset(value: Any) -> Any:
    """Go's netip types write and read an address that is not set as ""."""
    if isinstance(value, int):
        raise ValueError("an address is a text")  # noqa: TRY004 - pydantic reports ValueError
    return None if value == "" else value


def _network(value: Any) -> Any:
    """A destination that is not set is the default route; host bits are dropped, as routes have none."""
    if value in ("", None):
        return DEFAULT_ROUTE
    return IPv4Network(value, strict=False) if isinstance(value, str) else value


def _sequence(value: Any) -> Any:
    """Go writes an empty list as null."""
    return () if value is None else value


def _text(value: object) -> str:
    return "" if value is None else str(value)


Address = Annotated[IPv4Address | None, BeforeValidator(_unset), PlainSerializer(_text)]
Prefix = Annotated[IPv4Interface | None, BeforeValidator(_unset), PlainSerializer(_text)]
Destination = Annotated[IPv4Network, BeforeValidator(_network), PlainSerializer(_text)]
# The kernel's own rule for names of interfaces (dev_valid_name); "" is "not set".
Device = Annotated[str, StringConstraints(max_length=15, pattern=r"^[^\s/:]*$")]
HardwareAddress = Annotated[str, StringConstraints(pattern=r"^(([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2})?$")]


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    left_out_when_zero: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_go_does(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value or key not in self.left_out_when_zero}


class Route(_Model):
    """A route of the pod. No protocol, or none of the four names: the reader's default."""

    left_out_when_zero = frozenset({"dev", "protocol", "scope"})

    dst: Destination = DEFAULT_ROUTE
    gw: Address = None
    dev: Device = ""
    protocol: RouteProtocol | None = None
    scope: RouteScope | None = None
    """None is Go's zero value, which means `universe`."""


class Neighbor(_Model):
    """A fixed entry of the pod's neighbour table, such as Calico's for its link-local gateway."""

    left_out_when_zero = frozenset({"hw-addr", "dev", "state"})

    ip: Address = None
    hw_addr: HardwareAddress = ""
    dev: Device = ""
    state: NeighborState | None = None


class PodNetwork(_Model):
    """The pod's network as its CNI plugin made it on the worker, and the tunnel that carries it to the pod
    VM.

    Source of keys and meanings: the contract of the tunnel; of what is left out when zero:
    `pkg/podnetwork/tunneler` of cloud-api-adaptor.
    """

    left_out_when_zero = frozenset({"vxlan-port", "vxlan-id"})

    podip: Prefix = None
    pod_hw_addr: HardwareAddress = ""
    interface: Device = ""
    worker_node_ip: Prefix = None
    tunnel_type: Annotated[Literal["vxlan"], BeforeValidator(lambda value: value or "vxlan")] = "vxlan"
    routes: Annotated[tuple[Route, ...], BeforeValidator(_sequence)] = ()
    neighbors: Annotated[tuple[Neighbor, ...], BeforeValidator(_sequence)] = ()
    mtu: int = Field(default=0, ge=0, le=65535)
    index: int = Field(default=0, ge=0)
    vxlan_port: int = Field(default=0, ge=0, le=65535)
    vxlan_id: int = Field(default=0, ge=0, lt=2**24)
    dedicated: bool = False
    """The tunnel runs on another interface of worker and VM than the primary."""
    external_net_via_pod_vm: bool = False
