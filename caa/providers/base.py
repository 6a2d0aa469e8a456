"""What a cloud must offer.

A provider's life with one pod VM: `plan` (pure; everything that the create request will hold), then
`launch` (the side effect, safe to repeat with the same plan), `wait_for_addresses`, and `delete`.
The plan is written to the journal before `launch`, so that a create whose answer was lost can be
asked for again with exactly the same request, found through its client token, and deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Protocol


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
    """At most 64 ASCII characters; the same for every try of this order."""
    image: str = ""
    """Overrides the configured image for this pod; empty: the configured one."""
    instance_type: str = ""
    """Asked for by name; empty: chosen by the demands below."""
    vcpus: int = 0
    memory_mib: int = 0
    gpus: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)


LaunchPlan = Mapping[str, Any]
"""A JSON object, opaque to all but the provider that made it."""


class Provider(Protocol):
    """A cloud. Every method may raise the errors of `caa.errors`; none leaves a cost behind when it does,
    except `launch`, whose effect is to be removed with `undo_launch`.
    """

    name: str

    async def check(self, *, verify: bool) -> None:
        """Fail early. Checks credentials and settings as far as it costs nothing; with `verify`
        (CLOUD_CONFIG_VERIFY) asks the cloud about each. Raises StartupError.
        """

    def plan(self, order: VmOrder) -> LaunchPlan:
        """Choose the instance type and build the create request. Raises InvalidArgumentError."""

    async def launch(self, plan: LaunchPlan) -> str:
        """Create the instance and return its id, once the cloud has taken the request. Repeating it with
        the same plan returns the same instance.
        """

    async def undo_launch(self, plan: LaunchPlan) -> None:
        """Remove the instance of a `launch` whose outcome is not known, if there is one."""

    async def wait_for_addresses(self, instance_id: str) -> tuple[IPv4Address, ...]:
        """The addresses by which this worker reaches the instance, the one to dial first. Returns as soon
        as they are known, which is well before the instance runs.
        """

    async def delete(self, instance_id: str, *, seen: bool) -> None:
        """Delete the instance and what belongs to it; returns when the cloud has accepted that. An
        instance that is gone is no error. `seen`: `wait_for_addresses` has found it once; if not, "not
        found" may also mean that the cloud does not know it yet.
        """

    async def close(self) -> None:
        """Release connections and threads."""
