"""How the long-running commands log: structlog, one event a line, to standard error."""

import logging
import sys
from typing import Any, TextIO

import structlog


def configure(level: str, form: str, stream: TextIO = sys.stderr) -> None:
    """`level` is debug, info, warning or error; `form` is console, json, or "" (console on a terminal)."""
    form = form or ("console" if stream.isatty() else "json")
    timestamper = structlog.processors.TimeStamper(fmt="iso", utc=form == "json")
    renderer: Any = structlog.processors.JSONRenderer()
    if form == "console":
        # Not rich's tracebacks, which show local variables: keys and user data may be among them.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        timestamper,
        structlog.processors.StackInfoRenderer(),
    ]
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    # The libraries' own records (the SDK, asyncio) go the same way; the SDK would log requests at debug.
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING, stream=stream)
