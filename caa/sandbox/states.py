"""The life of a sandbox: its states, the moves between them, and the steps of each move.

    CreateVM            StartVM                       StopVM
    ───────► CREATING ─► CREATED ─► STARTING ─► RUNNING ─► STOPPING ─► (forgotten)
                 └──────────┴──────────┴───── failed, cancelled ──┘

There is no way back: a sandbox that failed is taken down and forgotten, and a new CreateVM begins a new
life with a new client token. What a restarted daemon does with a sandbox follows from its state alone.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum, StrEnum, unique
from types import MappingProxyType


@unique
class State(StrEnum):
    CREATING = "creating"
    """CreateVM is at work: a VNI is held, files may exist."""
    CREATED = "created"
    """CreateVM has answered. Nothing exists in the cloud."""
    STARTING = "starting"
    """StartVM is at work: an instance may exist, known or not."""
    RUNNING = "running"
    STOPPING = "stopping"
    """Being taken down, by StopVM or because StartVM did not succeed."""


class Recovery(Enum):
    """What a restarted daemon does with a sandbox."""

    UNDO = "take it down: its caller is gone"
    KEEP = "wait for StartVM"
    RESUME = "listen on its agent socket again"


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.CREATING: frozenset({State.CREATED, State.STOPPING}),
        State.CREATED: frozenset({State.STARTING, State.STOPPING}),
        State.STARTING: frozenset({State.RUNNING, State.STOPPING}),
        State.RUNNING: frozenset({State.STOPPING}),
        State.STOPPING: frozenset(),
    }
)

RECOVERY: Mapping[State, Recovery] = MappingProxyType(
    {
        State.CREATING: Recovery.UNDO,
        State.CREATED: Recovery.KEEP,
        State.STARTING: Recovery.UNDO,
        State.RUNNING: Recovery.RESUME,
        State.STOPPING: Recovery.UNDO,
    }
)


@unique
class Step(IntEnum):
    """The numbered points between which a sandbox's side effects happen.

    *_RECORDED and *_INTENDED are in the journal when the step is reached; the others are effects that
    have happened and that the journal does not know of yet. A daemon may be killed at any of them.
    """

    CREATE_INTENDED = 1
    FOLDER_MADE = 2
    CREATE_RECORDED = 3

    LAUNCH_INTENDED = 4
    LAUNCHED = 5
    LAUNCH_RECORDED = 6
    ADDRESS_KNOWN = 7
    ADDRESS_RECORDED = 8
    TUNNEL_UP = 9
    AGENT_REACHED = 10
    SOCKET_LISTENING = 11
    RUNNING_RECORDED = 12

    STOP_INTENDED = 13
    SOCKET_CLOSED = 14
    TUNNEL_DOWN = 15
    INSTANCE_DELETED = 16
    FOLDER_REMOVED = 17
    FORGOTTEN = 18
