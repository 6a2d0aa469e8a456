"""What a sandbox is: its states and moves as tables, its record, and the journal that outlives the daemon.

No side effect of a sandbox's life happens here; `caa.hypervisor` does them, and tells the journal before
and after each. The journal also keeps what happened to each sandbox, for operators, and what is owed to
the cluster.
"""

from caa.sandbox.debts import Debt
from caa.sandbox.history import FIRST_KEPT, Event, Life
from caa.sandbox.journal import Journal, Snapshot
from caa.sandbox.record import Sandbox
from caa.sandbox.states import MOVES, RECOVERY, Recovery, State, Step

__all__ = [
    "FIRST_KEPT",
    "MOVES",
    "RECOVERY",
    "Debt",
    "Event",
    "Journal",
    "Life",
    "Recovery",
    "Sandbox",
    "Snapshot",
    "State",
    "Step",
]
