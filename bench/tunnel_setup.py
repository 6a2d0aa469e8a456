"""How long does the worker's end of a tunnel take: one, and fifty at once?

Measures set_up_worker and tear_down_worker beside the same done by `ip` and `tc`, in turns, in namespaces
made for it. The commands leave one thing out: caa also exempts the tunnel from connection tracking. That
costs little at set-up, but at teardown nf_tables waits for a grace period of the kernel for each tunnel, one
after the other. Needs root. Run: python bench/tunnel_setup.py
"""

import asyncio
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from rich.console import Console
from rich.table import Table

from caa.tunnel import PodNetwork, set_up_worker, tear_down_worker

OUT = Path(__file__).parent / "out"
COUNTS = {1: 20, 50: 5}
"""Tunnels at once, and how often that is measured."""
VM = IPv4Address("10.10.1.1")
HOST = f"caat-{os.getpid()}-bench"

Step = Callable[[int], Awaitable[None]]


def pod(number: int) -> str:
    return f"{HOST}-{number}"


def network(number: int) -> PodNetwork:
    return PodNetwork(
        podip=IPv4Interface("10.244.1.5/24"), interface="eth0", vxlan_port=4789, vxlan_id=555000 + number
    )


async def caa_up(number: int) -> None:
    await set_up_worker(f"/run/netns/{pod(number)}", network(number), [VM], host_netns=f"/run/netns/{HOST}")


async def caa_down(number: int) -> None:
    await tear_down_worker(f"/run/netns/{pod(number)}", network(number), host_netns=f"/run/netns/{HOST}")


async def commands_up(number: int) -> None:
    netns = pod(number)
    vxlan = f"type vxlan id {555000 + number} remote {VM} dstport 4789 nolearning"
    await run(f"ip -n {HOST} link add vxlan1 netns {netns} {vxlan}")
    for source, target in (("eth0", "vxlan1"), ("vxlan1", "eth0")):
        await run(f"tc -n {netns} qdisc add dev {source} ingress")
        await run(
            f"tc -n {netns} filter add dev {source} parent ffff: protocol all u32 match u32 0 0"
            f" action mirred egress redirect dev {target}"
        )
    await run(f"ip -n {netns} link set vxlan1 up")


async def commands_down(number: int) -> None:
    await run(f"ip -n {pod(number)} link delete vxlan1")
    await run(f"tc -n {pod(number)} qdisc delete dev eth0 ingress")


async def run(command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command.split())
    assert await process.wait() == 0, command


WAYS: dict[str, tuple[Step, Step]] = {"caa": (caa_up, caa_down), "ip and tc": (commands_up, commands_down)}


async def measure(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds until all of `count` tunnels that begin at once are up, or down."""

    async def timed(step: Step) -> float:
        started = time.perf_counter()
        await asyncio.gather(*(step(number) for number in range(count)))
        return (time.perf_counter() - started) * 1000

    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):
        for way, (up, down) in WAYS.items():
            runs[way].append((await timed(up), await timed(down)))
    medians = {
        way: [statistics.median(column) for column in zip(*taken[1:], strict=True)]
        for way, taken in runs.items()
    }
    return {way: {"set up": up, "tear down": down} for way, (up, down) in medians.items()}


def make_namespaces(count: int) -> None:
    subprocess.run(["ip", "netns", "add", HOST], check=True)
    for number in range(count):
        subprocess.run(["ip", "netns", "add", pod(number)], check=True)
        veth = f"link add veth{number} type veth peer name eth0 netns {pod(number)}"
        subprocess.run(["ip", "-n", HOST, *veth.split()], check=True)


def remove_namespaces(count: int) -> None:
    for name in (HOST, *map(pod, range(count))):
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def show(results: dict[int, dict[str, dict[str, float]]]) -> None:
    table = Table(
        "tunnels at once", "step", *(f"{way}, ms" for way in WAYS), "ratio", title="Worker's end of a tunnel"
    )
    for count, ways in results.items():
        for step in ("set up", "tear down"):
            ours, theirs = (ways[way][step] for way in WAYS)
            table.add_row(str(count), step, f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.1f}")
    Console().print(table)


def main() -> None:
    most = max(COUNTS)
    try:
        make_namespaces(most)
        results = {count: asyncio.run(measure(count, rounds)) for count, rounds in COUNTS.items()}
    finally:
        remove_namespaces(most)
    show(results)
    OUT.mkdir(exist_ok=True)
    written = {"python": platform.python_version(), "kernel": platform.release(), "median_ms": results}
    (OUT / "tunnel_setup.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
