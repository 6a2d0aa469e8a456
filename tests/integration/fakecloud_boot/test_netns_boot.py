"""Machines of the local cloud, from power on to power off."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from caa.fakecloud.boot import Interface, Machine
from caa.fakecloud.netns import FOLDER, Namespace, discard
from caa.fakecloud.netns_boot import IMPORTS, PROGRAMS, NetnsBoot
from caa.fakecloud.vpc import Vpc

if TYPE_CHECKING:
    from tests.integration.fakecloud_boot.conftest import Lab

pytestmark = pytest.mark.root

NEVER = 3600.0

Programs = list[list[str]]


def _python(*words: str) -> list[str]:
    return [sys.executable, "-m", "vm_programs", *words]


USUAL = [_python("provision"), _python("agent"), _python("forwarder")]


def _machine(number: int = 1, boot_seconds: float = 0.0) -> Machine:
    return Machine(
        instance_id=f"i-{number}",
        name=f"podvm-{number}",
        interfaces=(Interface(IPv4Address("10.77.0.20") + number, f"00:16:3e:00:00:{number:02x}"),),
        user_data=b"",
        boot_seconds=boot_seconds,
    )


@pytest.fixture
def consoles(tmp_path: Path) -> Path:
    return tmp_path / "consoles"


@pytest.fixture
async def new_boot(
    lab: "Lab", consoles: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., NetnsBoot]]:
    """Makes a NetnsBoot with other programs than the real ones."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where vm_programs is
    made = []

    def new(programs: Programs = USUAL) -> NetnsBoot:
        made.append(NetnsBoot(lab.vpc, consoles, programs=programs, imports=["vm_programs"]))
        return made[-1]

    yield new
    for boot in made:
        await boot.close()


def _names(lab: "Lab") -> set[str]:
    """Of the namespaces of machines."""
    return {path.name.removeprefix(f"{lab.vpc.name}.") for path in FOLDER.glob(f"{lab.vpc.name}.*")}


def _ports(lab: "Lab") -> int:
    return sum(link.startswith("port") for link in lab.links(lab.vpc._namespace)) - 1  # the worker's


class TestGuest:
    async def test_sees_a_machine_of_its_own(
        self,
        lab: "Lab",
        metadata: None,
        new_boot: Callable[..., NetnsBoot],
        consoles: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("ALIBABACLOUD_ACCESS_KEY_SECRET", "the cloud's")
        machine = _machine()
        await new_boot().start(machine)
        seen = await lab.ask(machine.address, lambda seen: seen["agent"])  # it starts beside the forwarder
        assert seen["hostname"] == "podvm-1"
        assert seen["user data"] == f"for {machine.address}"
        assert sorted(seen["processes"].values()) == ["agent", "forwarder", "init"]
        assert seen["processes"]["1"] == "init"
        assert seen["interfaces"] == ["eth0", "lo"]
        assert seen["run"] == ["kata-containers", "netns", "peerpod"]
        assert seen["namespaces"] == ["podns"]
        assert seen["podns"] != seen["own namespace"]
        assert seen["own namespace"] == (FOLDER / f"{lab.vpc.name}.i-1").stat().st_ino
        assert seen["descriptors"] == 6, "standard ones, listener, connection, and that of the folder"
        assert seen["environment"].keys() <= {"PATH", "HOME", "LANG"} | {
            name for name in seen["environment"] if name.startswith("PYTHON")
        }
        console = consoles / "i-1.console"
        assert "provisioned\n" in console.read_text()
        assert stat.S_IMODE(console.stat().st_mode) == 0o600
        assert stat.S_IMODE(consoles.stat().st_mode) == 0o700

    async def test_twenty_at_once(
        self, lab: "Lab", metadata: None, new_boot: Callable[..., NetnsBoot]
    ) -> None:
        boot = new_boot()
        machines = [_machine(number, boot_seconds=0.1) for number in range(1, 21)]
        await asyncio.gather(*map(boot.start, machines))
        seen = await asyncio.gather(*(lab.ask(machine.address) for machine in machines))
        assert [one["hostname"] for one in seen] == [machine.name for machine in machines]
        assert [one["user data"] for one in seen] == [f"for {machine.address}" for machine in machines]
        assert len({one["podns"] for one in seen}) == 20
        await asyncio.gather(*(boot.stop(machine.instance_id) for machine in machines))
        assert _names(lab) == set()
        assert _ports(lab) == 0

    async def test_first_program_is_repeated_until_it_succeeds_then_the_others_start(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot], consoles: Path
    ) -> None:
        second_time = "echo try; test -e /run/tried || { touch /run/tried; exit 3; }"
        await new_boot([["sh", "-c", second_time], _python("forwarder")]).start(_machine())
        await lab.ask(_machine().address)
        lines = (consoles / "i-1.console").read_text().splitlines()
        assert lines == ["try", "init: sh ended with 3", "try", "init: sh ended with 0"]

    async def test_others_are_started_again_when_they_fail_and_only_then(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot], consoles: Path
    ) -> None:
        fails_twice = "echo . >> /run/tries; test $(wc -l < /run/tries) = 3 && exec sleep 1000; kill -9 $$"
        programs = [["true"], ["sh", "-c", fails_twice], ["sh", "-c", "echo once"], ["no such program"]]
        await new_boot(programs).start(_machine())
        console = consoles / "i-1.console"

        def lines(text: str) -> int:
            return console.read_text().count(text) if console.exists() else 0

        await lab.until("both failures", lambda: lines("init: sh ended with -9") == 2)
        await lab.until("a few tries", lambda: lines("init: no such program ended with 1") >= 3)
        assert lines("init: sh ended with 0") == lines("once") == 1
        assert lines("FileNotFoundError") >= 3

    async def test_orphans_are_reaped(self, lab: "Lab", new_boot: Callable[..., NetnsBoot]) -> None:
        orphan = ["sh", "-c", "(setsid sleep 0.05 &) ; exec sleep 1000"]
        await new_boot([["true"], orphan, _python("forwarder")]).start(_machine())
        alone = ["forwarder", "init", "sleep"]
        await lab.ask(_machine().address, lambda seen: sorted(seen["processes"].values()) == alone)

    async def test_ends_on_sigterm(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot], consoles: Path
    ) -> None:
        boot = new_boot([["true"], _python("forwarder")])
        await boot.start(_machine())
        await lab.ask(_machine().address)
        pids = lab.processes_in(f"{lab.vpc.name}.i-1")
        init = min(pids, key=lambda pid: Path(f"/proc/{pid}/stat").read_text().split()[21])
        os.kill(init, signal.SIGTERM)
        await lab.until("its namespace to go", lambda: _names(lab) == set())
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        await boot.stop("i-1")
        await boot.start(_machine())
        await lab.ask(_machine().address)


class TestInterfaces:
    SECOND = Interface(IPv4Address("10.77.0.99"), "00:16:3e:00:00:99")

    async def test_each_has_its_own_address_and_mac(
        self, lab: "Lab", metadata: None, new_boot: Callable[..., NetnsBoot]
    ) -> None:
        machine = _machine()
        await new_boot().start(replace(machine, interfaces=(*machine.interfaces, self.SECOND)))
        for interface in (*machine.interfaces, self.SECOND):
            seen = await lab.ask(interface.address)
            assert seen["interfaces"] == ["eth0", "eth1", "lo"]
            assert lab.neighbor(interface.address) == interface.mac

    async def test_one_comes_and_goes_while_the_machine_runs(
        self, lab: "Lab", metadata: None, new_boot: Callable[..., NetnsBoot]
    ) -> None:
        boot = new_boot()
        await boot.start(_machine())
        await lab.ask(_machine().address)
        for _ in range(2):
            await boot.plug("i-1", self.SECOND)
            assert (await lab.ask(self.SECOND.address))["interfaces"] == ["eth0", "eth1", "lo"]
            await boot.unplug("i-1", self.SECOND)
            assert (await lab.ask(_machine().address))["interfaces"] == ["eth0", "lo"]
        assert _ports(lab) == 1
        await boot.stop("i-1")
        assert _ports(lab) == 0

    async def test_one_is_dark_until_the_machine_has_booted(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot]
    ) -> None:
        boot = new_boot()
        await boot.start(_machine(boot_seconds=NEVER))
        await boot.plug("i-1", self.SECOND)
        with lab.dial(self.SECOND.address) as client:
            await lab.until("the SYN to vanish", lambda: lab.vanished() > 0)
            assert lab.handshake(client) == "SYN sent"
        await boot.stop("i-1")
        assert _ports(lab) == 0

    async def test_a_machine_that_is_off_has_none(self, new_boot: Callable[..., NetnsBoot]) -> None:
        boot = new_boot()
        await boot.plug("i-none", self.SECOND)
        await boot.unplug("i-none", self.SECOND)
        await boot.start(_machine(boot_seconds=NEVER))
        await boot.unplug("i-1", self.SECOND)


class TestPower:
    async def test_nothing_answers_before_it_has_booted(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        booted = asyncio.Event()
        light_up = lab.vpc.light_up

        async def light_up_when_told(port: str) -> None:
            await booted.wait()
            await light_up(port)

        monkeypatch.setattr(lab.vpc, "light_up", light_up_when_told)
        machine = _machine()
        await new_boot([["true"], _python("forwarder")]).start(machine)
        with lab.dial(machine.address) as early:
            await lab.until("the SYN to vanish", lambda: lab.vanished() > 0)
            assert lab.handshake(early) == "SYN sent"
            assert lab.neighbor(machine.address) == machine.interfaces[0].mac
            assert lab.processes_in(f"{lab.vpc.name}.i-1") == set()
            booted.set()
            assert (await lab.ask(machine.address))["hostname"] == machine.name

    async def test_stop_kills_what_hides(self, lab: "Lab", new_boot: Callable[..., NetnsBoot]) -> None:
        hiding = [
            "sh",
            "-c",
            "(setsid sleep 1000 &); (setsid sh -c 'trap \"\" TERM; sleep 1000' &) ; exec sleep 1000",
        ]
        boot = new_boot([["true"], hiding, _python("forwarder")])
        await boot.start(_machine())
        # init, forwarder, three sleeps and a shell
        await lab.ask(_machine().address, lambda seen: len(seen["processes"]) == 6)
        pids = lab.processes_in(f"{lab.vpc.name}.i-1")
        assert len(pids) == 6
        await boot.stop("i-1")
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert _names(lab) == set()
        assert _ports(lab) == 0
        await boot.stop("i-1")
        await boot.stop("i-unknown")

    async def test_stop_in_the_middle_of_a_boot(self, lab: "Lab", new_boot: Callable[..., NetnsBoot]) -> None:
        boot = new_boot()
        await boot.start(_machine(boot_seconds=NEVER))
        assert _names(lab) == {"i-1"}
        await boot.stop("i-1")
        assert _names(lab) == set()
        assert _ports(lab) == 0

    async def test_stop_at_any_moment(self, lab: "Lab", new_boot: Callable[..., NetnsBoot]) -> None:
        boot = new_boot([["true"], ["sleep", "1000"]])
        await boot.start(_machine(2))  # the first waits for imports, the others do not
        for milliseconds in range(0, 60, 2):
            start = asyncio.create_task(boot.start(_machine()))
            await asyncio.sleep(milliseconds / 1000)  # no rendezvous: any moment will do
            await boot.stop("i-1")
            await asyncio.wait([start])
            assert not start.cancelled()
            assert start.exception() is None or "powered off before" in str(start.exception())
            assert _names(lab) == {"i-2"}
            assert _ports(lab) == 1

    async def test_cancelled_start_leaves_nothing(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot]
    ) -> None:
        boot = new_boot([["true"], ["sleep", "1000"]])
        cancelled = 0
        for tenths in range(0, 150, 5):
            start = asyncio.create_task(boot.start(_machine()))
            await asyncio.sleep(tenths / 10_000)  # as above
            start.cancel()
            await asyncio.wait([start])
            if start.cancelled():
                cancelled += 1
                assert _names(lab) == set()
                assert _ports(lab) == 0
            await boot.stop("i-1")
        assert cancelled

    async def test_failed_start_leaves_nothing_and_can_be_repeated(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot]
    ) -> None:
        boot = new_boot()
        in_the_way = await Namespace.create(f"{lab.vpc.name}.i-1")
        try:
            with pytest.raises(FileExistsError):
                await boot.start(_machine())
        finally:
            await in_the_way.remove()
        with pytest.raises(Exception, match="Network is unreachable"):
            await boot.start(
                Machine("i-1", "x", (Interface(IPv4Address("10.99.0.1"), "00:16:3e:00:00:01"),), b"", 0)
            )
        assert _names(lab) == set()
        assert _ports(lab) == 0
        await boot.start(_machine(boot_seconds=NEVER))
        with pytest.raises(ValueError, match="powered on already"):
            await boot.start(_machine())
        with pytest.raises(ValueError, match="instance id"):
            await boot.start(
                Machine("../x", "x", (Interface(IPv4Address("10.77.0.9"), "00:16:3e:00:00:01"),), b"", 0)
            )

    async def test_guest_that_cannot_start_is_reported_and_removed(
        self,
        lab: "Lab",
        new_boot: Callable[..., NetnsBoot],
        consoles: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        consoles.write_text("not a folder")
        boot = new_boot()
        await boot.start(_machine())
        await lab.until("its namespace to go", lambda: _names(lab) == set())
        await boot.stop("i-1")
        assert "pod VM failed" in capsys.readouterr().out

    async def test_a_running_machine_does_not_keep_others_namespaces(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot]
    ) -> None:
        boot = new_boot([["true"], _python("forwarder")])
        await boot.start(_machine(1, boot_seconds=NEVER))
        await boot.start(_machine(2))  # its mounts are a copy of ours, with the first's namespace among them
        await lab.ask(_machine(2).address)
        pid = next(iter(lab.processes_in(f"{lab.vpc.name}.i-2")))
        mounts = Path(f"/proc/{pid}/mountinfo")
        assert f"{lab.vpc.name}.i-1" in mounts.read_text()
        await boot.stop("i-1")
        assert f"{lab.vpc.name}.i-1" not in mounts.read_text()

    async def test_machines_end_with_the_process_they_are_forked_from(
        self, lab: "Lab", new_boot: Callable[..., NetnsBoot], capsys: pytest.CaptureFixture[str]
    ) -> None:
        boot = new_boot([["true"], _python("forwarder")])
        await boot.start(_machine())
        await lab.ask(_machine().address)
        pids = lab.processes_in(f"{lab.vpc.name}.i-1")
        assert boot._zygote
        boot._zygote._process.kill()
        await lab.until("its namespace to go", lambda: _names(lab) == set())
        await lab.until("the end of all", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        await boot.start(_machine(2))
        await lab.until("its namespace to go", lambda: _names(lab) == set())
        told: list[str] = []

        def is_told() -> bool:
            told.extend(capsys.readouterr().out.split())  # it may be wrapped anywhere
            return "forked from is gone" in " ".join(told)

        await lab.until("the reason to be told", is_told)


class TestRealPrograms:
    def test_what_they_import_exists_and_starts_no_threads(self) -> None:
        code = f"""if True:
            import os, pkgutil
            for name in {IMPORTS}:
                pkgutil.resolve_name(name)
            print(*os.listdir("/proc/self/task"))
        """
        shown = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert len(shown.split()) == 1, "a fork copies only one"

    @pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[3])
    def test_commands_exist_with_these_options(self, program: Sequence[str]) -> None:
        shown = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True).stdout
        assert all(word in shown for word in program[3:] if word.startswith("-"))


CLOUD = """
import asyncio, sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from caa.fakecloud.boot import Interface, Machine
from caa.fakecloud.netns_boot import NetnsBoot
from caa.fakecloud.vpc import Vpc

async def main(name, consoles):
    vpc = await Vpc.create(name, IPv4Network("10.77.0.0/24"))
    boot = NetnsBoot(vpc, Path(consoles), programs=[["true"], ["sleep", "1000"]], imports=[])
    for number, boot_seconds in enumerate([0, 0, 3600]):
        address = IPv4Address("10.77.0.20") + number
        interface = Interface(address, f"00:16:3e:00:00:0{number}")
        await boot.start(Machine(f"i-{number}", "x", (interface,), b"", boot_seconds))
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_nothing_runs_on_when_the_cloud_is_killed(lab: "Lab", name: str, tmp_path: Path) -> None:
    killed = f"{name}-killed"
    cloud = subprocess.Popen(
        [sys.executable, "-c", CLOUD, killed, str(tmp_path / "consoles")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert cloud.stdout
        assert cloud.stdout.readline() == "up\n"

        def running() -> list[set[int]]:
            return [lab.processes_in(f"{killed}.i-{number}") for number in range(3)]

        await lab.until("init and program of both", lambda: [len(pids) for pids in running()] == [2, 2, 0])
        cloud.kill()
        cloud.wait()
        await lab.until("the end of all", lambda: running() == [set(), set(), set()])

        again = await Vpc.create(killed, lab.cidr)
        await again.close()
        assert list(FOLDER.glob(f"{killed}*")) == []
    finally:
        cloud.kill()
        cloud.communicate()
        for path in FOLDER.glob(f"{killed}*"):
            discard(path.name)
