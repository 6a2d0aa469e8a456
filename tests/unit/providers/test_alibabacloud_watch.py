"""How many questions waiting for instances takes, and what failures do to who waits."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import AbortedError, DeadlineExceededError, NotFoundError
from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.errors import ApiError, rule_for
from caa.providers.alibabacloud.watch import MOST, Experience, InstanceWatch
from caa.providers.base import SANDBOX

Run = Callable[[Coroutine[Any, Any, Any]], Any]

LATENCY = 0.05


def error(code: str, status: int = 400) -> ApiError:
    return ApiError("ecs:DescribeInstances", rule_for(code, "", status), code)


class Cloud:
    """Instances that are found and have an address some seconds after they were made."""

    def __init__(self, *, found: float = 3.5, address: float = 7.0, lists: str = "ok") -> None:
        self._found, self._address, self._lists = found, address, lists
        self.list_lag = 0.0
        """Seconds by which lists know of an instance later."""
        self._made: dict[str, float] = {}
        self.failures: list[ApiError] = []
        """What the next questions get."""
        self.calls: Counter[str] = Counter()
        self.asked_about: list[int] = []
        """With each list, about how many instances."""
        self.sandboxes: set[str] = set()
        """For whom lists were asked for."""
        self.watch = InstanceWatch(cast("Client", self), "cn-beijing")

    def make(self, instance_id: str) -> None:
        self._made[instance_id] = asyncio.get_running_loop().time()

    async def call(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        self.calls[action] += 1
        await asyncio.sleep(LATENCY / 2)
        if self.failures:
            raise self.failures.pop(0)
        try:
            if action == "DescribeInstanceAttribute":
                answer = self._describe(parameters["InstanceId"])
                if answer is None:
                    raise error("InvalidInstanceId.NotFound", 404)
                return answer
            return self._list(parameters)
        finally:
            await asyncio.sleep(LATENCY / 2)

    def _list(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        assert parameters["RegionId"] == "cn-beijing"
        if self._lists == "forbidden":
            raise error("Forbidden.RAM", 403)
        wanted = json.loads(parameters["InstanceIds"])
        self.asked_about.append(len(wanted))
        self.sandboxes.add(SANDBOX.get())
        assert len(set(wanted)) == len(wanted) <= parameters["MaxResults"] <= 100
        found = [] if self._lists == "empty" else [self._describe(each, self.list_lag) for each in wanted]
        return {"Instances": {"Instance": [each for each in reversed(found) if each]}}

    def _describe(self, instance_id: str, lag: float = 0.0) -> dict[str, Any] | None:
        age = asyncio.get_running_loop().time() - self._made.get(instance_id, float("inf"))
        if age < self._found + lag:
            return None
        addresses = [f"10.0.0.{instance_id}"] if age >= self._address else []
        return {"InstanceId": instance_id, "VpcAttributes": {"PrivateIpAddress": {"IpAddress": addresses}}}

    async def address(self, instance_id: str, *, timeout: float = 120) -> tuple[str, float]:
        """The address of a new instance, and the seconds it took to hear of it."""
        began = asyncio.get_running_loop().time()
        self.make(instance_id)
        value = await self.wait(instance_id, timeout=timeout)
        return value, asyncio.get_running_loop().time() - began

    async def wait(self, instance_id: str, *, timeout: float = 120) -> str:
        return await self.watch.until(
            instance_id, address_of, what=f"the address of {instance_id}", timeout=timeout
        )


def address_of(instance: Mapping[str, Any] | None) -> tuple[str | None, str]:
    if instance is None:
        return None, "not found yet"
    listed = instance["VpcAttributes"]["PrivateIpAddress"]["IpAddress"]
    return (listed[0], "") if listed else (None, "no address yet")


@pytest.mark.parametrize("lists", ["ok", "forbidden"])
def test_few_questions_about_an_instance_that_takes_its_time(in_virtual_time: Run, lists: str) -> None:
    async def story() -> None:
        cloud = Cloud(lists=lists)
        address, _ = await cloud.address("1")
        assert address == "10.0.0.1"
        assert cloud.calls.total() <= 6 + 2  # nothing is known yet: neither how long it takes, nor the right
        for number in range(20):
            cloud.calls.clear()
            address, seconds = await cloud.address(str(number))
            assert address == f"10.0.0.{number}"
            assert cloud.calls.total() <= 4
            assert seconds < 1.2 * 7
        await cloud.watch.close()

    in_virtual_time(story())


def test_no_time_is_lost_where_the_cloud_is_quick(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud(found=0.1, address=0.2)
        seconds = [(await cloud.address(str(number)))[1] for number in range(30)]
        assert seconds[-1] < 0.2 + 0.05 + 2 * LATENCY
        await cloud.watch.close()

    in_virtual_time(story())


def test_one_slow_instance_does_not_delay_the_next(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud(found=1, address=2)
        for number in range(5):
            await cloud.address(str(number))
        cloud._address = 60
        await cloud.address("9")
        cloud._address = 2
        assert (await cloud.address("10"))[1] < 2 * 1.5
        await cloud.watch.close()

    in_virtual_time(story())


@pytest.mark.parametrize("count", [1, 100, 250])
def test_all_are_asked_about_together(in_virtual_time: Run, count: int) -> None:
    async def story() -> None:
        cloud = Cloud()
        for first in (0, count):
            cloud.calls.clear()
            found = await asyncio.gather(*(cloud.address(str(first + i)) for i in range(count)))
            assert [address for address, _ in found] == [f"10.0.0.{first + i}" for i in range(count)]
        batches = -(-count // MOST)
        assert cloud.calls.total() <= 4 * batches
        assert max(cloud.asked_about) == min(count, MOST)
        await cloud.watch.close()

    in_virtual_time(story())


def test_those_that_begin_one_after_another_share_their_questions(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud()
        await cloud.address("1")
        cloud.calls.clear()

        async def late(number: int) -> float:
            await asyncio.sleep(number * 0.1)
            return (await cloud.address(str(number)))[1]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(late(number)) for number in range(100)]
        assert max(task.result() for task in tasks) < 1.3 * 7
        assert cloud.calls.total() < 40
        await cloud.watch.close()

    in_virtual_time(story())


def test_the_shared_question_is_nobodys(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud()
        SANDBOX.set("ab" * 32)
        await cloud.address("1")
        assert cloud.sandboxes == {""}
        assert SANDBOX.get() == "ab" * 32
        await cloud.watch.close()

    in_virtual_time(story())


def test_without_the_right_each_is_asked_about_by_itself(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud(lists="forbidden")
        with structlog.testing.capture_logs() as logs:
            for numbers in (range(5), range(5, 10)):
                await asyncio.gather(*(cloud.address(str(number)) for number in numbers))
        assert cloud.calls["DescribeInstances"] == 1
        (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
        assert warning["action"] == "ecs:DescribeInstances"
        assert "Forbidden.RAM" in warning["error"]
        await cloud.watch.close()

    in_virtual_time(story())


def test_lists_that_are_empty_for_want_of_the_right_are_given_up(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud(lists="empty")
        with structlog.testing.capture_logs() as logs:
            for number in range(6):
                address, _ = await cloud.address(str(number))
                assert address == f"10.0.0.{number}"
        assert [entry["action"] for entry in logs] == ["ecs:DescribeInstances"]
        cloud.calls.clear()
        await cloud.address("7")
        assert not cloud.calls["DescribeInstances"]
        await cloud.watch.close()

    in_virtual_time(story())


def test_lists_that_lag_behind_are_not_given_up(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud()
        await cloud.address("0")
        cloud.list_lag = 30.0
        with structlog.testing.capture_logs() as logs:
            await asyncio.gather(*(cloud.address(str(number)) for number in range(1, 7)))
        assert logs == []
        assert cloud.calls["DescribeInstanceAttribute"] == 1, "at the very beginning"
        await cloud.watch.close()

    in_virtual_time(story())


@pytest.mark.parametrize("lists", ["ok", "forbidden"])
@pytest.mark.parametrize(
    "code", ["Throttling.User", "InternalError", "ServiceUnavailable", "IncorrectInstanceStatus"]
)
def test_a_question_that_fails_is_repeated(in_virtual_time: Run, code: str, lists: str) -> None:
    async def story() -> None:
        cloud = Cloud(lists=lists)
        await cloud.address("0")
        cloud.failures = [error(code)] * 3
        if lists == "ok" and code == "IncorrectInstanceStatus":
            return  # lists have no status to be in
        await asyncio.gather(*(cloud.address(str(number)) for number in range(1, 4)))
        assert not cloud.failures
        await cloud.watch.close()

    in_virtual_time(story())


@pytest.mark.parametrize("lists", ["ok", "forbidden"])
def test_the_deadline_tells_what_was_seen(in_virtual_time: Run, lists: str) -> None:
    async def story() -> None:
        cloud = Cloud(lists=lists, address=1000)
        told = r"the address of 1 after 30 s; last seen: no address yet"
        with pytest.raises(DeadlineExceededError, match=told):
            await cloud.address("1", timeout=30)
        cloud.failures = [error("InternalError")] * 99
        with pytest.raises(DeadlineExceededError, match=r"InternalError"):
            await cloud.address("2", timeout=30)
        await cloud.watch.close()

    in_virtual_time(story())


@pytest.mark.parametrize("lists", ["ok", "forbidden"])
def test_a_refusal_that_stays_is_told(in_virtual_time: Run, lists: str) -> None:
    async def story() -> None:
        cloud = Cloud(lists=lists)
        await cloud.address("1")
        cloud.failures = [error("SignatureDoesNotMatch")] * 2
        waits = [asyncio.create_task(cloud.address(name)) for name in "23"]
        await asyncio.wait(waits)
        assert [str(wait.exception())[:44] for wait in waits] == [
            str(error("SignatureDoesNotMatch"))[:44]
        ] * 2
        await cloud.watch.close()

    in_virtual_time(story())


def test_what_a_judge_raises_is_its_own_matter(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud()

        def gone(instance: Mapping[str, Any] | None) -> tuple[str | None, str]:
            raise NotFoundError("gone")

        other = asyncio.create_task(cloud.address("1"))
        cloud.make("2")
        with pytest.raises(NotFoundError, match="gone"):
            await cloud.watch.until("2", gone, what="2", timeout=60)
        assert (await other)[0] == "10.0.0.1"
        await cloud.watch.close()

    in_virtual_time(story())


def test_who_leaves_is_not_asked_about_and_holds_nobody_up(in_virtual_time: Run) -> None:
    async def story() -> None:
        cloud = Cloud()
        leaves, stays = (asyncio.create_task(cloud.address(name)) for name in "12")
        await asyncio.sleep(1)
        leaves.cancel()
        assert (await stays)[0] == "10.0.0.2"
        assert cloud.asked_about[0] == 2
        assert cloud.asked_about[-1] == 1
        assert leaves.cancelled()
        alone = asyncio.create_task(cloud.address("3"))
        await asyncio.sleep(0.01)
        alone.cancel()
        asked = cloud.calls.total()
        await asyncio.sleep(60)
        assert cloud.calls.total() == asked
        await cloud.watch.close()

    in_virtual_time(story())


@pytest.mark.parametrize("after", [0.01, 0.32, 5])
def test_closing_ends_all_waits(in_virtual_time: Run, after: float) -> None:
    async def story() -> None:
        cloud = Cloud()
        waits = [asyncio.create_task(cloud.address(name)) for name in "12"]
        await asyncio.sleep(after)
        await cloud.watch.close()
        await asyncio.wait(waits)
        assert [type(wait.exception()) for wait in waits] == [AbortedError, AbortedError]
        with pytest.raises(AbortedError):
            await cloud.wait("3")
        assert len(asyncio.all_tasks()) == 1

    in_virtual_time(story())


@given(st.lists(st.floats(0.001, 300), max_size=40))
def test_pauses_grow_and_few_are_needed(waits: list[float]) -> None:
    experience = Experience()
    for seconds in waits:
        asked, at = 0, 0.0
        before = 0.0
        pauses = experience.pauses()
        while at < seconds:
            before, asked = at, asked + 1
            pause = next(pauses)
            assert 0 < pause <= max(experience.LONGEST, at or pause)
            at += pause
        assert asked <= 16 + seconds / experience.LONGEST
        experience.learn(after=before, by=at)
