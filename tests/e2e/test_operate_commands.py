"""What an operator types on a node: ps, show, rm and gc, beside a daemon and after its end."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alibabacloud_ecs20140526 import models
from alibabacloud_ecs20140526.client import Client as EcsClient
from alibabacloud_tea_openapi.utils_models import Config
from darabonba.core import DaraCore

from caa.demo import CAA, Child
from caa.fakecloud import FakeCloudSettings, Fault, LocalCloud
from caa.sandbox import Event, Journal, Sandbox, State

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

MARKER = "-----BEGIN EC PRIVATE KEY-----"
CLEAN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


async def caa(*words: str, environ: Mapping[str, str], netns: Path | None = None) -> Done:
    """A command's end; what it prints always fits the screen, and never shows a key or a traceback."""
    prefix = () if netns is None else ("nsenter", f"--net={netns}")
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *CAA,
        *words,
        env={**CLEAN, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = (told.decode() for told in await process.communicate())
    if "json" not in words:
        assert max(map(len, out.splitlines()), default=0) <= 80, out
    assert "\x1b" not in out
    assert "PRIVATE KEY" not in out + err
    assert "UserData" not in out + err
    assert "Traceback" not in err, err
    return Done(process.returncode or 0, out, err)


def a_sandbox(sandbox_id: str, slot: int, state: State = State.RUNNING) -> Sandbox:
    return Sandbox(
        id=sandbox_id,
        pod_name=f"pod-{slot}",
        pod_namespace="default",
        netns="/proc/self/ns/net",
        name=f"podvm-{slot}",
        slot=slot,
        boot_id="boot",
        state=state,
        network={"vxlan-id": 555000 + slot},
        holding={"RunInstances": {"UserData": MARKER}},
        instance_id=f"i-{slot}",
        addresses=("10.0.0.9",),
    )


@pytest.fixture(scope="module")
def _left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left")

    async def live() -> None:
        with Journal(folder) as journal:
            await journal.put(a_sandbox("running", 0))
            await journal.put(a_sandbox("half-gone", 1, State.STOPPING))
            journal.note(
                "half-gone", Event(time.time(), "error", "DeleteInstance: Forbidden.RAM: ask for it")
            )
            for number in range(150):
                await journal.put(a_sandbox(f"gone-{number}", 2))
                await journal.forget(f"gone-{number}")

    asyncio.run(live())
    return folder


@pytest.fixture
def state(_left: Path, tmp_path: Path) -> Path:
    """The state folder of a daemon that has ended: one sandbox runs, one is half gone, many are gone."""
    return shutil.copytree(_left, tmp_path / "state")


@pytest.mark.root
async def test_a_pods_life(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    environ = node.environ

    async def told(*words: str, status: int = 0) -> Done:
        done = await caa(*words, environ=environ, netns=node.worker.netns)
        assert done.status == status, done
        return done

    assert "there is no journal in" in (await told("ps", status=1)).err

    async with node.daemon() as daemon, node.shim() as shim:
        assert (await told("ps")).err == "There are no sandboxes on this node.\n"
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        assert (await told("ps")).out.splitlines()[2].split()[:3] == [
            "default/web",
            shim.sandbox_id[:8],
            "created",
        ]
        await shim.start_vm()
        [instance] = node.instance_ids
        listed = await told("ps")
        assert listed.err == ""
        assert listed.out.splitlines()[2].split()[2::2] == ["running", instance]
        [entry] = json.loads((await told("ps", "-o", "json")).out)
        assert (entry["id"], entry["instance"], entry["vni"]) == (shim.sandbox_id, instance, 555000)
        shown = (await told("show", shim.sandbox_id[:6])).out
        [launch] = node.cloud.calls.of("RunInstances")
        for word in (
            "launched (instance",
            "running recorded",
            launch.request_id,
            str(netns),
            "RunInstances: ok",
        ):
            assert word in shown, shown
        daemon.process.kill()
        await daemon.process.wait()

    listed = await told("ps")
    assert "the daemon is not running: this is what the journal says" in listed.err
    assert instance in listed.out
    assert node.instance_ids == [instance]
    node.cloud.faults.add(Fault(action="DeleteInstance", code="Forbidden.RAM", status=403))
    refused = " ".join((await told("rm", "default/web", status=1)).out.split())
    assert "not gone yet: DeleteInstance: Forbidden.RAM" in refused
    assert refused.endswith("try again, or start the daemon, which goes on with it")
    assert "stopping" in (await told("ps")).out
    removed = await told("rm", "default/web")
    assert removed.out == f"default/web: gone, with {instance}\n"
    assert "instance deleted" in removed.err
    await node.nothing_is_left("web")

    assert (await told("ps")).out == ""
    assert "default/web" in (await told("ps", "--all")).out
    past = json.loads((await told("show", "default/web", "-o", "json")).out)
    assert past["state"] == "ended"
    assert [event["text"] for event in past["events"] if event["kind"] == "step"][-1] == "forgotten"
    assert "DeleteInstance" in {event["text"] for event in past["events"]}
    assert "no sandbox here is 'default/web'" in (await told("rm", "default/web", status=1)).err


@pytest.mark.root
async def test_rm_beside_the_daemon(node: "Node") -> None:
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon(), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        await shim.start_vm()
        node.cloud.faults.add(Fault(action="DeleteInstance", code="Forbidden.RAM", status=403))
        done = await caa("rm", shim.sandbox_id, environ=node.environ)
        assert done.status == 1
        told = " ".join(done.out.split())
        assert "not gone yet: DeleteInstance: Forbidden.RAM" in told
        assert told.endswith("the daemon goes on trying")
        await node.nothing_is_left("web")
        shown = json.loads((await caa("show", shim.sandbox_id, "-o", "json", environ=node.environ)).out)
        assert shown["state"] == "ended"
        assert "Forbidden.RAM" in shown["error"]
        await shim.stop_vm()


class Orphans:
    """Instances that somebody made, with tags or without."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        endpoint = cloud.ecs_endpoint.removeprefix("http://")
        key = cloud.keys.own
        self._ecs = EcsClient(
            Config(
                endpoint=endpoint,
                protocol="http",
                region_id=cloud.settings.region,
                access_key_id=key.id,
                access_key_secret=key.secret,
            )
        )

    async def make(self, *, age: float = 3600, **tags: str) -> str:
        environ = self._cloud.environment
        request = models.RunInstancesRequest(
            region_id=environ["REGION"],
            image_id=environ["IMAGEID"],
            v_switch_id=environ["VSWITCH_ID"],
            security_group_id=environ["SECURITY_GROUP_IDS"],
            instance_type="ecs.g8i.xlarge",
            tag=[models.RunInstancesRequestTag(key=key.replace("_", "-"), value=tags[key]) for key in tags],
        )
        answer = await self._ecs.run_instances_async(request)
        [instance_id] = answer.body.instance_id_sets.instance_id_set
        instance = next(each for each in self._cloud.instances if each.id == instance_id)
        instance.created_at -= age
        return str(instance_id)


@pytest.fixture
def _sessions() -> Iterator[None]:
    """The SDK keeps its connections in a class attribute until the process ends."""
    yield
    while DaraCore._sessions:
        DaraCore._sessions.popitem()[1].close()


RIGHTS = ("ecs:DescribeInstances", "ecs:DescribeNetworkInterfaces")


@pytest.fixture
async def cloud(tmp_path: Path, _sessions: None, request: pytest.FixtureRequest) -> AsyncIterator[LocalCloud]:
    allow: Any = getattr(request, "param", RIGHTS)
    async with LocalCloud(FakeCloudSettings(dir=tmp_path / "cloud", allow=allow)) as cloud:
        yield cloud


@pytest.fixture
def environ(cloud: LocalCloud, tmp_path: Path) -> Mapping[str, str]:
    return {
        **cloud.environment,
        "REMOTE_HYPERVISOR_ENDPOINT": str(tmp_path / "h.sock"),
        "HYPERVISOR_GRPC_ENDPOINT": str(tmp_path / "g.sock"),
        "PODS_DIR": str(tmp_path / "pods"),
        "CAA_STATE_DIR": str(tmp_path / "state"),
        "NODE_NAME": "worker-1",
        "PROBE_PORT": "0",
        "LOG_FORMAT": "json",
    }


async def test_gc_beside_the_daemon(cloud: LocalCloud, environ: Mapping[str, str], tmp_path: Path) -> None:
    orphans = Orphans(cloud)
    orphan = await orphans.make(caa_node="worker-1", caa_sandbox="long-gone")
    kept = {
        await orphans.make(caa_node="worker-2", caa_sandbox="other"),
        await orphans.make(caa_node="worker-1", caa_sandbox="new", age=0),
        await orphans.make(caa_sandbox="long-gone"),
        await orphans.make(),
    }
    async with Child.running((*CAA, "alibabacloud"), tmp_path / "daemon.log", environ=environ) as daemon:
        await daemon.event("serving", 60)
        dry = await caa("gc", "--dry-run", environ=environ)
        assert dry.status == 1, dry
        assert [line.split()[:2] for line in dry.out.splitlines()[1:] if orphan in line] == [
            ["instance", orphan]
        ]
        assert "to be removed" in dry.out
        assert len(list(cloud.instances)) == 5
        done = await caa("gc", "-o", "json", environ=environ)
        assert done.status == 0, done
        assert {each["id"]: each["fate"] for each in json.loads(done.out)["leftovers"]}[orphan] == "removed"
        assert {each.id for each in cloud.instances} - {orphan} == kept
        other = (tmp_path / "elsewhere").absolute()
        with Journal(other):
            pass
        refused = await caa("gc", "--state-dir", str(other), environ=environ)
        assert refused.status == 1
        assert "give the daemon's own state folder" in refused.err
    assert kept <= {each.id for each in cloud.instances}


@pytest.mark.root
@pytest.mark.parametrize("cloud", [()], indirect=True)
@pytest.mark.usefixtures("state")
async def test_gc_without_daemon_and_right(cloud: LocalCloud, environ: Mapping[str, str]) -> None:
    done = await caa("gc", environ=environ)
    assert done.status == 0, done
    assert "the daemon is not running: it is done here" in done.err
    assert "only the journal was looked at" in done.err
    assert "ecs:Describe" in done.err
    assert done.out.splitlines()[1].split()[:4:3] == ["sandbox", "removed"]
    [left] = json.loads((await caa("ps", "-o", "json", environ=environ)).out)
    assert left["id"] == "running", "it was left as it is"


async def test_rm_asks_on_a_terminal(state: Path) -> None:
    ours, theirs = os.openpty()
    os.write(ours, b"n\n")
    process = await asyncio.create_subprocess_exec(
        *(*CAA, "rm", "running"),
        env={**CLEAN, "CAA_STATE_DIR": str(state)},
        stdin=theirs,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, told = await process.communicate()
    os.close(ours)
    os.close(theirs)
    assert b"default/pod-0 runs, on i-0. Take it down? [y/N]" in told
    assert process.returncode == 130
    with Journal(state) as journal:
        assert len(journal.read()) == 2


async def test_gc_needs_the_journal(environ: Mapping[str, str], tmp_path: Path) -> None:
    """Without it, every VM of a running pod would seem to be left over."""
    done = await caa("gc", environ=environ)
    assert done.status == 1
    assert "there is no journal in" in done.err
    assert not (tmp_path / "state").exists()


async def test_looking_at_the_journal_alone(state: Path) -> None:
    environ = {"CAA_STATE_DIR": str(state)}
    listed = await caa("ps", environ=environ)
    assert listed.out.count("default/pod-") == 2
    assert "half-gon: DeleteInstance: Forbidden.RAM: ask for it" in listed.out
    assert (await caa("ps", "--all", environ=environ)).out.count("ended") == 150
    shown = await caa("show", "default/pod-1", environ=environ)
    assert "last error  DeleteInstance: Forbidden.RAM: ask for it" in shown.out
    assert "'gone' may be one of several" in (await caa("show", "gone", environ=environ)).err
    assert "gone-1" in (await caa("show", "gone-1", environ=environ)).out.split()
    for words in (("show", "running"), ("show", "gone-0"), ("ps", "--all")):
        assert json.loads((await caa(*words, "-o", "json", environ=environ)).out)
    assert (await caa("show", "nobody", environ=environ)).status == 1
    wrong = await caa("ps", "--state-dir", "relative", environ=environ)
    assert wrong.status == 2
    assert "allowed: an absolute path" in wrong.err
    assert not (state / "admin.sock").exists()


@pytest.mark.parametrize("command", ["ps", "show", "rm", "gc"])
async def test_help(command: str) -> None:
    done = await caa(command, "--help", environ={})
    assert done.status == 0
    assert f"caa {command} " in done.out.splitlines()[0]


@pytest.mark.parametrize("words", ["ps --all", "ps --all -o json", "alibabacloud --help", "version"])
def test_a_reader_that_has_seen_enough(state: Path, words: str) -> None:
    """As head does: it reads one line and goes."""
    done = subprocess.run(
        f"{' '.join(CAA)} {words} | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env={**CLEAN, "CAA_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode in (0, 1, 141)
