"""A local cloud, a small disk image, and the account's own key to import it with."""

import contextlib
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from darabonba.core import DaraCore

from caa.config import load_cloud
from caa.fakecloud import FakeCloudSettings, LocalCloud, Timings
from caa.image import ImportOrder, import_image
from caa.providers.alibabacloud import credentials_for

BUCKET = "podvm-images"
MIB = 2**20

StartCloud = Callable[..., AbstractAsyncContextManager[LocalCloud]]


class Told:
    """A Progress that remembers what was said."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lines: list[str] = []
        self.at = 0

    def step(self, what: str, total: int, *, in_bytes: bool) -> None:
        self.steps.append(f"{what} {total}{' bytes' if in_bytes else ''}")
        self.at = 0

    def advance(self, amount: int) -> None:
        self.at += amount

    def done(self) -> None:
        pass

    def say(self, line: str) -> None:
        self.lines.append(line)


class Operator:
    """Somebody who imports an image by a local cloud's settings."""

    def __init__(self, cloud: LocalCloud, file: Path) -> None:
        self.cloud = cloud
        self.file = file
        self.told = Told()

    async def run(self, **changes: Any) -> str:
        """Import the file; the image's id."""
        settings = load_cloud({}, self.cloud.environment)
        known: dict[str, Any] = {
            "file": self.file,
            "bucket": BUCKET,
            "oss_endpoint": self.cloud.oss_endpoint,
            "timeout": 20.0,
        }
        credentials = credentials_for(settings)
        try:
            return await import_image(ImportOrder(**(known | changes)), settings, credentials, self.told)
        finally:
            await credentials.close()

    @property
    def parts_sent(self) -> list[int]:
        """Numbers of the parts that arrived, in order of their calls."""
        return [
            int(call.parameters["partNumber"])
            for call in self.cloud.calls.of("UploadPart")
            if call.outcome == "ok"
        ]


@pytest.fixture(autouse=True)
def _close_sessions() -> Iterator[None]:
    """The SDK keeps its connections in class attributes until the process ends."""
    yield
    while DaraCore._sessions:
        DaraCore._sessions.popitem()[1].close()


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """A QCOW2 of 5.5 MiB: six parts."""
    header = bytearray(MIB)
    struct.pack_into(">4sIQIIQIIQ", header, 0, b"QFI\xfb", 3, 0, 0, 16, 20 * 2**30, 0, 8, 512)
    path = tmp_path / "podvm.qcow2"
    path.write_bytes(bytes(header) + random.Random(1).randbytes(4 * MIB + MIB // 2))
    return path


@pytest.fixture
def start_cloud(tmp_path: Path) -> StartCloud:
    @contextlib.asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[LocalCloud]:
        known: dict[str, Any] = {
            "credentials": "keys",
            "policy": "full",
            "timings": Timings(importing=0),
            "dir": tmp_path / "cloud",
        }
        async with LocalCloud(FakeCloudSettings(**(known | settings))) as cloud:
            yield cloud

    return start


@pytest.fixture
async def cloud(start_cloud: StartCloud) -> AsyncIterator[LocalCloud]:
    async with start_cloud() as cloud:
        yield cloud


@pytest.fixture
def operator(cloud: LocalCloud, image_file: Path) -> Operator:
    return Operator(cloud, image_file)


@pytest.fixture
def make_operator(image_file: Path) -> Callable[[LocalCloud], Operator]:
    return lambda cloud: Operator(cloud, image_file)
