"""The bounded queue between a connection and one stream."""

import asyncio

import pytest

from caa.ttrpc import inbox as module
from caa.ttrpc.inbox import MAX_BYTES, MAX_ITEMS, Inbox


async def full() -> Inbox[int]:
    inbox: Inbox[int] = Inbox()
    for item in range(MAX_ITEMS):
        await inbox.put(item, 1)
    return inbox


async def test_items_come_in_order_then_the_end() -> None:
    inbox = await full()
    inbox.close()
    assert [await inbox.get() for _ in range(MAX_ITEMS)] == list(range(MAX_ITEMS))
    assert await inbox.get() is None
    assert await inbox.get() is None


async def test_items_come_before_the_error_that_it_was_closed_with() -> None:
    inbox: Inbox[int] = Inbox()
    await inbox.put(7, 1)
    inbox.close(LookupError("gone"))
    assert await inbox.get() == 7
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            await inbox.get()


async def test_a_reader_that_waits_gets_what_comes() -> None:
    inbox: Inbox[int] = Inbox()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(inbox.get())
        await asyncio.sleep(0)
        await inbox.put(1, 1)
    assert first.result() == 1


async def test_a_writer_waits_for_room() -> None:
    inbox = await full()
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(inbox.put(99, 1))
        await asyncio.sleep(0)
        assert not putting.done()
        assert [await inbox.get() for _ in range(MAX_ITEMS + 1)] == [*range(MAX_ITEMS), 99]


async def test_room_is_counted_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.01)
    inbox: Inbox[int] = Inbox()
    await inbox.put(1, MAX_BYTES + 1)  # an empty inbox takes anything
    with pytest.raises(TimeoutError):
        await inbox.put(2, 0)
    assert await inbox.get() == 1
    await inbox.put(3, MAX_BYTES)
    with pytest.raises(TimeoutError):
        await inbox.put(4, 1)
    assert await inbox.get() == 3


async def test_a_writer_does_not_wait_for_a_reader_that_left() -> None:
    inbox = await full()
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(inbox.put(99, 1))
        await asyncio.sleep(0)
        assert not putting.done()
        inbox.abandon()
    await inbox.put(100, 1)
    inbox.close()
    assert await inbox.get() is None
