"""`caa check`: every precondition of a worker node and of the cloud's side, each with what was seen and the
remedy. The host's side is here (`host`); the cloud's comes from its provider. Nothing that it does leaves
anything behind.
"""

from caa.check.host import host_checks
from caa.check.report import Table, as_json, exit_status
from caa.check.run import run_all

__all__ = ["Table", "as_json", "exit_status", "host_checks", "run_all"]
