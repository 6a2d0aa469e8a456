"""The agent as a program."""

import asyncio
from pathlib import Path

import structlog

from caa.kata_agent.service import AgentService, HealthService
from caa.proto import agent_pb2
from caa.ttrpc import Server
from caa.unix_socket import listen

log = structlog.get_logger(__name__)

_GRACE = 1.0
"""Seconds for answers that are due at the end: to those who wait for a process, or for an event."""


async def run_agent(socket: Path, podns: str) -> None:
    """Serve the agent's API on the unix socket `socket`, until cancelled; then kill and reap all containers.

    `podns` is the path of the network namespace for containers that name none; "" means this process's own.

    Raises FailedPreconditionError if it can't listen there.
    """
    service = AgentService(podns)
    server = Server()
    services = agent_pb2.DESCRIPTOR.services_by_name
    server.register(services["AgentService"], service)
    server.register(services["Health"], HealthService())

    listening, file = listen(socket)
    listener = await asyncio.start_unix_server(server.serve, sock=listening)
    log.info("small Kata agent is listening", socket=str(socket), podns=podns)
    try:
        await asyncio.Event().wait()
    finally:
        listener.close()
        file.remove()
        try:
            await service.close()
        finally:
            await server.close(_GRACE)
