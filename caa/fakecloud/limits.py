"""How often each action may be called.

As ECS's page on API call throttling has it: each action of a region is counted on its own, over all callers
of the account; a window is a minute; a call above the limit is refused until the next window begins. A
refusal is `Throttling.User` with status 400, and says nothing of when to come back.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError

OTHERS = "*"
"""Stands for every action without a limit of its own; each is still counted alone."""

_OPTION = re.compile(r"(\*|[A-Za-z]+)=(\d{1,9})/(\d{1,5})s")


@dataclass(frozen=True)
class Limit:
    calls: int
    seconds: int = 60
    """Length of a window. Windows begin at the multiples of it since the epoch."""


REAL: Mapping[str, Limit] = {
    # What Terway, the cloud's own network plugin, keeps itself to by default: defaultLimit in
    # pkg/aliyun/client/ratelimit.go of AliyunContainerService/terway.
    OTHERS: Limit(500),
    "AttachNetworkInterface": Limit(500),
    "CreateNetworkInterface": Limit(500),
    "DeleteNetworkInterface": Limit(500),
    "DescribeInstanceTypes": Limit(400),
    "DescribeNetworkInterfaceAttribute": Limit(2000),
    "DescribeNetworkInterfaces": Limit(800),
    "DescribeVSwitches": Limit(300),
    "DetachNetworkInterface": Limit(400),
    # Assumed: the quotas of these are shown in an account's Quota Center only.
    "AllocateEipAddress": Limit(100),
    "AssociateEipAddress": Limit(100),
    "DeleteInstance": Limit(100),
    "DescribeEipAddresses": Limit(300),
    "DescribeInstanceAttribute": Limit(300),
    "DescribeInstances": Limit(300),
    "ReleaseEipAddress": Limit(100),
    "RunInstances": Limit(100),
    "UnassociateEipAddress": Limit(100),
}
"""About as tight as the real ones."""


def parse_limits(options: Iterable[str]) -> dict[str, Limit]:
    """What `none`, `real`, `Action=N/60s` and `*=N/60s`, one after the other, make. Raises ValueError."""
    limits: dict[str, Limit] = {}
    for option in options:
        if option == "none":
            limits.clear()
        elif option == "real":
            limits.update(REAL)
        elif (match := _OPTION.fullmatch(option)) and int(match[3]):
            limits[match[1]] = Limit(int(match[2]), int(match[3]))
        else:
            raise ValueError(
                f"{option!r}; allowed: none, real, or an action's calls in so many seconds such as"
                " RunInstances=10/60s, where the action * is each that has no limit of its own"
            )
    return limits


class Limiter:
    """Counts the calls of each action in the window that it is now."""

    def __init__(self, limits: Mapping[str, Limit], clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._counts: dict[str, tuple[int, int]] = {}
        """Of each action, its last window and the calls in it."""

    def admit(self, action: str) -> None:
        """Count the call. Raises ApiError if it is one too many; such a call is not counted."""
        limit = self._limits.get(action) or self._limits.get(OTHERS)
        if limit is None:
            return
        window = int(self._clock.now() // limit.seconds)
        last, calls = self._counts.get(action, (window, 0))
        if last != window:
            calls = 0
        if calls >= limit.calls:
            raise ApiError(400, "Throttling.User", "Request was denied due to user flow control.")
        self._counts[action] = window, calls + 1
