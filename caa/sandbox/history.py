"""What has happened to each sandbox: a timeline that grows while it lives, and stays for some days after.

The functions here read and write a connection to the journal; `Journal` calls those that write, in its
writer thread. Both the timelines and the number of past sandboxes are bounded.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from caa.sandbox.record import Sandbox
from caa.sandbox.schema import unreadable

Kind = Literal["step", "call", "error", "note"]

FIRST_KEPT = 50
LAST_KEPT = 200
"""Of a sandbox's events, the first that are kept, and the last."""

PAST_KEPT = 200
PAST_SECONDS = 7 * 24 * 3600.0
"""Of the sandboxes that have ended, so many are kept, for so long."""

_LONGEST_TEXT = 2000
_LONGEST_DETAIL = 200
_MOST_DETAILS = 8


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a sandbox."""

    at: float
    """Unix time."""
    kind: Kind
    """A step of its life, a request to the cloud, what went wrong, or what else is worth a line."""
    text: str
    details: Mapping[str, str] = field(default_factory=dict)

    def bounded(self) -> "Event":
        """As much of it as is kept."""
        details = {
            _clipped(name, _LONGEST_DETAIL): _clipped(value, _LONGEST_DETAIL)
            for name, value in islice(self.details.items(), _MOST_DETAILS)
        }
        return Event(self.at, self.kind, _clipped(self.text, _LONGEST_TEXT), details)


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """A sandbox from its CreateVM to its end, as it may be told of: without what it holds in the cloud,
    which has keys in it. Times are Unix times, None where an earlier version did not write them down.
    """

    sandbox: Sandbox
    """Its holding is left out."""
    began: float | None
    since: float | None
    """When it came into its present state."""
    ended: float | None
    """None: it lives."""
    error: str
    """What went wrong last."""
    events: tuple[Event, ...] = ()
    left_out: int = 0
    """Events that were dropped, after the first FIRST_KEPT."""


def append(database: sqlite3.Connection, sandbox_id: str, event: Event) -> None:
    """Add to the sandbox's present life, or to its last one: its very end is told after it was forgotten.
    An event of a sandbox that is not known is dropped.
    """
    [life] = database.execute("SELECT max(number) FROM lives WHERE sandbox = ?", (sandbox_id,)).fetchone()
    if life is None:
        return
    [number] = database.execute(
        "SELECT coalesce(max(number) + 1, 0) FROM events WHERE life = ?", (life,)
    ).fetchone()
    database.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
        (life, number, event.at, event.kind, event.text, json.dumps(dict(event.details))),
    )
    database.execute(
        "DELETE FROM events WHERE life = ? AND number >= ? AND number <= ?",
        (life, FIRST_KEPT, number - LAST_KEPT),
    )


def note_state(database: sqlite3.Connection, sandbox: Sandbox, now: float) -> None:
    """Begin the sandbox's life if it is a new one, and keep since when it is in its state."""
    database.execute(
        "INSERT INTO lives (sandbox, state, began, since) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (sandbox) WHERE ended IS NULL"
        " DO UPDATE SET state = excluded.state, since = excluded.since WHERE state <> excluded.state",
        (sandbox.id, sandbox.state, now, now),
    )


def note_end(database: sqlite3.Connection, sandbox_id: str, now: float) -> None:
    """End the sandbox's life; what is known of it stays, but for its holding. Forgets the oldest."""
    database.execute(
        "UPDATE lives SET ended = ?, record ="
        " (SELECT json_set(record, '$.holding', json('{}')) FROM sandboxes WHERE id = lives.sandbox)"
        " WHERE sandbox = ? AND ended IS NULL",
        (now, sandbox_id),
    )
    database.execute(
        "DELETE FROM lives WHERE ended < ? OR number IN"
        " (SELECT number FROM lives WHERE ended IS NOT NULL ORDER BY number DESC LIMIT -1 OFFSET ?)",
        (now - PAST_SECONDS, PAST_KEPT),
    )


_LIVES = """
    SELECT number, sandbox, coalesce(sandboxes.record, lives.record), began, since, ended,
        (SELECT text FROM events WHERE life = lives.number AND kind = 'error' ORDER BY number DESC LIMIT 1)
    FROM lives LEFT JOIN sandboxes ON id = sandbox AND ended IS NULL
"""


def lives(database: sqlite3.Connection) -> list[Life]:
    """All that live, by slot, then those that have ended, the last one first. Without their events."""
    order = " ORDER BY ended IS NOT NULL, slot, lives.number DESC"
    return [_life(row) for row in database.execute(_LIVES + order)]


def history(database: sqlite3.Connection, sandbox_id: str) -> Life | None:
    """The sandbox's present life, or its last one, with its events."""
    row = database.execute(
        f"{_LIVES} WHERE sandbox = ? ORDER BY lives.number DESC LIMIT 1",
        (sandbox_id,),
    ).fetchone()
    if row is None:
        return None
    found = database.execute(
        "SELECT number, at, kind, text, details FROM events WHERE life = ? ORDER BY number", row[:1]
    ).fetchall()
    events = tuple(Event(at, kind, text, json.loads(details)) for _, at, kind, text, details in found)
    return _life(row, events, found[-1][0] + 1 - len(found) if found else 0)


def _life(row: Any, events: tuple[Event, ...] = (), left_out: int = 0) -> Life:
    _, sandbox_id, record, began, since, ended, error = row
    try:
        sandbox = Sandbox.from_json(record).learn(holding={})
    except (ValueError, TypeError, KeyError) as wrong:
        raise unreadable(sandbox_id, wrong) from wrong
    return Life(
        sandbox=sandbox,
        began=began,
        since=since,
        ended=ended,
        error=error or sandbox.error,
        events=events,
        left_out=left_out,
    )


def _clipped(text: str, longest: int) -> str:
    """Short enough, and without what UTF-8 can't have: a lone surrogate, from bytes that were no text."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
