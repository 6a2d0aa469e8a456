"""What the page is told of the books."""

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from caa.fakecloud import Call, FakeCloudSettings, NoBoot, Order, Timings, VSwitch
from caa.fakecloud.addresses import Addresses
from caa.fakecloud.books import Books
from caa.fakecloud.calls import LONGEST, CallLog, without_secrets
from caa.fakecloud.eips import Eips
from caa.fakecloud.enis import Enis
from caa.fakecloud.faults import Faults
from caa.fakecloud.images import Images
from caa.fakecloud.instance_types import INSTANCE_TYPES
from caa.fakecloud.instances import Instances
from caa.fakecloud.stock import Stock
from caa.fakecloud.vswitches import AddressPool

TIMINGS = Timings(starting_after=3, running_after=5, initializing=0, deleting=4)


@pytest.fixture
def books(clock: Any, tmp_path: Path) -> Books:
    settings = FakeCloudSettings(dir=tmp_path, timings=TIMINGS)
    public = Addresses(IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2"))
    enis = Enis(clock, TIMINGS, quota=10)
    stock = Stock({("cn-beijing-i", "ecs.g8i.xlarge"): 3})
    return Books(
        settings=settings,
        clock=clock,
        instances=Instances(
            NoBoot(), clock, TIMINGS, boot_seconds=0, enis=enis, public_addresses=public, stock=stock
        ),
        enis=enis,
        eips=Eips(clock, TIMINGS, public, quota=1),
        images=Images(settings, clock),
        pools=[AddressPool(VSwitch("vsw-1", "cn-beijing-i", IPv4Network("10.0.0.0/28")))],
        stock=stock,
        calls=CallLog(),
        faults=Faults(),
    )


async def test_since_when_an_instance_is_in_its_status(books: Books, clock: Any) -> None:
    began = clock.now()
    order = Order("podvm-a", "m-1", INSTANCE_TYPES["ecs.g8i.xlarge"], books.pools[0], ("sg-1",))
    instance = books.instances.create(order)
    seen = []
    for _ in range(7):
        [shown] = books.state(0)["instances"]
        seen.append((shown["status"], shown["status_since"] - began))
        await clock.advance(1)
    assert seen == [("Pending", 0)] * 3 + [("Starting", 3)] * 2 + [("Running", 5)] * 2

    books.instances.delete(instance.id, force=True)
    for _ in range(3):
        [shown] = books.state(0)["instances"]
        assert (shown["status"], shown["status_since"] - began) == ("Stopping", 7)
        await clock.advance(1)
    await clock.advance(1)
    assert books.state(0)["instances"] == []
    assert not books._stopping_since, "of what is gone, nothing is kept"
    await books.instances.close()


async def test_a_state_is_plain_data(books: Books, clock: Any) -> None:
    order = Order("podvm-a", "m-1", INSTANCE_TYPES["ecs.g8i.xlarge"], books.pools[0], ("sg-1",))
    instance = books.instances.create(order)
    state = json.loads(json.dumps(books.state(10)))
    [eni] = state["enis"]
    assert (eni["instance"], eni["address"], eni["primary"]) == (instance.id, "10.0.0.1", True)
    [vswitch] = state["vswitches"]
    assert (vswitch["addresses"], vswitch["free"]) == (12, 11)
    assert state["stock"] == [{"zone": "cn-beijing-i", "type": "ecs.g8i.xlarge", "stock": 2}]
    await books.instances.close()


def test_the_last_calls(books: Books) -> None:
    for number in range(5):
        books.calls.add(_call(action=f"Action{number}"))
    assert [call["action"] for call in books.state(2)["calls"]] == ["Action3", "Action4"]
    assert books.state(0)["calls"] == []


def test_what_callers_send_is_kept_in_short() -> None:
    long = "x" * 100_000
    call = _call(action=long, version=long, parameters=without_secrets({long: long, "UserData": long}))
    for text in (call.action, call.version, *call.parameters, *call.parameters.values()):
        assert len(text) < LONGEST + 30
        assert "100000 characters)" in text or text == "UserData"


def _call(**fields: Any) -> Call:
    known: dict[str, Any] = {
        "action": "RunInstances",
        "version": "2014-05-26",
        "request_id": "1",
        "began_at": 0.0,
        "connection": "",
        "parameters": {},
    }
    return Call(**(known | fields))
