"""What is known of one sandbox, as an immutable record."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from caa.sandbox.states import MOVES, State


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandbox:
    """One sandbox. Changes are made by `move` and `learn`, which give a new record."""

    id: str
    pod_name: str
    pod_namespace: str
    netns: str
    """Path of the pod's network namespace on the worker."""
    name: str
    """Name of the instance and of its TLS server certificate."""
    slot: int
    """The pod's number on this node; its VNI is the lowest VNI plus this."""
    boot_id: str
    """Boot of the worker in which the sandbox was made: no pod outlives its node's boot."""
    state: State
    network: Mapping[str, Any]
    """The pod's network (`caa.tunnel.PodNetwork`) as JSON."""
    holding: Mapping[str, Any]
    """What it has in the cloud, or may have (`caa.providers.Holding`). May hold the pod VM's keys."""
    instance_id: str = ""
    addresses: tuple[str, ...] = ()
    error: str = ""
    """Why it is being taken down, if not by StopVM."""
    pod_uid: str = ""
    """Empty: not known."""
    peer_pod: str = ""
    """Name of its PeerPod object, or of the one to be; empty: none."""

    def move(self, state: State, **changes: Any) -> Self:
        """The record in another state. Raises ValueError for a move that the table does not have."""
        if state not in MOVES[self.state]:
            raise ValueError(f"sandbox {self.id} can't go from {self.state} to {state}")
        return replace(self, state=state, **changes)

    def learn(self, **changes: Any) -> Self:
        """The record with more known, in the same state."""
        return replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError for anything but what `to_json` wrote."""
        values = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not values.keys() <= known:
            raise ValueError(f"not a sandbox: {text[:80]}")
        values["state"] = State(values["state"])
        values["addresses"] = tuple(values["addresses"])
        return cls(**values)
