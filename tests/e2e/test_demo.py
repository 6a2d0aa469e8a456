"""`caa demo` holds what it promises, and cleans up whenever it is interrupted."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from caa.demo import CAA, run_demo
from caa.errors import FailedPreconditionError

pytestmark = pytest.mark.root


async def start(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *CAA, "demo", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


def left(tmp: str, demo: asyncio.subprocess.Process) -> list[str]:
    namespaces = [path.name for path in Path("/run/netns").glob(f"caa-demo-{demo.pid}*")]
    return namespaces + [path.name for path in Path(tmp).glob("caa-demo-*")]


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Short, unlike pytest's: there will be unix sockets in it."""
    with tempfile.TemporaryDirectory(prefix="caat-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield folder


async def test_it_holds(own_tmp: str) -> None:
    demo = await start()
    told = (await demo.communicate())[0].decode()
    assert demo.returncode == 0, told
    for line in (
        "✓ StartVM",
        "✓ exec and page are what they should be",
        "✓ no instance is left in the cloud",
        "✓ the journal is empty",
        "✓ the machine's network is as it was",
        "Where the time went",
    ):
        assert line in told
    assert max(map(len, told.splitlines())) <= 100
    assert left(own_tmp, demo) == []


@pytest.mark.parametrize("after", ["worker node", "daemon", "CreateVM", "StartVM", "container"])
async def test_it_cleans_up_after_a_ctrl_c(own_tmp: str, after: str) -> None:
    demo = await start()
    assert demo.stdout is not None
    async for line in demo.stdout:
        if line.decode().startswith(f"✓ {after}"):
            break
    demo.send_signal(signal.SIGINT)
    demo.send_signal(signal.SIGINT)  # an impatient user
    told = (await demo.communicate())[0].decode()
    assert demo.returncode == 130, told
    assert "everything was removed" in told
    assert left(own_tmp, demo) == []


async def test_kept_up_until_a_ctrl_c(own_tmp: str) -> None:
    demo = await start("--keep")
    assert demo.stdout is not None
    command = page = ""
    async for line in demo.stdout:
        if line.decode().strip().startswith("http://127.0.0.1:"):
            page = line.decode().strip()
        if "curl http://10." in line.decode():
            command = line.decode().strip()
        if "Ctrl-C here removes it" in line.decode():
            break
    netns, url = command.split()[3], command.split()[-1]
    fetch = f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=10).read().decode())"
    look = await asyncio.create_subprocess_exec(
        *("nsenter", f"--net=/run/netns/{netns}", sys.executable, "-c", fetch), stdout=asyncio.subprocess.PIPE
    )
    assert b"Hello from a pod" in (await look.communicate())[0]
    async with aiohttp.ClientSession(headers={"Accept": "text/html"}) as http, http.get(page) as answer:
        assert "Local cloud" in await answer.text()
    demo.send_signal(signal.SIGINT)
    await demo.communicate()
    assert demo.returncode == 130
    assert left(own_tmp, demo) == []


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(FailedPreconditionError, match="sudo caa demo"):
        run_demo(keep=False)
