"""What a cloud must offer.

All that a sandbox has in the cloud, or may have, is its *holding*: one JSON object that only the provider
reads, and that the journal keeps. A provider writes it (`Keep`) before each request that makes something
and after each answer, so that whatever happens in between, `release` of the last holding leaves nothing:

    plan ─► launch ─► addresses ─► complete   (pure; the instance; where it is; all else that belongs to it)
      └────────┴──────────┴───────────┴──► release   (at any moment, by any process that has the holding)
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Protocol

from caa.errors import CaaError

SANDBOX: ContextVar[str] = ContextVar("SANDBOX", default="")
"""The sandbox that the cloud is called for; empty: the node as a whole. Set by whoever owns the task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CloudCall:
    """One request to the cloud and what came of it."""

    action: str
    """Such as RunInstances."""
    outcome: str
    """ok, or the error's code."""
    request_id: str
    """The cloud's name for the request, which its support asks for; empty if there was no answer."""
    began_at: float
    """Unix time."""
    seconds: float
    sandbox: str


CallObserver = Callable[[CloudCall], None]
"""Told of each request when it has ended."""


@dataclass(frozen=True)
class VmOrder:
    """What a sandbox asks of the cloud, in the cloud's neutral terms."""

    sandbox_id: str
    pod_name: str
    pod_namespace: str
    name: str
    """The instance name, at most 63 characters."""
    user_data: bytes
    """The cloud-config document, not yet base64."""
    client_token: str
    """At most 48 ASCII characters, used in no other order: what is asked for with it is made once."""
    image: str = ""
    """Overrides the configured image for this pod; empty: the configured one."""
    instance_type: str = ""
    """Asked for by name; empty: chosen by the demands below."""
    vcpus: int = 0
    memory_mib: int = 0
    gpus: int = 0
    second_interface: bool = False
    """The pod's own traffic leaves through an interface of its VM (EXTERNAL_NETWORK_VIA_PODVM)."""
    tags: Mapping[str, str] = field(default_factory=dict)


Holding = Mapping[str, Any]
"""A JSON object, opaque to all but the provider that made it. May hold the pod VM's keys: keep it as a
secret."""

Keep = Callable[[Holding], Awaitable[None]]
"""Replaces the sandbox's holding in the journal; it is on disk on return."""


@dataclass(frozen=True)
class Stray:
    """Something in the cloud that carries this node's mark and belongs to no sandbox that the node knows."""

    kind: str
    """instance, ENI or EIP."""
    id: str
    name: str
    sandbox: str
    """That it was made for."""
    created_at: str
    """As the cloud tells it."""


@dataclass(frozen=True, slots=True)
class InstanceLabels:
    """By what an instance can be told from others."""

    name: str
    tags: Mapping[str, str]
    """Empty if the right to read them is missing."""


class Reaping(Protocol):
    """What a cloud offers to those who clean up after a node that is gone, with its journal. Both methods may
    raise the errors of `caa.errors`.
    """

    async def labels(self, instance_id: str) -> InstanceLabels | None:
        """None: there is no such instance."""

    async def reap(self, instance_id: str, sandbox: str) -> None:
        """Remove an instance and, where its sandbox is known, all else that is marked with that. What is gone
        is no error.
        """


class Provider(Protocol):
    """A cloud. Every method may raise the errors of `caa.errors`."""

    name: str

    async def check(self, *, verify: bool, second_interface: bool = False) -> None:
        """Fail early. Checks credentials and settings as far as it costs nothing; with `verify`
        (CLOUD_CONFIG_VERIFY) asks the cloud about each. `second_interface`: pods will ask for one. Raises
        StartupError.
        """

    def plan(self, order: VmOrder) -> Holding:
        """Choose the instance types that will do and write the requests. Raises InvalidArgumentError."""

    async def launch(self, holding: Holding, keep: Keep) -> str:
        """Create the instance and return its id, once the cloud has taken the request. Failed or cancelled,
        it may leave something: `release` the last holding that was kept.
        """

    async def addresses(self, holding: Holding, keep: Keep) -> tuple[IPv4Address, ...]:
        """Wait for the addresses by which this worker reaches the instance, the one to dial first. They are
        there well before the instance runs. As `launch` if it fails.
        """

    async def complete(self, holding: Holding) -> None:
        """See to what can be done only once the instance runs. As `launch` if it fails."""

    async def release(self, holding: Holding, keep: Keep) -> None:
        """Remove all that the holding stands for; returns when the cloud has accepted that. What is gone is
        no error. What has been removed is kept, so that a repetition after a failure goes on from there.
        """

    async def strays(self) -> tuple[list[Stray], list[CaaError]]:
        """All that carries this node's mark in the cloud, and why some kinds of it could not be looked for:
        a PermissionDeniedError where the right to list them is missing.
        """

    async def release_stray(self, stray: Stray) -> None:
        """Remove it, if it still carries this node's mark. What is gone is no error."""

    def credentials_left(self) -> float | None:
        """Seconds that the present credentials stay valid; None: for ever."""

    async def close(self) -> None:
        """Release connections and threads."""
