"""What does the way from the shim to the agent cost: proxy, TLS and forwarder, against a direct connection?

Client, proxy, forwarder and agent are a process each, on uvloop, on one machine. Direct and by the whole way
are measured in turns in the same run, so that their ratio means something where the numbers alone do not.
Run: python bench/agent_proxy.py
"""

import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog
import uvloop
from rich.console import Console
from rich.table import Table

from caa.agent_proxy import AgentProxy, Forwarder
from caa.podvm import Authority, ForwarderConfig, ForwarderOptions, client_context, run_forwarder
from caa.proto import agent_pb2
from caa.ttrpc import CallContext, Client, Server

OUT = Path(__file__).parent / "out"
VM = "podvm-bench-12345678"
AGENT = "grpc.AgentService"
ROUNDS, SECONDS = 5, 1.0  # for each measurement
SIZES = {"empty answers, one at a time": (0, 1), "empty answers, 50 at once": (0, 50)}
SIZES |= {"32 KiB answers, 8 at once": (32 * 1024, 8), "4 MB answers, 2 at once": (4_000_000, 2)}


class Agent:
    async def ReadStdout(  # noqa: N802  the RPC's name
        self,
        request: agent_pb2.ReadStreamRequest,
        context: CallContext,  # noqa: ARG002  what handlers are given
    ) -> agent_pb2.ReadStreamResponse:
        return agent_pb2.ReadStreamResponse(data=bytes(request.len))


async def play_agent(folder: Path) -> None:
    server = Server()
    server.register(agent_pb2.DESCRIPTOR.services_by_name["AgentService"], Agent())
    listening = await asyncio.start_unix_server(server.serve, folder / "agent.sock")
    print("ready", flush=True)
    await listening.serve_forever()


async def play_forwarder(folder: Path) -> None:
    await run_forwarder(
        ForwarderOptions(
            config=folder / "apf.json",
            listen=f"127.0.0.1:{(folder / 'port').read_text()}",
            kata_agent_socket=folder / "agent.sock",
        )
    )


async def play_proxy(folder: Path) -> None:
    context = client_context(Authority.load_or_create(folder / "tls"))
    forwarder = Forwarder("127.0.0.1", int((folder / "port").read_text()), VM, context)
    proxy = AgentProxy(folder / "proxy.sock", forwarder, structlog.get_logger())
    await proxy.connect(10)
    await proxy.listen()
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


PARTS = {"agent": play_agent, "forwarder": play_forwarder, "proxy": play_proxy}


@contextmanager
def running(part: str, folder: Path) -> Iterator[None]:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications,
        subprocess.Popen(
            [sys.executable, __file__, part, folder],
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            if part == "forwarder":
                notifications.settimeout(20)
                notifications.bind(str(folder / "notify"))
                notifications.recv(100)
            else:
                process.stdout.readline()
            yield
        finally:
            process.kill()


def prepare(folder: Path) -> None:
    authority = Authority.load_or_create(folder / "tls")
    certificate, key = authority.issue(VM)
    config = ForwarderConfig(
        pod_namespace="default",
        pod_name="bench",
        tls_server_cert=certificate,
        tls_server_key=key,
        tls_client_ca=authority.client_certificate,
    )
    (folder / "apf.json").write_text(config.to_json())
    with socket.create_server(("127.0.0.1", 0)) as free:
        (folder / "port").write_text(str(free.getsockname()[1]))


async def measure(path: Path, size: int, at_once: int) -> tuple[float, float]:
    """Calls a second, and how long half of them took at most, in seconds."""
    request = agent_pb2.ReadStreamRequest(len=size)
    took: list[float] = []
    async with await Client.connect_unix(path) as client:
        await client.call(AGENT, "ReadStdout", request, agent_pb2.ReadStreamResponse)
        started = time.perf_counter()

        async def call() -> None:
            while (before := time.perf_counter()) < started + SECONDS:
                await client.call(AGENT, "ReadStdout", request, agent_pb2.ReadStreamResponse)
                took.append(time.perf_counter() - before)

        await asyncio.gather(*(call() for _ in range(at_once)))
        elapsed = time.perf_counter() - started
    return len(took) / elapsed, statistics.median(took)


async def compare(folder: Path) -> dict[str, dict[str, float]]:
    results = {}
    for name, (size, at_once) in SIZES.items():
        rates: dict[str, list[float]] = {"direct": [], "whole": []}
        medians: dict[str, list[float]] = {"direct": [], "whole": []}
        for _ in range(ROUNDS):
            for way, path in (("direct", folder / "agent.sock"), ("whole", folder / "proxy.sock")):
                rate, median = await measure(path, size, at_once)
                rates[way].append(rate)
                medians[way].append(median)
        results[name] = {
            "direct_calls_per_second": statistics.median(rates["direct"]),
            "whole_calls_per_second": statistics.median(rates["whole"]),
            "direct_microseconds": statistics.median(medians["direct"]) * 1e6,
            "whole_microseconds": statistics.median(medians["whole"]) * 1e6,
            "rate_ratio": statistics.median(rates["whole"]) / statistics.median(rates["direct"]),
            "whole_mb_per_second": statistics.median(rates["whole"]) * size / 1e6,
        }
    return results


def main() -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as parts:
        folder = Path(name)
        prepare(folder)
        for part in PARTS:
            parts.enter_context(running(part, folder))
        results = uvloop.run(compare(folder))
    table = Table(title="Shim to agent: direct, and by proxy, TLS and forwarder")
    for column in ("", "direct", "whole way", "calls/s kept", "direct", "whole way", "whole way"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in results.items():
        table.add_row(
            name,
            f"{row['direct_calls_per_second']:.0f}/s",
            f"{row['whole_calls_per_second']:.0f}/s",
            f"{row['rate_ratio']:.0%}",
            f"{row['direct_microseconds']:.0f} µs",
            f"{row['whole_microseconds']:.0f} µs",
            f"{row['whole_mb_per_second']:.0f} MB/s",
        )
    Console(width=120).print(table)
    OUT.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "kernel": platform.release(), "cpus": os.cpu_count()}
    (OUT / "agent_proxy.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        uvloop.run(PARTS[sys.argv[1]](Path(sys.argv[2])))
    else:
        main()
