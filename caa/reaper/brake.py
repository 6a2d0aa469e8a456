"""Not too many, not too fast: a reaper that wants to kill half of all VMs is more likely wrong than right."""

from collections import deque

_WINDOW = 3600.0
"""Seconds that count as "at once"."""
_MINUTE = 60.0


class Brake:
    """Without I/O. Times are in seconds, of any clock that does not jump."""

    def __init__(self, *, per_minute: int, share: float, always: int) -> None:
        """At most `per_minute`, and none once more than `share` (0 to 1) of all would go within the hour;
        `always` are allowed however few there are.
        """
        self._per_minute = per_minute
        self._share = share
        self._always = always
        self._gone: deque[float] = deque()

    def holds(self, due: int, held: int, now: float) -> str:
        """Why none may be reaped, of `held` claims of which `due` are to be; empty: go on."""
        while self._gone and self._gone[0] <= now - _WINDOW:
            self._gone.popleft()
        wanted, all_of_them = len(self._gone) + due, len(self._gone) + held
        if wanted <= max(self._always, self._share * all_of_them):
            return ""
        return (
            f"{wanted} of {all_of_them} instances would be reaped within an hour, which is more than"
            f" {self._share:.0%}"
        )

    def take(self, now: float) -> bool:
        """Whether one more may go now; it counts as gone then."""
        if sum(each > now - _MINUTE for each in self._gone) >= self._per_minute:
            return False
        self._gone.append(now)
        return True
