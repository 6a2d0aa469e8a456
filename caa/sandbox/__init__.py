"""What a sandbox is: its states and moves as tables, its record, and the journal that outlives the daemon.

No side effect of a sandbox's life happens here; `caa.hypervisor` does them, and tells the journal before
and after each.
"""

from caa.sandbox.journal import Journal
from caa.sandbox.record import Sandbox
from caa.sandbox.states import MOVES, RECOVERY, Recovery, State, Step

__all__ = ["MOVES", "RECOVERY", "Journal", "Recovery", "Sandbox", "State", "Step"]
