"""The seam between the server and the services: one table of actions a service."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from caa.fakecloud.keys import AccessKey
from caa.fakecloud.parameters import Parameters

Action = Callable[[Parameters], dict[str, Any]]
"""Gives the answer's body without its RequestId; raises ApiError. It must not wait: its effect and its
answer are one step, so that two equal calls at once can't both have the effect.
"""

OwnAction = Callable[[Parameters, AccessKey], dict[str, Any]]
"""As Action; it is about the caller, and is given its key."""


@dataclass(frozen=True)
class Service:
    """A product of the cloud, known by the version of its API."""

    name: str
    version: str
    actions: Mapping[str, Action]
    anonymous: frozenset[str] = frozenset()
    """Actions that are called without a signature, and need no policy."""
    own: Mapping[str, OwnAction] = field(default_factory=dict)
    """Actions that need a signature, but no policy."""
