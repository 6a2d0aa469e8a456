"""How many unary calls a second does caa.ttrpc carry over a unix socket, one after another and 100 at once?

Client and server are a process each, on asyncio's own event loop and on uvloop. A call's message is small.
Run: python bench/ttrpc_calls.py
"""

import asyncio
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from caa.proto import hypervisor_pb2
from caa.ttrpc import CallContext, Client, Server

OUT = Path(__file__).parent / "out"
LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
AT_ONCE = (1, 100)
SECONDS = 2.0  # for each measurement
SERVICE = hypervisor_pb2.DESCRIPTOR.services_by_name["Hypervisor"]


class Hypervisor:
    async def Version(  # noqa: N802  # the RPC's name
        self,
        request: hypervisor_pb2.VersionRequest,
        context: CallContext,  # noqa: ARG002  # what handlers are given
    ) -> hypervisor_pb2.VersionResponse:
        return hypervisor_pb2.VersionResponse(version=request.version)


async def serve(socket: str) -> None:
    server = Server()
    server.register(SERVICE, Hypervisor())
    listener = await asyncio.start_unix_server(server.serve, socket)
    print("ready", flush=True)
    await listener.serve_forever()


async def measure(socket: str) -> dict[str, dict[str, float]]:
    async with await Client.connect_unix(socket) as client:
        await measure_calls(client, 1, 0.2)  # warms up
        return {f"{count} at once": await measure_calls(client, count, SECONDS) for count in AT_ONCE}


async def measure_calls(client: Client, count: int, seconds: float) -> dict[str, float]:
    request = hypervisor_pb2.VersionRequest(version="0.0.0")
    took: list[float] = []
    started = time.perf_counter()

    async def call() -> None:
        while (before := time.perf_counter()) < started + seconds:
            await client.call(
                SERVICE.full_name, "Version", request, hypervisor_pb2.VersionResponse, timeout=60
            )
            took.append(time.perf_counter() - before)

    await asyncio.gather(*(call() for _ in range(count)))
    elapsed = time.perf_counter() - started
    return {
        "calls/s": len(took) / elapsed,
        "median ms": statistics.median(took) * 1000,
        "p99 ms": statistics.quantiles(took, n=100)[98] * 1000,
    }


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        LOOPS[sys.argv[2]](serve(sys.argv[3]))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for loop, run in LOOPS.items():
            socket = f"{folder}/{loop}.sock"
            command = [sys.executable, __file__, "--serve", loop, socket]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
                assert server.stdout is not None
                try:
                    server.stdout.readline()
                    results[loop] = run(measure(socket))
                finally:
                    server.terminate()

    table = Table("event loop", "calls", "calls/s", "median ms", "p99 ms", title="ttRPC over a unix socket")
    for loop, rows in results.items():
        for name, row in rows.items():
            table.add_row(
                loop, name, f"{row['calls/s']:,.0f}", f"{row['median ms']:.3f}", f"{row['p99 ms']:.3f}"
            )
    Console().print(table)
    OUT.mkdir(exist_ok=True)
    result = {"python": platform.python_version(), "results": results}
    (OUT / "ttrpc_calls.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
