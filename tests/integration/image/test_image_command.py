"""`caa image` as a program of its own: its streams, its exit status, and what it survives."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from caa.fakecloud import Fault, LocalCloud
from caa.polling import growing, poll

IMPORT = ("import", "--bucket", "podvm-images")
MIB = 2**20


class Command:
    """A run of `caa image` with a local cloud's settings."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ends(self) -> tuple[int, str, str]:
        """Its exit status, and what it wrote to stdout and to stderr."""
        out, err = await asyncio.wait_for(self.process.communicate(), 60)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
async def start(cloud: LocalCloud) -> AsyncIterator[Callable[..., Any]]:
    started: list[asyncio.subprocess.Process] = []

    async def start(*words: str, **environment: str) -> Command:
        started.append(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "caa", "image", *words),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": os.environ["PATH"], **cloud.environment, **environment},
            )
        )
        return Command(started[-1])

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_only_the_id_is_on_stdout(cloud: LocalCloud, operator: Any, start: Any) -> None:
    command = await start(*IMPORT, str(operator.file), "--name", "podvm-1")
    status, out, err = await command.ends()
    assert status == 0, err
    (image,) = [each for each in cloud.images if each.imported]
    assert out == f"{image.id}\n"
    assert "uploaded: oss://podvm-images/podvm.qcow2, 6 MiB" in err
    assert "\x1b" not in err

    table = await (await start("ls", IMAGEID=image.id)).ends()
    assert table[0] == 0
    assert f"* {image.id}" in table[1]
    assert "podvm-1" in table[1]
    assert "\x1b" not in table[1]
    assert max(map(len, table[1].splitlines())) <= 80

    listed = json.loads((await (await start("ls", "--output", "json", IMAGEID=image.id)).ends())[1])
    assert [each["id"] for each in listed if each["imageid"]] == [image.id]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_killed_in_the_middle_it_goes_on_when_repeated(
    cloud: LocalCloud, operator: Any, start: Any, how: signal.Signals
) -> None:
    cloud.faults.add(Fault(action="UploadPart", nth=4, times=100, delay=2))
    command = await start(*IMPORT, str(operator.file))
    await _until(lambda: len(operator.parts_sent) == 3)
    command.process.send_signal(how)
    status, out, err = await command.ends()
    assert out == ""
    if how is signal.SIGINT:
        assert status == 130
        assert "of 6 MiB have arrived in oss://podvm-images" in err
    else:
        assert status == -signal.SIGKILL
    cloud.faults.clear()
    (upload,) = cloud.objects.uploads("podvm-images")
    # A part that was sent in full before the kill may still arrive.
    arrived = set(upload.parts)
    assert arrived
    before = len(operator.parts_sent)

    status, out, err = await (await start(*IMPORT, str(operator.file), "--keep-object")).ends()
    assert status == 0, err
    assert "going on with an interrupted upload" in err
    assert arrived.isdisjoint(operator.parts_sent[before:])
    (made,) = cloud.objects
    assert made.content.file.read_bytes() == operator.file.read_bytes()
    assert cloud.objects.uploads("podvm-images") == []


async def test_what_an_interrupted_upload_left_can_be_removed(
    cloud: LocalCloud, operator: Any, start: Any
) -> None:
    cloud.objects.initiate("podvm-images", "podvm.qcow2")
    cloud.objects.initiate("podvm-images", "podvm.qcow2.old")
    status, out, err = await (await start(*IMPORT, str(operator.file), "--discard")).ends()
    assert (status, out, err) == (0, "", "1 unfinished upload removed\n")
    assert [each.name for each in cloud.objects.uploads("podvm-images")] == ["podvm.qcow2.old"]


async def test_what_is_wrong_is_said_in_one_line(cloud: LocalCloud, operator: Any, start: Any) -> None:
    operator.file.write_bytes(b"\x1f\x8b" + bytes(1000))
    status, out, err = await (await start(*IMPORT, str(operator.file))).ends()
    assert (status, out) == (1, "")
    assert err == f"caa: {operator.file} can't be imported: it is a gzip archive: unpack it\n"
    assert list(cloud.calls) == []


async def _until(look: Callable[[], object]) -> None:
    async def ask() -> tuple[object | None, str]:
        return look() or None, "not yet"

    await poll(ask, what="the moment", pauses=growing(0.02, longest=0.05), timeout=60)
