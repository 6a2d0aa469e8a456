"""The small Kata agent: real processes, over a real socket."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from caa.errors import Code
from caa.kata_agent import run_agent
from caa.polling import growing, poll
from caa.proto import agent_pb2 as pb
from caa.ttrpc import Client, ConnectionClosedError, RpcError, methods

METHODS = {
    method.name: method for service in pb.DESCRIPTOR.services_by_name.values() for method in methods(service)
}


class Agent:
    """A shim's view of an agent: `await agent.StartContainer(container_id="c")`."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = METHODS[name]

        async def call(**fields: Any) -> Any:
            request = method.request_class(**fields)
            return await self.client.call(method.service, name, request, method.response_class, timeout=60)

        return call

    async def create(self, name: str, spec: pb.Process, netns: str = "") -> None:
        spaces = [pb.LinuxNamespace(Type="network", Path=netns)]
        oci = pb.Spec(Process=spec, Linux=pb.Linux(Namespaces=spaces))
        await self.CreateContainer(container_id=name, exec_id=name, OCI=oci)

    async def run(self, name: str, *args: str, netns: str = "") -> None:
        await self.create(name, process(*args), netns)
        await self.StartContainer(container_id=name)

    async def execute(self, name: str, exec_id: str, *args: str) -> None:
        await self.ExecProcess(container_id=name, exec_id=exec_id, process=process(*args))

    async def read_all(self, method: str, name: str, exec_id: str = "") -> bytes:
        whole = b""
        while answer := (await getattr(self, method)(container_id=name, exec_id=exec_id, len=32 * 1024)).data:
            whole += answer
        return whole

    async def read_line(self, name: str, exec_id: str = "") -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += (await self.ReadStdout(container_id=name, exec_id=exec_id, len=1)).data
        return line.decode().strip()

    async def wait(self, name: str, exec_id: str = "") -> int:
        answer: pb.WaitProcessResponse = await self.WaitProcess(container_id=name, exec_id=exec_id)
        return answer.status


def process(*args: str, cwd: str = "/tmp", **env: str) -> pb.Process:
    environment = {"PATH": os.environ["PATH"], **env}
    return pb.Process(Args=args, Cwd=cwd, Env=[f"{name}={value}" for name, value in environment.items()])


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


SLEEP = ("sleep", "1000")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


async def end_of(pid: int) -> None:
    async def ask() -> tuple[bool | None, str]:
        return (None if lives(pid) else True), "it lives"

    await poll(ask, what=f"the end of process {pid}", pauses=growing(0.005, longest=0.1), timeout=30)


async def connected(socket: Path) -> Client:
    async def ask() -> tuple[Client | None, str]:
        try:
            return await Client.connect_unix(socket), ""
        except OSError as error:
            return None, str(error)

    return await poll(ask, what="the agent", pauses=growing(0.005, longest=0.1), timeout=30)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "agent.sock"


@pytest.fixture
async def running(socket: Path) -> AsyncIterator[asyncio.Task[None]]:
    """An agent whose containers share this process's network."""
    task = asyncio.create_task(run_agent(socket, ""))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture
async def fresh(running: asyncio.Task[None], socket: Path) -> AsyncIterator[Agent]:
    """An agent that has no sandbox."""
    async with await connected(socket) as client:
        yield Agent(client)


@pytest.fixture
async def agent(fresh: Agent) -> Agent:
    await fresh.CreateSandbox(sandbox_id="sandbox", hostname="web")
    return fresh


def refused(code: Code, match: str | None = None) -> Any:
    return pytest.raises(RpcError, match=match, check=lambda error: error.code == code)


# Life


async def test_a_container_from_beginning_to_end(agent: Agent) -> None:
    await agent.create("web", process(*shell("echo $NAME in $PWD; cat; echo oops >&2; exit 7"), NAME="web"))
    await agent.StartContainer(container_id="web")
    assert await agent.read_line("web") == "web in /tmp"
    written = await agent.WriteStdin(container_id="web", exec_id="web", data=b"hello")
    assert written.len == 5
    await agent.CloseStdin(container_id="web", exec_id="web")
    assert await agent.read_all("ReadStdout", "web") == b"hello"
    assert await agent.read_all("ReadStderr", "web", "web") == b"oops\n"
    assert await agent.wait("web", "web") == 7
    assert await agent.wait("web") == 7, "the init process goes by no id as well"
    await agent.RemoveContainer(container_id="web", timeout=10)
    with refused(Code.NOT_FOUND, "no container web"):
        await agent.wait("web")


async def test_processes_executed_in_a_container(agent: Agent) -> None:
    await agent.run("web", *SLEEP)
    await agent.ExecProcess(
        container_id="web", exec_id="e1", process=process(*shell("pwd; echo $A"), cwd="/usr", A="b")
    )
    await agent.execute("web", "e2", *shell("exit 3"))
    assert await agent.read_all("ReadStdout", "web", "e1") == b"/usr\nb\n"
    assert await agent.wait("web", "e1") == 0
    assert await agent.wait("web", "e2") == 3


async def test_an_executed_process_is_forgotten_when_all_is_known_of_it(agent: Agent) -> None:
    await agent.run("web", *SLEEP)
    for _ in range(3):  # the same id again, as of a probe
        await agent.execute("web", "probe", *shell("echo out; echo err >&2"))
        assert await agent.read_all("ReadStdout", "web", "probe") == b"out\n"
        assert await agent.wait("web", "probe") == 0
        assert await agent.read_all("ReadStderr", "web", "probe") == b"err\n"
        with refused(Code.NOT_FOUND, "no process probe"):
            await agent.wait("web", "probe")


async def test_many_who_wait(agent: Agent) -> None:
    await agent.run("web", "cat")
    waiting = [asyncio.create_task(agent.wait("web", exec_id)) for exec_id in ("web", "", "web")]
    await agent.Check()
    assert not any(task.done() for task in waiting)
    await agent.CloseStdin(container_id="web", exec_id="web")
    assert await asyncio.gather(*waiting) == [0, 0, 0]


async def test_waiting_and_reading_may_begin_before_the_start(agent: Agent) -> None:
    await agent.create("web", process("echo", "hi"))
    waiting = asyncio.create_task(agent.wait("web"))
    reading = asyncio.create_task(agent.read_all("ReadStdout", "web"))
    await agent.StartContainer(container_id="web")
    assert (await waiting, await reading) == (0, b"hi\n")


async def test_a_container_that_was_never_started_can_be_removed(agent: Agent) -> None:
    await agent.create("web", process(*SLEEP))
    waiting = asyncio.create_task(agent.wait("web"))
    reading = asyncio.create_task(agent.read_all("ReadStdout", "web"))
    await agent.Check()
    await agent.RemoveContainer(container_id="web")
    assert (await waiting, await reading) == (137, b"")


# Streams


async def test_reading_waits_for_data(agent: Agent) -> None:
    await agent.run("web", "cat")
    reading = asyncio.create_task(agent.ReadStdout(container_id="web", exec_id="web", len=100))
    await agent.Check()
    assert not reading.done()
    await agent.WriteStdin(container_id="web", exec_id="web", data=b"data")
    assert (await reading).data == b"data"


async def test_a_read_gets_no_more_than_it_asks_for(agent: Agent) -> None:
    await agent.run("web", "echo", "0123456789")
    await agent.wait("web")
    assert (await agent.ReadStdout(container_id="web", len=4)).data == b"0123"
    assert (await agent.ReadStdout(container_id="web", len=2**32 - 1)).data == b"456789\n"
    with refused(Code.INVALID_ARGUMENT, "len is 0"):
        await agent.ReadStdout(container_id="web", len=0)


async def test_output_that_nobody_reads_holds_the_process_up(agent: Agent) -> None:
    size = 1024 * 1024
    await agent.run("web", *shell(f"head -c {size} /dev/zero; echo end >&2"))
    stderr = asyncio.create_task(agent.ReadStderr(container_id="web", len=10))
    assert len((await agent.ReadStdout(container_id="web", len=1)).data) == 1
    await agent.Check()
    assert not stderr.done()
    assert await agent.read_all("ReadStdout", "web") == bytes(size - 1)
    assert (await stderr).data == b"end\n"


async def test_more_input_than_a_pipe_holds(agent: Agent) -> None:
    await agent.run("web", "cat")
    data = os.urandom(1024 * 1024)

    async def write() -> None:
        await agent.WriteStdin(container_id="web", exec_id="web", data=data)
        await agent.WriteStdin(container_id="web", exec_id="web", data=b"")  # runtime-rs's end of input

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        reading = tasks.create_task(agent.read_all("ReadStdout", "web"))
    assert reading.result() == data
    assert await agent.wait("web") == 0


async def test_input_of_a_process_that_does_not_read_it(agent: Agent) -> None:
    await agent.run("web", *shell("exec <&-; echo closed; sleep 1000"))
    assert await agent.read_line("web") == "closed"
    with refused(Code.FAILED_PRECONDITION, "closed its standard input"):
        await agent.WriteStdin(container_id="web", exec_id="web", data=b"x")

    await agent.run("stuck", *SLEEP)
    writing = asyncio.create_task(
        agent.WriteStdin(container_id="stuck", exec_id="stuck", data=bytes(1024 * 1024))
    )
    closing = asyncio.create_task(agent.CloseStdin(container_id="stuck", exec_id="stuck"))
    await agent.Check()
    await agent.RemoveContainer(container_id="stuck", timeout=10)
    with refused(Code.FAILED_PRECONDITION, "standard input"):
        await writing
    await closing


async def test_two_who_read_the_same_stream(agent: Agent) -> None:
    await agent.run("web", "cat")
    reading = [asyncio.create_task(agent.read_all("ReadStdout", "web")) for _ in range(2)]
    await agent.Check()
    await agent.WriteStdin(container_id="web", exec_id="web", data=b"data")
    await agent.CloseStdin(container_id="web", exec_id="web")
    assert sorted(await asyncio.gather(*reading)) == [b"", b"data"]


async def test_a_read_whose_caller_goes_away_loses_nothing(agent: Agent, socket: Path) -> None:
    await agent.run("web", "cat")
    impatient = Agent(await connected(socket))
    reading = asyncio.create_task(impatient.ReadStdout(container_id="web", exec_id="web", len=100))
    await impatient.Check()
    await impatient.client.close()
    with pytest.raises(ConnectionClosedError):
        await reading
    await agent.WriteStdin(container_id="web", exec_id="web", data=b"data\n")
    assert await agent.read_line("web") == "data"


async def test_a_stream_ends_although_a_daemon_holds_it_open(agent: Agent) -> None:
    await agent.run("web", *SLEEP)
    await agent.execute("web", "e", *shell("setsid sleep 1000 & echo $!"))
    pid = int(await agent.read_line("web", "e"))
    assert await agent.read_all("ReadStdout", "web", "e") == b""
    assert lives(pid), "it is the container's, not its parent's"
    await agent.RemoveContainer(container_id="web", timeout=10)
    await end_of(pid)


# Signals and ends


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, 137)])
async def test_a_signal_to_one_process(agent: Agent, number: int, status: int) -> None:
    await agent.run("web", *SLEEP)
    await agent.execute("web", "e", *SLEEP)
    await agent.SignalProcess(container_id="web", exec_id="e", signal=number)
    assert await agent.wait("web", "e") == status
    await agent.SignalProcess(container_id="web", exec_id="web", signal=number)
    assert await agent.wait("web", "web") == status
    await agent.SignalProcess(container_id="web", exec_id="web", signal=number)  # it has ended: no error


async def test_a_signal_to_the_whole_container(agent: Agent) -> None:
    await agent.run("web", *shell("trap 'echo got it' TERM; echo ready; while :; do sleep 0.01; done"))
    await agent.execute("web", "e", *SLEEP)
    assert await agent.read_line("web") == "ready"
    await agent.SignalProcess(container_id="web", exec_id="", signal=signal.SIGTERM)
    assert await agent.read_line("web") == "got it"
    assert await agent.wait("web", "e") == 143
    await agent.SignalProcess(container_id="web", exec_id="", signal=signal.SIGKILL)
    assert await agent.wait("web") == 137


@pytest.mark.parametrize("exec_id", ["web", ""])
@pytest.mark.parametrize("number", [100, 2**32 - 1])
async def test_what_is_no_signal(agent: Agent, exec_id: str, number: int) -> None:
    await agent.run("web", *SLEEP)
    with refused(Code.INVALID_ARGUMENT, f"signal {number}"):
        await agent.SignalProcess(container_id="web", exec_id=exec_id, signal=number)


async def test_everything_ends_with_the_init_process(agent: Agent) -> None:
    await agent.run("web", *shell("setsid sh -c 'sleep 1000 & echo $!; wait' & cat"))
    await agent.execute("web", "e", *SLEEP)
    pid = int(await agent.read_line("web"))
    await agent.CloseStdin(container_id="web", exec_id="web")
    assert await agent.wait("web") == 0
    assert await agent.wait("web", "e") == 137
    await end_of(pid)
    with refused(Code.FAILED_PRECONDITION, "not running"):
        await agent.execute("web", "late", *SLEEP)


@pytest.mark.parametrize("escape", ["setsid", "env -i PATH=$PATH", "nohup"])
async def test_removing_a_container_kills_what_hides(agent: Agent, escape: str) -> None:
    hide = f"trap '' TERM HUP; for i in 1 2 3; do {escape} sleep 1000 & echo $!; done; exec 1>&2 2>&-; wait"
    await agent.run("web", *shell(hide))
    pids = [int(await agent.read_line("web")) for _ in range(3)]
    waiting = asyncio.create_task(agent.wait("web"))
    await agent.RemoveContainer(container_id="web", timeout=10)
    assert await waiting == 137
    for pid in pids:
        await end_of(pid)


async def test_the_end_of_the_sandbox(agent: Agent) -> None:
    pids = []
    for name in ("web", "sidecar"):
        await agent.run(name, *shell("echo $$; sleep 1000"))
        pids.append(int(await agent.read_line(name)))
    await agent.create("never-started", process(*SLEEP))
    events = [asyncio.create_task(agent.GetOOMEvent()) for _ in range(2)]
    waiting = asyncio.create_task(agent.wait("web"))
    await agent.Check()
    await agent.DestroySandbox()
    assert not any(lives(pid) for pid in pids)
    assert await waiting == 137
    for event in events:
        with refused(Code.UNAVAILABLE, "destroyed"):
            await event
    with refused(Code.FAILED_PRECONDITION, "CreateSandbox"):
        await agent.wait("web")
    await agent.CreateSandbox()
    await agent.run("web", "true")
    assert await agent.wait("web") == 0


async def test_the_end_of_the_agent(running: asyncio.Task[None], agent: Agent, socket: Path) -> None:
    await agent.run("web", *shell("echo $$; sleep 1000"))
    pid = int(await agent.read_line("web"))
    event = asyncio.create_task(agent.GetOOMEvent())
    waiting = asyncio.create_task(agent.wait("web"))
    await agent.Check()
    running.cancel()
    await asyncio.wait([running])
    assert not lives(pid)
    assert await waiting == 137, "who waits still gets the answer"
    with refused(Code.UNAVAILABLE):
        await event
    assert not socket.exists()


async def test_calls_that_hang_end_with_their_connection(agent: Agent, socket: Path) -> None:
    await agent.run("web", *SLEEP)
    before = len(asyncio.all_tasks())
    other = Agent(await connected(socket))
    hanging = [
        asyncio.create_task(other.GetOOMEvent()),
        asyncio.create_task(other.wait("web")),
        asyncio.create_task(other.ReadStdout(container_id="web", len=10)),
    ]
    await other.Check()
    await other.client.close()
    for task in hanging:
        with pytest.raises(ConnectionClosedError):
            await task

    async def ask() -> tuple[bool | None, str]:
        return len(asyncio.all_tasks()) <= before or None, f"{len(asyncio.all_tasks())} tasks, not {before}"

    await poll(ask, what="the end of the calls", pauses=growing(0.005), timeout=30)
    await agent.Check()


# Order and errors


async def test_before_there_is_a_sandbox(fresh: Agent) -> None:
    no_sandbox = refused(Code.FAILED_PRECONDITION, "CreateSandbox")
    for method in METHODS.values():
        if method.service == "grpc.AgentService" and method.name not in ("CreateSandbox", "GetGuestDetails"):
            with no_sandbox:
                await getattr(fresh, method.name)(**({"len": 1} if method.name.startswith("Read") else {}))


async def test_one_sandbox(agent: Agent) -> None:
    with refused(Code.ALREADY_EXISTS):
        await agent.CreateSandbox()


async def test_what_does_not_exist(agent: Agent) -> None:
    await agent.run("web", *SLEEP)
    for name, exec_id in (("other", ""), ("web", "other")):
        ids = {"container_id": name, "exec_id": exec_id}
        for call in (
            agent.WaitProcess(**ids),
            agent.SignalProcess(**ids, signal=15),
            agent.ReadStdout(**ids, len=1),
            agent.ReadStderr(**ids, len=1),
            agent.WriteStdin(**ids, data=b"x"),
            agent.CloseStdin(**ids),
        ):
            with refused(Code.NOT_FOUND):
                await call
    for call in (
        agent.StartContainer(container_id="other"),
        agent.RemoveContainer(container_id="other"),
        agent.StatsContainer(container_id="other"),
        agent.execute("other", "e", "true"),
    ):
        with refused(Code.NOT_FOUND, "no container other"):
            await call


async def test_what_exists_already_or_is_out_of_order(agent: Agent) -> None:
    await agent.create("web", process(*SLEEP))
    with refused(Code.ALREADY_EXISTS):
        await agent.create("web", process(*SLEEP))
    with refused(Code.FAILED_PRECONDITION, "not running"):
        await agent.execute("web", "e", "true")
    with refused(Code.FAILED_PRECONDITION, "not been started"):
        await agent.SignalProcess(container_id="web", exec_id="web", signal=15)
    await agent.StartContainer(container_id="web")
    with refused(Code.FAILED_PRECONDITION, "started before"):
        await agent.StartContainer(container_id="web")
    await agent.execute("web", "e", *SLEEP)
    with refused(Code.ALREADY_EXISTS):
        await agent.execute("web", "e", *SLEEP)
    for exec_id in ("", "web"):
        with refused(Code.INVALID_ARGUMENT):
            await agent.execute("web", exec_id, *SLEEP)


@pytest.mark.parametrize("name", ["", "a", "../x", "a/b", "a b", "é" * 3, "a\n"])
async def test_container_ids_that_the_real_agent_refuses(agent: Agent, name: str) -> None:
    with refused(Code.INVALID_ARGUMENT, "container id"):
        await agent.create(name, process(*SLEEP))


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (pb.Process(), "no arguments"),
        (process("/no/such/program"), "not a program of this VM"),
        (process("no-such-program"), "no image here"),
        (process("sh", PATH="/nowhere"), "not a program"),
        (process("./sh", cwd="/nowhere"), "not a program"),
        (process("/etc/passwd"), "not a program"),
        (process("sh\0"), "not a program"),
        (pb.Process(Args=["sh"], Terminal=True), "no terminals"),
    ],
)
async def test_what_can_not_be_run(agent: Agent, spec: pb.Process, complaint: str) -> None:
    with refused(Code.INVALID_ARGUMENT, complaint):
        await agent.create("web", spec)
    await agent.run("web", *SLEEP)
    with refused(Code.INVALID_ARGUMENT, complaint):
        await agent.ExecProcess(container_id="web", exec_id="e", process=spec)


@pytest.mark.parametrize("spec", [process("sh", cwd="/nowhere"), process("sh", "\0"), process("sh", A="\0")])
async def test_what_turns_out_not_to_run(agent: Agent, spec: pb.Process) -> None:
    before = descriptors()
    await agent.create("web", spec)
    with refused(Code.INVALID_ARGUMENT, "can't run"):
        await agent.StartContainer(container_id="web")
    await agent.RemoveContainer(container_id="web")
    assert descriptors() == before


async def test_no_descriptors_are_left(agent: Agent) -> None:
    before = descriptors()
    for _ in range(3):
        await agent.run("web", *SLEEP)
        await agent.execute("web", "e", "true")
        await agent.wait("web", "e")
        await agent.RemoveContainer(container_id="web")
    assert descriptors() == before


# Facts


async def test_health(fresh: Agent) -> None:
    assert (await fresh.Check()).status == pb.HealthCheckResponse.SERVING
    assert (await fresh.Version()).agent_version.startswith("caa-")


async def test_guest_details(fresh: Agent) -> None:
    details = await fresh.GetGuestDetails(mem_block_size=True, mem_hotplug_probe=True)
    assert details.agent_details.version.startswith("caa-")
    block_size = Path("/sys/devices/system/memory/block_size_bytes")
    assert details.mem_block_size_bytes == (int(block_size.read_text(), 16) if block_size.exists() else 0)


async def test_stats(agent: Agent) -> None:
    await agent.run("web", *SLEEP)
    await agent.execute("web", "e", *shell("for i in $(seq 300000); do :; done; echo; read line"))
    await agent.read_line("web", "e")
    running = (await agent.StatsContainer(container_id="web")).cgroup_stats
    assert running.pids_stats.current == 2
    assert running.memory_stats.usage.usage > 100_000
    cpu = running.cpu_stats.cpu_usage
    assert 0 < cpu.total_usage == cpu.usage_in_usermode + cpu.usage_in_kernelmode

    await agent.SignalProcess(container_id="web", exec_id="e", signal=signal.SIGKILL)
    for method in ("ReadStdout", "ReadStderr"):
        await agent.read_all(method, "web", "e")
    await agent.wait("web", "e")
    after = (await agent.StatsContainer(container_id="web")).cgroup_stats
    assert after.cpu_stats.cpu_usage.total_usage > cpu.total_usage / 2, "CPU time of ended processes counts"


async def test_a_process_whose_name_looks_like_its_status(agent: Agent) -> None:
    await agent.run("web", *shell("echo 'a) Z 1 (b' > /proc/$$/comm; echo; read line"))
    await agent.read_line("web")
    stats = (await agent.StatsContainer(container_id="web")).cgroup_stats
    assert stats.pids_stats.current == 1
    assert stats.memory_stats.usage.usage > 0


async def test_stats_of_a_container_that_does_not_run(agent: Agent) -> None:
    await agent.create("web", process("true"))
    assert not (await agent.StatsContainer(container_id="web")).cgroup_stats.pids_stats.current
    await agent.StartContainer(container_id="web")
    await agent.wait("web")
    stats = await agent.StatsContainer(container_id="web")
    assert not stats.cgroup_stats.pids_stats.current
    assert not stats.network_stats


# Network namespaces


@pytest.mark.root
async def test_containers_are_in_the_network_namespace_that_they_name(agent: Agent, netlab: Any) -> None:
    netns = netlab.namespace("agent")
    await agent.run("web", *shell("readlink /proc/self/ns/net; sleep 1000"), netns=netns.path)
    await agent.execute("web", "e", "readlink", "/proc/self/ns/net")
    inode = f"net:[{Path(netns.path).stat().st_ino}]"
    assert await agent.read_line("web") == inode
    assert await agent.read_line("web", "e") == inode
    stats = await agent.StatsContainer(container_id="web")
    assert [interface.name for interface in stats.network_stats] == ["lo"]
    talk = (
        "import socket; s = socket.socket(type=2); s.bind(('127.0.0.1', 0)); s.sendto(b'', s.getsockname())"
    )
    await agent.execute("web", "talk", sys.executable, "-c", talk)
    assert await agent.wait("web", "talk") == 0
    (interface,) = (await agent.StatsContainer(container_id="web")).network_stats
    assert interface.rx_packets == interface.tx_packets == 1
    assert interface.rx_bytes == interface.tx_bytes > 0


@pytest.mark.root
async def test_the_pods_namespace_is_the_default(tmp_path: Path, netlab: Any) -> None:
    netns = netlab.namespace("podns")
    task = asyncio.create_task(run_agent(tmp_path / "agent.sock", netns.path))
    try:
        async with await connected(tmp_path / "agent.sock") as client:
            agent = Agent(client)
            await agent.CreateSandbox()
            await agent.run("web", "readlink", "/proc/self/ns/net")
            assert await agent.read_line("web") == f"net:[{Path(netns.path).stat().st_ino}]"
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_namespace_that_is_not_there(agent: Agent) -> None:
    with refused(Code.FAILED_PRECONDITION, "no network namespace /run/netns/nowhere"):
        await agent.create("web", process("true"), netns="/run/netns/nowhere")


# The program


async def test_the_program_kills_its_containers_on_sigterm(socket: Path) -> None:
    command = (sys.executable, "-m", "caa", "kata-agent", "--socket", str(socket), "--pod-namespace", "")
    program = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with await connected(socket) as client:
            agent = Agent(client)
            await agent.CreateSandbox()
            await agent.run("web", *shell("trap '' TERM; echo $$; cat"))
            pid = int(await agent.read_line("web"))
            await agent.WriteStdin(container_id="web", exec_id="web", data=b"data\n")
            assert await agent.read_line("web") == "data"
            await agent.execute("web", "e", "false")
            assert await agent.wait("web", "e") == 1
            program.terminate()
            assert await program.wait() == 0
            assert not lives(pid)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
