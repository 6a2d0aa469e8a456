"""What the provider's unit tests share."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from caa.config import AlibabaCloudSettings, load

T = TypeVar("T")

MakeSettings = Callable[..., AlibabaCloudSettings]


@pytest.fixture
def make_settings() -> MakeSettings:
    """Settings from environment variables, given as keyword arguments, on top of the least that works."""

    def make(**environ: str) -> AlibabaCloudSettings:
        least = {
            "IMAGEID": "m-1",
            "VSWITCH_ID": "vsw-1",
            "SECURITY_GROUP_IDS": "sg-1,sg-2",
            "ALIBABACLOUD_ACCESS_KEY_ID": "LTAI-id",
            "ALIBABACLOUD_ACCESS_KEY_SECRET": "key-secret",
        }
        return load({}, least | environ).alibabacloud

    return make


class _VirtualTime(selectors.DefaultSelector):
    """Instead of waiting, moves the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _VirtualTime()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


@pytest.fixture
def in_virtual_time() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine in a loop whose clock jumps to the next timer."""

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
            return runner.run(coroutine)

    return run
