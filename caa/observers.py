"""What all observers have in common: who is observed has better things to do than to handle their faults."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import structlog

_P = ParamSpec("_P")

_log = structlog.get_logger(__name__)


def never_raises(observe: Callable[_P, None]) -> Callable[_P, None]:
    """An observer that logs what it can't do."""

    @functools.wraps(observe)
    def observed(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            observe(*args, **kwargs)
        except Exception:  # noqa: BLE001  see above
            _log.exception("something was not observed", observer=observe.__qualname__)

    return observed
