"""How long a ground has lasted: counted only while somebody looked.

Time in which the API server was away says nothing: daemons could not remove finalizers then either, nor nodes
report. So a gap between two looks counts as one step at the most. Nothing is taken from timestamps of the
cluster, whose clocks may differ from ours.
"""

from collections.abc import Collection, Hashable


class Patience:
    """Without I/O. Times are in seconds, of any clock that does not jump."""

    def __init__(self, longest_step: float) -> None:
        self._longest_step = longest_step
        self._last: float | None = None
        self._watched = 0.0
        self._since: dict[str, tuple[Hashable, float]] = {}

    def looked(self, now: float) -> None:
        """Everything has been looked at, just now."""
        if self._last is not None:
            self._watched += min(max(now - self._last, 0.0), self._longest_step)
        self._last = now

    def lasted(self, uid: str, occasion: Hashable) -> float:
        """How long `uid` has had this occasion, without another in between; 0 at first."""
        known, since = self._since.get(uid, (None, self._watched))
        if known != occasion:
            since = self._watched
        self._since[uid] = (occasion, since)
        return self._watched - since

    def over(self, uid: str) -> None:
        """It has none at present."""
        self._since.pop(uid, None)

    def keep_only(self, uids: Collection[str]) -> None:
        self._since = {uid: known for uid, known in self._since.items() if uid in uids}
