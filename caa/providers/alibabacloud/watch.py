"""Waiting for instances, with few questions.

Where the right to it was granted, one DescribeInstances asks about all instances that are waited for; else
each is asked about by DescribeInstanceAttribute, which the published policy has.

When to ask is learned: the first question comes a little before the time that earlier waits of the same kind
took, and the pauses grow from there.

Without the right to it, DescribeInstances used to answer with an empty list, and refuses since the end of
2025 (ECS, "Announcement of changes to the authentication mechanism for query-type APIs"). So until a list has
shown an instance, those that lists lack are asked about by themselves too, every other time. If that finds
some, lists are given up.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from caa.errors import AbortedError, DeadlineExceededError, UnavailableError
from caa.polling import growing
from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.errors import ApiError, Kind
from caa.providers.alibabacloud.retry import TRANSIENT, jittered, persist
from caa.providers.base import SANDBOX

log = structlog.get_logger(__name__)

T = TypeVar("T")

Description = Mapping[str, Any]
"""Of an instance. InstanceId, Status, VpcAttributes and PublicIpAddress are in both answers."""
Judge = Callable[[Description | None], tuple[T | None, str]]

MOST = 100
"""Instances that one DescribeInstances can be asked about."""
LIST_TIMEOUT = 60.0
"""Seconds for one question, its repetitions included."""
DOUBTS = 3
"""So many instances that lists lack and that are there, and lists are given up."""


class Experience:
    """How long waits of one kind took, and when to ask therefore. Times are in seconds since a wait began."""

    FIRST = 0.3
    """When nothing is known yet."""
    SHORTEST, LONGEST = 0.05, 10.0
    """Pauses between questions."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=16)

    def learn(self, after: float, by: float) -> None:
        """A wait took longer than `after`, and no longer than `by`."""
        self._took.append((after + by) / 2)

    def pauses(self) -> Iterator[float]:
        """The pause before each question.

        A question too early costs a call, one too late delays a pod: the first one comes before most of the
        earlier waits were over.
        """
        if self._took:
            yield self._first
            yield from growing(self.apart, 1.5, self.LONGEST)
        else:
            yield from growing(self.FIRST, 2.0, self.LONGEST)

    @property
    def apart(self) -> float:
        """How far apart questions are at the least."""
        return max(self._first * 0.1, self.SHORTEST) if self._took else self.FIRST

    @property
    def _first(self) -> float:
        return max(sorted(self._took)[len(self._took) // 4] * 0.9, self.SHORTEST)


@dataclass(frozen=True)
class _Trouble:
    """The question is being repeated."""

    seen: str


class _NoLists:
    """There are no lists any more."""


_News = Description | _Trouble | _NoLists | Exception | None
"""What came of asking about an instance. None: it is not found."""


class _Wait:
    def __init__(self, instance_id: str, experience: Experience, now: float) -> None:
        self.instance_id = instance_id
        self.apart = experience.apart
        self._pauses = experience.pauses()
        self.due = now + next(self._pauses)
        """When to ask, in the loop's time."""
        self.missing = 0
        """How many lists lacked it that were asked for when it was due."""
        self.news: asyncio.Future[_News]

    def asked(self, now: float) -> None:
        """See to it that the next question is ahead."""
        if now >= self.due:
            self.due = now + next(self._pauses)


class InstanceWatch:
    """Asks about instances for all who wait for them. Must be closed."""

    def __init__(self, ecs: Client, region: str) -> None:
        self._ecs = ecs
        self._region = region
        self._experience: dict[str, Experience] = {}
        self._lists = True
        """Whether lists are asked for."""
        self._proven = False
        """A list has shown an instance."""
        self._checking = False
        self._doubts = 0
        self._waiting: set[_Wait] = set()
        """For the next list."""
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def until(self, instance_id: str, judge: Judge[T], *, what: str, timeout: float) -> T:
        """Ask about the instance until `judge` gives a value that is not None, and return that.

        `judge` is given the description, or None while the cloud does not find it, which is normal for one
        that was just created; it returns a value or None, and a word on what it saw, and may raise. `what`
        says what is waited for; `timeout` is in seconds.

        Raises DeadlineExceededError with `what` and what was seen last; AbortedError once the watch is
        closed; what `judge` raises; and ApiError for a refusal that repeating won't mend.
        """
        loop = asyncio.get_running_loop()
        began = answered_at = loop.time()
        experience = self._experience.setdefault(what.replace(instance_id, ""), Experience())
        wait = _Wait(instance_id, experience, began)

        async def ask() -> tuple[T | None, str]:
            nonlocal answered_at
            try:
                news = await self._news(wait)
            except ApiError as error:
                if error.kind is not Kind.THROTTLED:  # for those, the budget has a pause
                    wait.asked(loop.time())
                raise
            if isinstance(news, _Trouble):
                return None, news.seen
            before, answered_at = answered_at, loop.time()
            wait.asked(answered_at)
            value, seen = judge(news)
            if value is not None:
                experience.learn(after=before - began, by=answered_at - began)
            return value, seen

        # The pauses are those before the questions, and they grow.
        no_more = itertools.repeat(0.0)
        return await persist(ask, what=what, timeout=timeout, pauses=no_more, waiting_for=(Kind.NOT_YET,))

    async def close(self) -> None:
        """End all waits; those for an answer about one instance when it comes."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._asking:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        self._tell(self._waiting, _no_more())

    async def _news(self, wait: _Wait) -> Description | _Trouble | None:
        if self._closed:
            raise _no_more()
        if self._lists:
            news = await self._from_list(wait)
            if isinstance(news, Exception):
                raise news
            if not isinstance(news, _NoLists):
                if news is not None or asyncio.get_running_loop().time() < wait.due:
                    return news
                wait.missing += 1
                if self._proven or self._checking or wait.missing % 2:
                    return None
                self._checking = True
                try:
                    return await self._alone(wait)
                finally:
                    self._checking = False
        await asyncio.sleep(wait.due - asyncio.get_running_loop().time())
        return await self._alone(wait)

    async def _alone(self, wait: _Wait) -> Description | None:
        try:
            answer = await self._ecs.call("DescribeInstanceAttribute", {"InstanceId": wait.instance_id})
        except ApiError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise
        if self._lists:
            self._doubts += 1
            if self._doubts >= DOUBTS:
                self._give_lists_up("it answers with empty lists, as if the right were missing")
        return answer

    async def _from_list(self, wait: _Wait) -> _News:
        wait.news = asyncio.get_running_loop().create_future()
        self._waiting.add(wait)
        self._schedule()
        try:
            return await wait.news
        finally:
            self._waiting.discard(wait)
            self._schedule()

    def _schedule(self) -> None:
        """Ask when the first question is due, but not once for each of those that began one after another."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._asking or not self._waiting:
            return
        due = min(wait.due for wait in self._waiting)
        apart = min(wait.apart for wait in self._waiting)
        self._timer = asyncio.get_running_loop().call_at(max(due, self._asked_at + apart), self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._waiting:
            self._asking = asyncio.create_task(self._ask_about_all(), name="describe-instances")
            self._asking.add_done_callback(self._asked)

    def _asked(self, asking: asyncio.Task[None]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.result()
            self._schedule()

    async def _ask_about_all(self) -> None:
        SANDBOX.set("")  # in this task alone
        self._asked_at = asyncio.get_running_loop().time()
        for some in _batches(sorted({wait.instance_id for wait in self._waiting})):
            try:
                found = await self._list(some)
            except ApiError as error:
                if error.code.startswith(("Forbidden", "NoPermission")):
                    self._give_lists_up(str(error))
                    return
                self._tell(self._of(some), error)
            except DeadlineExceededError as error:
                self._tell(self._of(some), _Trouble(str(error)))
            except Exception as error:  # noqa: BLE001  whatever it is, those who wait are to have it
                self._tell(self._of(some), error)
            else:
                self._proven = self._proven or bool(found)
                for wait in self._of(some):
                    self._tell([wait], found.get(wait.instance_id))

    async def _list(self, ids: Collection[str]) -> dict[str, Description]:
        request = {"RegionId": self._region, "InstanceIds": json.dumps(list(ids)), "MaxResults": MOST}

        async def ask() -> tuple[dict[str, Description] | None, str]:
            try:
                answer = await self._ecs.call("DescribeInstances", request)
            except ApiError as error:
                if error.kind in TRANSIENT:
                    self._tell(self._of(ids), _Trouble(str(error)))
                raise
            return _by_id(answer), ""

        return await persist(ask, what="DescribeInstances", timeout=LIST_TIMEOUT, pauses=jittered(0.5, 8.0))

    def _of(self, ids: Collection[str]) -> list[_Wait]:
        return [wait for wait in self._waiting if wait.instance_id in ids]

    def _tell(self, waits: Collection[_Wait], news: _News) -> None:
        for wait in tuple(waits):
            self._waiting.discard(wait)
            if not wait.news.done():  # it is, if who waits was cancelled
                wait.news.set_result(news)

    def _give_lists_up(self, why: str) -> None:
        self._lists = False
        lost = "each new instance is asked about by itself, which takes more calls"
        log.warning("going on without an API action", action="ecs:DescribeInstances", lost=lost, error=why)
        self._tell(self._waiting, _NoLists())


def _no_more() -> AbortedError:
    return AbortedError("instances are not asked about any more: the daemon stops")


def _by_id(answer: Mapping[str, Any]) -> dict[str, Description]:
    match answer:
        case {"Instances": {"Instance": [*instances]}}:
            return {str(each.get("InstanceId")): each for each in instances if isinstance(each, dict)}
    raise UnavailableError("DescribeInstances: the answer lists no instances")


def _batches(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), MOST):
        yield ids[start : start + MOST]
