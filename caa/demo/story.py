"""The demo itself: one pod's life on the local cloud, told and checked.

All of it is real but the cloud: the daemon, its API client with RRSA credentials, the tunnel in the kernel,
the TLS connection, the forwarder and the agent are the very programs that run on a node and in a VM.
"""

import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import AsyncExitStack, closing
from ipaddress import IPv4Address
from pathlib import Path

from caa import logs
from caa.demo.child import Child
from caa.demo.report import Report, start_spans, timeline
from caa.demo.stage import Stage
from caa.errors import CaaError
from caa.fakecloud import NETNS_FOLDER
from caa.polling import growing, poll

_PAGE = "Hello from a pod in a VM of its own"
_POD = "web"
_CONTAINER = "web"
_PORT = 80


class Demo:
    """One run, in namespaces and a folder of its own."""

    def __init__(self, report: Report, *, keep: bool) -> None:
        self._report = report
        self._keep = keep
        self._name = f"caa-demo-{os.getpid()}"

    async def run(self) -> bool:
        """Whether everything held. Nothing is left after, however it ends."""
        say = self._report
        folder = Path(tempfile.mkdtemp(prefix=f"{self._name}-"))
        held = False
        try:
            async with AsyncExitStack() as stack:
                logs.configure("info", "json", stack.enter_context((folder / "cloud.log").open("w")))
                with say.doing("worker node and local cloud") as found:
                    stage = await stack.enter_async_context(Stage.up(self._name, folder))
                    found.append(stage.cloud.ecs_endpoint)
                with say.doing("daemon: credentials by RRSA, TDX on"):
                    daemon = await stack.enter_async_context(stage.daemon())
                held = await self._pod(stage, daemon)
        except asyncio.CancelledError:
            held = True  # what was stopped has no fault to look for
            raise
        finally:
            if held:
                shutil.rmtree(folder)
            else:
                logs_ = "daemon-1.log, cloud.log, cloud/consoles/"
                say.console.print(f"What went on is in {folder}: {logs_}", soft_wrap=True)
        left = [path.name for path in NETNS_FOLDER.glob(f"{self._name}*")]
        return say.check("the machine's network is as it was", ", ".join(left)) and held

    async def _pod(self, stage: Stage, daemon: Child) -> bool:
        say = self._report
        netns, address = await stage.worker.add_pod(_POD)
        async with stage.shim() as shim:
            with say.doing("CreateVM"):
                await shim.create_vm(pod=_POD, namespace="demo", netns=netns)
            with say.doing("StartVM") as found:
                await shim.start_vm()
                found.extend(stage.instance_ids)
            with say.doing("CreateSandbox"):
                await shim.create_sandbox()
            with say.doing("container with a web server"):
                await shim.run_container(_CONTAINER, _web_server(stage.folder))
            with say.doing("exec in it: hostname") as found:
                status, printed = await shim.execute(_CONTAINER, "exec-1", ["hostname"])
                found.append(printed.strip())
            with say.doing(f"ping {address}"):
                await stage.worker.ping(address, timeout=10)
            with say.doing("fetch its page through the tunnel") as found:
                page = await _fetched(stage, address)
                found.append(page.strip())
            held = say.check("exec and page are what they should be", _wrong(status, printed, page))
            if self._keep:
                await self._stay(stage, address)
            with say.doing("StopVM"):
                await shim.stop_vm()
        held = await self._check_nothing_is_left(stage) and held
        spans = [*start_spans(daemon.events, shim.sandbox_id), *say.spans_after("StartVM")]
        say.console.print("\n", timeline(spans, "Where the time went"))
        return held

    async def _check_nothing_is_left(self, stage: Stage) -> bool:
        """A StopVM that has returned has deleted the instance as far as the API's answer; the machine itself
        goes off a moment later, as in the cloud."""

        async def emptied() -> tuple[bool | None, str]:
            return not stage.instance_ids or None, ", ".join(stage.instance_ids)

        problem = ""
        try:
            await poll(emptied, what="the instance to go", pauses=growing(0.05), timeout=20)
        except CaaError as error:
            problem = str(error)
        devices = await stage.worker.devices(_POD)
        with closing(sqlite3.connect(stage.journal)) as journal:
            rows = journal.execute("SELECT count(*) FROM sandboxes").fetchone()[0]
        found = (
            ("no instance is left in the cloud", problem),
            (
                "no tunnel is left in the pod's namespace",
                "" if set(devices) == {"lo", "eth0"} and "ingress" not in devices["eth0"] else str(devices),
            ),
            ("no firewall rule is left on the worker", ", ".join(await stage.worker.nft_tables())),
            ("no socket or file is left", ", ".join(path.name for path in stage.pods_dir.iterdir())),
            ("the journal is empty", f"{rows} sandboxes" if rows else ""),
        )
        return not [what for what, wrong in found if not self._report.check(what, wrong)]

    async def _stay(self, stage: Stage, address: IPv4Address) -> None:
        worker = stage.worker.netns.name
        self._report.console.print(
            f"""
It is all up. In a browser, the cloud with its instances and calls, live:
  {stage.cloud.ecs_endpoint}/
Look around, in another terminal:
  ip netns exec {worker} curl http://{address}/
  ip netns exec {worker}.{_POD} ip -d link show vxlan1
  ip netns exec {worker}.{_POD} tc -s filter show dev eth0 ingress
  ls -R {stage.pods_dir}
  less {stage.folder}/daemon-1.log {stage.folder}/cloud.log
Ctrl-C here removes it.
""",
            soft_wrap=True,
        )
        await asyncio.get_running_loop().create_future()


def _web_server(folder: Path) -> list[str]:
    page = folder / "page"
    page.mkdir()
    (page / "index.html").write_text(f"{_PAGE}\n")
    # `python -m http.server` would first ask a name server for its own name, and there is none.
    program = (
        "import functools, http.server as web, socketserver;"
        f"pages = functools.partial(web.SimpleHTTPRequestHandler, directory={str(page)!r});"
        f"socketserver.TCPServer(('', {_PORT}), pages).serve_forever()"
    )
    return [sys.executable, "-c", program]


async def _fetched(stage: Stage, address: IPv4Address) -> str:
    async def ask() -> tuple[str | None, str]:
        try:
            return await stage.worker.fetch(address, _PORT, timeout=5), ""
        except OSError as error:  # the web server is starting
            return None, str(error)

    return await poll(ask, what="the page", pauses=growing(0.02), timeout=20)


def _wrong(status: int, printed: str, page: str) -> str:
    if status != 0 or not printed.startswith("podvm-web-"):
        return f"hostname ended with {status} and printed {printed!r}"
    return "" if page.strip() == _PAGE else f"the page is {page!r}"
