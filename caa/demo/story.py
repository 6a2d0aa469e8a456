"""The demo itself: one pod's life on the local cloud, told and checked.

All of it is real but the cloud: the daemon, its API client with RRSA credentials, the tunnel in the kernel,
the TLS connection, the forwarder and the agent are the very programs that run on a node and in a VM.
"""

import asyncio
import shutil
import sqlite3
import sys
import tempfile
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path

from caa import logs
from caa.demo.child import CAA, Child, seconds
from caa.demo.report import Report, Span, timeline
from caa.demo.shim import Shim
from caa.demo.worker_node import WorkerNode
from caa.errors import CaaError
from caa.fakecloud import NETNS_FOLDER, FakeCloudSettings, LocalCloud
from caa.polling import growing, poll

_PAGE = "Hello from a pod in a VM of its own"
_CONTAINER = "web"
_PORT = 80

_STEPS = {
    "create_recorded": "network read, TLS, journal",
    "launch_intended": "journal: intent to launch",
    "launched": "RunInstances",
    "launch_recorded": "journal: instance id",
    "address_known": "poll for its address",
    "address_recorded": "journal: address",
    "tunnel_up": "VXLAN tunnel",
    "agent_reached": "VM boots, TLS to forwarder",
    "socket_listening": "agent socket",
    "running_recorded": "journal: running",
}
"""What the time before each step of StartVM went into."""


class Demo:
    """One run, in namespaces and a folder of its own."""

    def __init__(self, report: Report, *, keep: bool) -> None:
        self._report = report
        self._keep = keep
        self._name = f"caa-demo-{uuid.uuid4().hex[:6]}"
        self._folder = Path(tempfile.mkdtemp(prefix=f"{self._name}-"))
        self._socket = self._folder / "hypervisor.sock"
        self._pods_dir = self._folder / "pods"

    async def run(self) -> bool:
        """Whether everything held. Nothing is left after, however it ends."""
        say = self._report
        try:
            async with AsyncExitStack() as stack:
                logs.configure("info", "json", stack.enter_context((self._folder / "cloud.log").open("w")))
                with say.doing("worker node with a pod network") as found:
                    node = await stack.enter_async_context(WorkerNode.up(f"{self._name}-node"))
                    found.append(node.netns.name)
                with say.doing("local cloud: ECS, VPC, STS, metadata") as found:
                    cloud = await stack.enter_async_context(self._cloud(node))
                    found.append(cloud.ecs_endpoint)
                with say.doing("daemon: credentials by RRSA, TDX on"):
                    daemon = await stack.enter_async_context(self._daemon(node, cloud))
                    await daemon.event("serving", 60)
                held = await self._pod(node, cloud, daemon)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        left = [path.name for path in NETNS_FOLDER.glob(f"{self._name}*")]
        return say.check("the machine's network is as it was", ", ".join(left)) and held

    def _cloud(self, node: WorkerNode) -> LocalCloud:
        return LocalCloud(
            FakeCloudSettings(
                dir=self._folder / "cloud",
                boot="netns",
                workers=(node.netns.name,),
                vpc_name=f"{self._name}-vpc",
            )
        )

    def _daemon(self, node: WorkerNode, cloud: LocalCloud) -> AbstractAsyncContextManager[Child]:
        environ = {
            **cloud.environment,
            "REMOTE_HYPERVISOR_ENDPOINT": str(self._socket),
            "HYPERVISOR_GRPC_ENDPOINT": str(self._folder / "hypervisor-grpc.sock"),
            "PODS_DIR": str(self._pods_dir),
            "CAA_STATE_DIR": str(self._folder / "state"),
            "LOG_FORMAT": "json",
        }
        return Child.running(
            (*CAA, "alibabacloud"), self._folder / "daemon.log", environ=environ, netns=node.netns
        )

    async def _pod(self, node: WorkerNode, cloud: LocalCloud, daemon: Child) -> bool:
        say = self._report
        netns, address = await node.add_pod("web")
        async with Shim(self._socket, uuid.uuid4().hex) as shim:
            with say.doing("CreateVM"):
                await shim.create_vm(pod="web", namespace="demo", netns=netns)
            with say.doing("StartVM") as found:
                await shim.start_vm()
                found.append(_instances(cloud))
            with say.doing("CreateSandbox"):
                await shim.create_sandbox()
            with say.doing("container with a web server"):
                await shim.run_container(_CONTAINER, _web_server(self._folder))
            with say.doing("exec in it: hostname") as found:
                status, printed = await shim.execute(_CONTAINER, "exec-1", ["hostname"])
                found.append(printed.strip())
            with say.doing(f"ping {address}"):
                await node.ping(address, timeout=10)
            with say.doing("fetch its page through the tunnel") as found:
                page = await _fetched(node, address)
                found.append(page.strip())
            held = say.check("exec and page are what they should be", _wrong(status, printed, page))
            if self._keep:
                await self._stay(node, address)
            with say.doing("StopVM"):
                await shim.stop_vm()
        held = await self._check_nothing_is_left(node, cloud) and held
        say.console.print()
        say.console.print(
            timeline([*_steps(daemon, shim.sandbox_id), *say.spans_after("StartVM")], "Where the time went")
        )
        return held

    async def _check_nothing_is_left(self, node: WorkerNode, cloud: LocalCloud) -> bool:
        """A StopVM that has returned has deleted the instance as far as the API's answer; the machine itself
        goes off a moment later, as in the cloud.
        """
        say = self._report

        async def instances() -> tuple[bool | None, str]:
            return not _instances(cloud) or None, _instances(cloud)

        problem = ""
        try:
            await poll(instances, what="the instance to go", pauses=growing(0.05), timeout=20)
        except CaaError as error:
            problem = str(error)
        devices = await node.devices("web")
        with sqlite3.connect(self._folder / "state" / "journal.db") as journal:
            rows = journal.execute("SELECT count(*) FROM sandboxes").fetchone()[0]
        found = (
            ("no instance is left in the cloud", problem),
            (
                "no tunnel is left in the pod's namespace",
                "" if set(devices) == {"lo", "eth0"} and "ingress" not in devices["eth0"] else str(devices),
            ),
            ("no firewall rule is left on the worker", ", ".join(await node.nft_tables())),
            ("no socket or file is left", ", ".join(path.name for path in self._pods_dir.iterdir())),
            ("the journal is empty", f"{rows} sandboxes" if rows else ""),
        )
        return not [what for what, wrong in found if not say.check(what, wrong)]

    async def _stay(self, node: WorkerNode, address: IPv4Address) -> None:
        worker = node.netns.name
        self._report.console.print(
            f"""
It is all up. Look around, in another terminal:
  ip netns exec {worker} curl http://{address}/
  ip netns exec {worker}.web ip -d link show vxlan1
  ip netns exec {worker}.web tc -s filter show dev eth0 ingress
  ls -R {self._pods_dir}
  tail {self._folder}/daemon.log
  sqlite3 {self._folder}/state/journal.db 'SELECT id, slot FROM sandboxes'
Ctrl-C here removes it.
""",
            soft_wrap=True,
        )
        await asyncio.get_running_loop().create_future()


def _instances(cloud: LocalCloud) -> str:
    return ", ".join(instance.id for instance in cloud.instances)


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


async def _fetched(node: WorkerNode, address: IPv4Address) -> str:
    async def ask() -> tuple[str | None, str]:
        try:
            return await node.fetch(address, _PORT, timeout=5), ""
        except OSError as error:  # the web server is starting
            return None, str(error)

    return await poll(ask, what="the page", pauses=growing(0.02), timeout=20)


def _wrong(status: int, printed: str, page: str) -> str:
    if status != 0 or not printed.startswith("podvm-web-"):
        return f"hostname ended with {status} and printed {printed!r}"
    return "" if page.strip() == _PAGE else f"the page is {page!r}"


def _steps(daemon: Child, sandbox: str) -> list[Span]:
    """What CreateVM and StartVM consisted of, as the daemon logged it."""
    events = [
        event for event in daemon.events if event.get("event") == "step" and event["sandbox"] == sandbox
    ]
    times = {event["step"]: seconds(event) for event in events}
    spans = []
    previous = times["create_intended"]
    for step, what in _STEPS.items():
        # Tunnel and connection are made side by side: both begin when the address is known.
        began = times["address_recorded"] if step in ("tunnel_up", "agent_reached") else previous
        spans.append(Span(what, began, times[step]))
        previous = max(previous, times[step])
    return spans
