"""Asking the cloud to make something, once."""

from collections.abc import Callable, Mapping
from typing import Any

from caa.errors import FailedPreconditionError, UnavailableError
from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.errors import ApiError, Kind, explained
from caa.providers.alibabacloud.retry import jittered, persist

TIMEOUT = 300.0
"""Seconds. Those who call have deadlines of their own, which are the ones that count."""

_NOTHING_MADE = frozenset({Kind.NO_STOCK, Kind.FULL, Kind.REFUSED})
"""Answers that say that a client token has made nothing: one that has gives its id, whatever has become of
stock and quota."""
_NOT_LET_IN = frozenset({Kind.DENIED, Kind.EXPIRED})
"""Answers that say the same only if no earlier try's answer was lost."""


class Creation:
    """One action that makes one thing, and is safe to repeat, since its requests carry a client token."""

    def __init__(self, client: Client, action: str, id_of: Callable[[Mapping[str, Any]], object]) -> None:
        """`id_of` finds the id in the answer; may raise LookupError or TypeError."""
        self._client = client
        self._action = action
        self._id_of = id_of

    async def make(self, request: Mapping[str, Any]) -> str:
        """The id of what the request makes or, repeated, has made. Raises ApiError, which tells whether
        nothing was made (`made_nothing`), for a request that nobody has sent before.
        """
        lost = False

        async def ask() -> tuple[dict[str, Any] | None, str]:
            nonlocal lost
            try:
                return await self._client.call(self._action, request), ""
            except ApiError as error:
                lost |= error.kind is Kind.LOST
                raise

        try:
            answer = await persist(
                ask, what=f"{self._action} to be accepted", timeout=TIMEOUT, pauses=jittered(0.5, 8.0)
            )
        except ApiError as error:
            error.made_nothing = error.kind in _NOTHING_MADE or (error.kind in _NOT_LET_IN and not lost)
            raise
        try:
            made = self._id_of(answer)
        except (LookupError, TypeError):
            made = None
        if not isinstance(made, str) or not made:
            raise UnavailableError(f"{self._action}: the answer does not name what was made")
        return made

    async def made_by(self, request: Mapping[str, Any]) -> str:
        """The id of what a request has made whose answer was not seen; empty if it has made nothing.

        It repeats the request, so it may make the thing only now. A request that is still under way, since a
        thread can't be stopped, is waited for: nothing can come after the deletion.
        """
        token = request["ClientToken"]
        await self._client.settled(token)
        try:
            return await self.make(request)
        except ApiError as error:
            if error.kind in _NOTHING_MADE:
                return ""
            if error.kind is Kind.TOKEN_REUSED:
                name = next((str(request[key]) for key in _NAMES if key in request), "")
                raise FailedPreconditionError(
                    f"{explained(error)}. There may be {name} in {request['RegionId']} (client token"
                    f" {token}): look for it, and delete it"
                ) from None
            raise explained(error) from None


_NAMES = ("InstanceName", "NetworkInterfaceName", "Name")
