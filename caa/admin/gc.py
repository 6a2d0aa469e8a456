"""What is left over on a node and in the cloud: judged here, without doing anything about it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from caa.providers import Stray
from caa.sandbox import Life, State

YOUNG_SECONDS = 300.0
"""What the cloud made less long ago is left alone: another process may be about to write it down."""


@dataclass(frozen=True)
class Verdict:
    remove: bool
    why: str


def judge_sandbox(life: Life, *, alone: bool, netns_exists: Callable[[str], bool]) -> Verdict | None:
    """Whether a sandbox that lives is left over, or None: it is as it should be. `alone`: no daemon runs, so
    nobody is at work on it.

    One that runs is never removed: what looks like the end of its pod may be a mount that is missing here.
    """
    sandbox = life.sandbox
    pod_is_gone = not netns_exists(sandbox.netns)
    match sandbox.state:
        case State.STOPPING if alone:
            return Verdict(remove=True, why="its removal was cut short")
        case State.STOPPING:
            return Verdict(remove=False, why="the daemon is removing it")
        case State.CREATING | State.STARTING if alone:
            return Verdict(remove=True, why="the daemon that was making it is gone")
        case State.CREATED if pod_is_gone:
            return Verdict(remove=True, why="its pod's network namespace is gone")
        case State.RUNNING if pod_is_gone:
            return Verdict(
                remove=False, why="it runs, but its network namespace is gone: caa rm if its pod is too"
            )
    return None


def judge_stray(stray: Stray, known: Collection[str], now: float) -> Verdict | None:
    """Whether something in the cloud with this node's mark is left over, or None: it belongs to a sandbox
    that lives. `known` has the ids of those, and of their instances.
    """
    if stray.sandbox in known or stray.id in known:
        return None
    made = created(stray)
    if made is None:
        return Verdict(remove=False, why=f"the cloud does not tell when it was made: {stray.created_at!r}")
    if now - made.timestamp() < YOUNG_SECONDS:
        return Verdict(remove=False, why=f"made less than {YOUNG_SECONDS / 60:g} minutes ago")
    return Verdict(remove=True, why="it belongs to no sandbox of this node")


def created(stray: Stray) -> datetime | None:
    try:
        made = datetime.fromisoformat(stray.created_at)
    except ValueError:
        return None
    return made if made.tzinfo else made.replace(tzinfo=UTC)
