"""Client tokens: the same request made twice has one effect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from caa.fakecloud.errors import ApiError

LONGEST_TOKEN = 64


@dataclass(frozen=True)
class _Outcome:
    action: str
    parameters: Mapping[str, str]
    answer: dict[str, Any]


class ClientTokens:
    """Outcomes by client token. Only a success is kept: a request that was refused had no effect, and may
    be made again, with other parameters too.
    """

    def __init__(self) -> None:
        self._outcomes: dict[str, _Outcome] = {}

    def once(
        self, action: str, parameters: Mapping[str, str], effect: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The answer of `effect`, or of the call that had the same token and the same parameters.

        Raises ApiError for a token that other parameters were sent with.
        """
        token = parameters.get("ClientToken", "")
        if not token:
            return effect()
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise ApiError(
                400, "InvalidClientToken.ValueNotSupported", "The ClientToken provided is invalid."
            )
        known = self._outcomes.get(token)
        if known is None:
            known = self._outcomes[token] = _Outcome(action, dict(parameters), effect())
        elif (known.action, known.parameters) != (action, parameters):
            raise ApiError(
                400,
                "IdempotentParameterMismatch",
                "Request uses a client token in a previous request but is not identical to that request.",
            )
        return known.answer
