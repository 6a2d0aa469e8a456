"""A small Kata agent, for the demo and for tests: never for a real pod VM.

It serves the part of the agent's API that a pod's life needs (proto/agent.proto), with the real agent's
behaviour where a caller can see it. But a container here is a set of plain processes of the VM, in the
VM's own file system and the pod's network namespace: no image is pulled, no storage mounted, nothing
isolated, no policy asked, nothing attested, and there are no terminals.
"""

from caa.kata_agent.agent import run_agent

__all__ = ["run_agent"]
