"""What a sandbox owes the cluster: its PeerPod object to be made, or to be given up.

A debt is written together with what it comes of, and is there until it is paid, whatever happens to the
sandbox. An object has one at most: once it is to be given up, it need not be made.
"""

import json
import sqlite3
from dataclasses import asdict, dataclass, fields
from typing import Literal, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Debt:
    kind: Literal["claim", "disclaim"]
    """To make the object, or to remove our finalizer from it."""
    namespace: str
    name: str
    """Of the object."""
    pod: str
    pod_uid: str
    """Empty: not known."""
    instance_id: str
    sandbox: str
    since: float
    """Unix time."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError for anything but what `to_json` wrote."""
        values = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.keys() != known:
            raise ValueError(f"not a debt: {text[:80]}")
        return cls(**values)


def owe(database: sqlite3.Connection, debt: Debt) -> None:
    """Write it down, in place of the object's earlier one."""
    database.execute(
        "INSERT OR REPLACE INTO debts VALUES (?, ?, ?)", (debt.namespace, debt.name, debt.to_json())
    )


def owed(database: sqlite3.Connection) -> list[Debt]:
    """All of them. Raises ValueError if one can't be read."""
    return [Debt.from_json(text) for (text,) in database.execute("SELECT record FROM debts")]


def pay(database: sqlite3.Connection, debt: Debt) -> None:
    """Strike it out, unless another has taken its place."""
    database.execute(
        "DELETE FROM debts WHERE namespace = ? AND name = ? AND record = ?",
        (debt.namespace, debt.name, debt.to_json()),
    )
