"""What is told of sandboxes: the JSON of the admin API, and of `caa ps`, `show` and `gc` with -o json.

Nothing here has the pod VM's keys: a `Life` comes without what its sandbox holds.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from caa.errors import InvalidArgumentError, NotFoundError
from caa.sandbox import Event, Life

ENDED = "ended"
"""The state of a sandbox that is gone, beside those of `caa.sandbox.State`."""


class _View(BaseModel):
    # Reads what a newer daemon tells more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class EventView(_View):
    at: datetime
    kind: str
    text: str
    details: dict[str, str]

    @classmethod
    def of(cls, event: Event) -> Self:
        at = datetime.fromtimestamp(event.at, UTC)
        return cls(at=at, kind=event.kind, text=event.text, details=dict(event.details))


class SandboxView(_View):
    """A sandbox, from its CreateVM to its end."""

    id: str
    namespace: str
    pod: str
    state: str
    """One of `caa.sandbox.State`, or ended."""
    began: datetime | None
    """None: under a version that did not write it down."""
    since: datetime | None
    """When it came into its state."""
    ended: datetime | None
    name: str
    """Its instance's."""
    instance: str
    """The id; empty: none is known."""
    addresses: tuple[str, ...]
    vni: int | None
    netns: str
    folder: str
    error: str
    """What went wrong last."""
    events: tuple[EventView, ...] = ()
    left_out: int = 0
    """Events that were dropped, after the first `caa.sandbox.FIRST_KEPT`."""

    @classmethod
    def of(cls, life: Life, pods_dir: Path) -> Self:
        sandbox = life.sandbox
        return cls(
            id=sandbox.id,
            namespace=sandbox.pod_namespace,
            pod=sandbox.pod_name,
            state=ENDED if life.ended is not None else sandbox.state,
            began=_time(life.began),
            since=_time(life.since if life.ended is None else life.ended),
            ended=_time(life.ended),
            name=sandbox.name,
            instance=sandbox.instance_id,
            addresses=sandbox.addresses,
            vni=sandbox.network.get("vxlan-id"),
            netns=sandbox.netns,
            folder=str(pods_dir / sandbox.id),
            error=life.error,
            events=tuple(EventView.of(event) for event in life.events),
            left_out=life.left_out,
        )

    def brief(self) -> dict[str, Any]:
        """As JSON for a list: without its events."""
        return self.model_dump(mode="json", exclude={"events", "left_out"})

    @property
    def pod_path(self) -> str:
        return f"{self.namespace}/{self.pod}"


Fate = Literal["removed", "to be removed", "left", "failed"]


class Leftover(_View):
    """Something that may be left over, and what becomes of it."""

    kind: str
    """sandbox, instance, ENI or EIP."""
    id: str
    of: str
    """The pod, or the sandbox if that is all that is known."""
    since: datetime | None
    fate: Fate
    why: str


class Collection(_View):
    """What was found to be left over, and done about it."""

    leftovers: tuple[Leftover, ...]
    unseen: str = ""
    """Why only the journal was looked at, and not the cloud; empty: both were."""
    denied: bool = False
    """It is for want of a right, which nobody has to grant."""


def find(word: str, sandboxes: Sequence[SandboxView]) -> SandboxView:
    """The sandbox that an operator means: by its id or an unambiguous beginning of it, or by its pod as
    namespace/name. Of several with the same id or pod, the first counts.

    Raises NotFoundError, and InvalidArgumentError for a beginning of several.
    """
    found = [each for each in sandboxes if word in (each.id, each.pod_path)][:1]
    found = found or [each for each in sandboxes if word and each.id.startswith(word)]
    ids = {each.id for each in found}
    if len(ids) > 1:
        several = ", ".join(sorted(f"{each.id} ({each.pod_path})" for each in found)[:5])
        raise InvalidArgumentError(f"{word!r} may be one of several sandboxes: {several}")
    if not found:
        raise NotFoundError(
            f"no sandbox here is {word!r}: neither an id, nor the beginning of one, nor namespace/name of a"
            " pod; caa ps --all lists them"
        )
    return found[0]


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
