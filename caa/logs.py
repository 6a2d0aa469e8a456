"""How the long-running commands log: structlog, one event a line, to standard error.

A line has these fields, where they are known, by these names and no others:

    timestamp, level, event     always; `event` is a constant text, what varies is in other fields
    namespace, pod, sandbox     whom the line is about; `sandbox` is the id that the shim gave
    instance                    id of the pod's instance, from the moment that there is one
    trace                       trace id of the shim's call
    action, outcome, request_id a request to the cloud; its support asks for the request id
    method, code                a shim's call
    container                   id of a container in the pod
    seconds                     how long it took
    error, exception            what went wrong: a message, a traceback
    logger                      the library that speaks, where it is not caa itself

The first two groups come by themselves into every line of a task for which `structlog.contextvars` has
them bound.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from caa.redaction import hide_secrets

LEVELS = ("debug", "info", "warning", "error")

FIRST = ("timestamp", "level", "event", "namespace", "pod", "sandbox", "instance", "trace")
"""Fields that come first, in this order."""

_LONGEST_TEXT = 8192
"""Characters of a text that is not of our making; of a longer one, the end."""

_Event = MutableMapping[str, Any]

_least = _given = logging.INFO


def configure(level: str, form: str, stream: TextIO = sys.stderr) -> None:
    """`level` is one of LEVELS; `form` is console, json, or "": console on a terminal outside of a cluster
    (in which NODE_NAME is set), and json otherwise.
    """
    global _given  # noqa: PLW0603  as structlog's configuration, which is the process's
    set_level(level)
    _given = _least
    form = form or ("console" if stream.isatty() and not os.environ.get("NODE_NAME") else "json")
    timestamper = structlog.processors.TimeStamper(fmt="iso", utc=form == "json")
    ending: list[Any] = [_hide_secrets, _in_order]
    if form == "console":
        # Not rich's tracebacks, which show local variables: keys and user data may be among them.
        ending.append(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    else:
        ending.append(structlog.processors.JSONRenderer())
    names: list[Any] = [structlog.contextvars.merge_contextvars, _split_pod]
    common: list[Any] = [timestamper, structlog.processors.StackInfoRenderer()]
    common.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[_drop_below_level, *names, structlog.processors.add_log_level, *common, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    _adopt_libraries(names + common, ending, stream)


def _adopt_libraries(common: list[Any], ending: list[Any], stream: TextIO) -> None:
    """Have the libraries' own records (the SDK, asyncio, warnings) go the same way, from warnings on: at
    lower levels they tell of requests, with what must not be logged.
    """
    handler = logging.StreamHandler(stream)
    handler.addFilter(lambda record: record.levelno >= _least)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, *common],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each.formatter, type(handler.formatter))]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Change the level from now on, for loggers that exist too."""
    global _least  # noqa: PLW0603  as structlog's configuration, which is the process's
    _least = logging.getLevelNamesMapping()[level.upper()]


def change_level(level: str, by: str) -> None:
    """As `set_level`, and say so in the log, whichever of the two levels lets that through."""
    global _least  # noqa: PLW0603  as above
    wanted = logging.getLevelNamesMapping()[level.upper()]
    _least = min(_least, wanted)
    structlog.get_logger(__name__).warning("log level changed", to=level, by=by)
    _least = wanted


def toggle_debug() -> None:
    """Go to debug, or back from it to what was configured (to info, if that is debug)."""
    back = _given if _given != logging.DEBUG else logging.INFO
    level = back if _least == logging.DEBUG else logging.DEBUG
    change_level(logging.getLevelName(level).lower(), by="SIGHUP")


def _drop_below_level(_logger: Any, method: str, event: _Event) -> _Event:
    """Asked for each event, since a bound logger keeps the filter that it was made with."""
    if logging.getLevelNamesMapping().get(method.upper(), logging.CRITICAL) < _least:
        raise structlog.DropEvent
    return event


def _split_pod(_logger: Any, _method: str, event: _Event) -> _Event:
    """Pods are bound as people name them, namespace/name; a search wants the two apart."""
    namespace, slash, name = str(event.get("pod", "")).partition("/")
    if slash:
        event.update(namespace=namespace, pod=name)
    return event


def _hide_secrets(_logger: Any, _method: str, event: _Event) -> _Event:
    """In texts that are not of our making: what a library says, and what is in an exception."""
    for name in ("event", "exception") if "logger" in event else ("exception",):
        if name in event:
            event[name] = hide_secrets(str(event[name])[-_LONGEST_TEXT:])
    return event


def _in_order(_logger: Any, _method: str, event: _Event) -> _Event:
    return {name: event[name] for name in (*FIRST, *event) if name in event}
