"""Between the Kata shim and the Kata agent: listens, dials, and passes frames.

Frames pass as the bytes they are, so that methods that nobody here knows just work; only `CreateContainer`
is opened. `AgentProxy` is the worker's end. The pod VM's end (`caa.podvm`) is made of the same parts: a
`Relay` gives each client connection a server connection of its own, and a `Pipe` joins the two. Nothing here
knows of clouds or sandboxes.
"""

from caa.agent_proxy.connection import Connection
from caa.agent_proxy.create_container import TARGET_PATH
from caa.agent_proxy.dial import Forwarder, connect, tune
from caa.agent_proxy.passthrough import CreateContainer
from caa.agent_proxy.pipe import Pipe
from caa.agent_proxy.proxy import AgentProxy
from caa.agent_proxy.relay import Relay

__all__ = [
    "TARGET_PATH",
    "AgentProxy",
    "Connection",
    "CreateContainer",
    "Forwarder",
    "Pipe",
    "Relay",
    "connect",
    "tune",
]
