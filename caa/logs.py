"""How the long-running commands log: structlog, one event a line, to standard error."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")

_least = logging.INFO


def configure(level: str, form: str, stream: TextIO = sys.stderr) -> None:
    """`level` is one of LEVELS; `form` is console, json, or "" (console on a terminal)."""
    set_level(level)
    form = form or ("console" if stream.isatty() else "json")
    timestamper = structlog.processors.TimeStamper(fmt="iso", utc=form == "json")
    renderer: Any = structlog.processors.JSONRenderer()
    if form == "console":
        # Not rich's tracebacks, which show local variables: keys and user data may be among them.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    shared: list[Any] = [
        _drop_below_level,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        timestamper,
        structlog.processors.StackInfoRenderer(),
    ]
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    # The libraries' own records (the SDK, asyncio) go the same way; the SDK would log requests at debug.
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING, stream=stream)


def set_level(level: str) -> None:
    """Change the level from now on, for loggers that exist too."""
    global _least  # noqa: PLW0603  as structlog's configuration, which is the process's
    _least = logging.getLevelNamesMapping()[level.upper()]


def _drop_below_level(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Asked for each event, since a bound logger keeps the filter that it was made with."""
    if logging.getLevelNamesMapping().get(method.upper(), logging.CRITICAL) < _least:
        raise structlog.DropEvent
    return event
