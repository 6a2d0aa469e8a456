"""What an operator sees of a node's sandboxes, and does about them.

`events` makes a sandbox's timeline of what the daemon's parts tell; `views` is what is shown of a sandbox.
`operator` does what is asked, in the process that has the journal; `gc` judges what is left over; `server`
offers all that on a unix socket of the daemon, and `client` asks there. `caa.admin.server` and
`caa.admin.tables` are not imported here: the HTTP framework is for the daemon, the tables are for commands.
"""

from caa.admin.client import SOCKET, Client, NoDaemonError
from caa.admin.events import of_call, of_step
from caa.admin.operator import Operator, look, look_at
from caa.admin.views import Collection, EventView, Leftover, SandboxView, find

__all__ = [
    "SOCKET",
    "Client",
    "Collection",
    "EventView",
    "Leftover",
    "NoDaemonError",
    "Operator",
    "SandboxView",
    "find",
    "look",
    "look_at",
    "of_call",
    "of_step",
]
