"""The command, as a process of its own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from apiserver import ApiServer

World = Any
Until = Callable[[Callable[[], object], str], Awaitable[None]]

NAMESPACE = "confidential-containers-system"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


async def test_it_leads_is_ready_counts_and_ends(
    world: World, api: ApiServer, tmp_path: Path, until: Until
) -> None:
    pod, _ = await world.pod("lost")
    api.remove_pod(pod)
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KUBECONFIG": str(api.kubeconfig(tmp_path / "kubeconfig")),
        "POD_NAMESPACE": NAMESPACE,
        "PROBE_PORT": str(port),
        "REAPER_GRACE": "1ms",
        **world.cloud.environment,
    }
    command = [sys.executable, "-m", "caa", "reaper"]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        await until(lambda: world.leader, "it to lead")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as status:
            async with status.get("/readyz") as answer:
                assert answer.status == 200
            await until(lambda: api.watching, "the watch")
            async with status.get("/metrics") as answer:
                metrics = await answer.text()
        assert "caa_reaper_leads 1.0" in metrics
        assert 'caa_reaper_reaped_total{ground="pod gone"} 0.0' in metrics
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 0, log
    assert world.leader == "", "the Lease is given back"
    assert "Traceback" not in log


def test_outside_of_a_cluster_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "caa", "reaper"]
    ended = subprocess.run(
        command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == 1
    assert "KUBECONFIG is not set" in ended.stderr
