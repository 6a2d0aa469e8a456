"""The seam between the server and the services: one table of actions a service."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from caa.fakecloud.parameters import Parameters

Action = Callable[[Parameters], dict[str, Any]]
"""Gives the answer's body without its RequestId; raises ApiError. It must not wait: its effect and its
answer are one step, so that two equal calls at once can't both have the effect.
"""


@dataclass(frozen=True)
class Service:
    """A product of the cloud, known by the version of its API."""

    name: str
    version: str
    actions: Mapping[str, Action]
    anonymous: frozenset[str] = frozenset()
    """Actions that are called without a signature, and need no policy."""
