"""How many calls the cloud takes, learned from its refusals, and whose call is next.

The cloud limits the calls of each action, for the account as a whole; it does not tell the limits to who has
only the published rights, and some other daemon or a person at the console may be using them too. So a daemon
has one `Budget`, and a `Lane` in it for each action:

    open     no refusal within living memory: calls go at once
    closed   refused: one call at a time tries the way, after growing pauses or what Retry-After asks for,
             until one gets through
    paced    calls go at a rate: at first what got through before, over the time that it took with the wait
             for the opening, which is about what the limit allows. Every call that gets through raises it a
             little, and a refusal lowers it and closes the lane

ECS counts each action by the minute, and refuses until the next one begins ("API throttling"); other limits
are by the second. Once a lane was closed for so long that it must be the former, most of what got through in
the last minute may go at once in the next: that is when there is room for it.

A refusal of a call that was sent before the lane closed is no news. In a lane, calls go in the order in which
their sandboxes began to wait for that action: a call that was refused comes back to its old place, so a
stream of new ones can't keep it waiting. Actions do not wait for each other.

`Lane` has no I/O and is told the time. Times are in seconds on any one clock.
"""

import asyncio
import bisect
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

import structlog

from caa.polling import growing

log = structlog.get_logger(__name__)

LONGEST_PERIOD = 60.0
"""Seconds. The cloud counts calls by the second or by the minute (OpenAPI Explorer, "Throttling and quota
management")."""
MEMORY = 2 * LONGEST_PERIOD
"""After so long without a refusal and without a queue a pace is forgotten; after so long without its call, a
refused sandbox's place."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 8.0
"""Before a closed lane is tried. One call a second is what ECS suggests for that ("API throttling")."""
SLOWEST, SLOWEST_AT_FIRST = 1 / 60, 1.0
"""Calls a second, however often the cloud refuses; and after the first refusal, which tells little."""
CUT = 0.8
"""A refusal makes the rate this part of itself, or less."""
LONG = 4.0
"""Seconds. What is closed for so long is counted by the minute, and when it opens, the next one has begun."""
GROWTH, GROWTH_BEYOND = 0.01, 0.03
"""By which part of itself a call that gets through raises the rate: until the one that was refused last, and
then."""


class Answer(Enum):
    """What an answer says about the limit."""

    PASSED = auto()
    """The request was let through, whatever came of it."""
    THROTTLED = auto()
    LOST = auto()
    """There was no answer that tells."""


class Pace:
    """Whether a lane is open, closed or paced, and its rate."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        """`draw` gives numbers from 0 to 1 for the jitter."""
        self.rate = math.inf
        """Calls a second."""
        self._refused_rate = math.inf
        """At which the last refusal came."""
        self._not_before = -math.inf
        self._pauses: Iterator[float] | None = None
        """Before each try; set while the lane is closed."""
        self._trying = False
        self._closed_since = self._closed_at = -math.inf
        """When the lane was closed, and when the last refusal came that was news."""
        self._at_will = 0
        """Calls that need not keep to the rate."""
        self._passed: deque[float] = deque(maxlen=1000)
        """When the calls were sent that got through since the lane was opened."""
        self._draw = draw

    @property
    def closed(self) -> bool:
        return self._pauses is not None

    @property
    def limited(self) -> bool:
        return self.closed or self.rate < math.inf

    def ready_at(self) -> float | None:
        """When the next call may go; None: not before an answer."""
        return None if self._trying else self._not_before

    def sent(self, now: float) -> None:
        self._trying = self.closed
        if self._at_will:
            self._at_will -= 1
        elif not self.closed:
            self._not_before = now + 1 / self.rate

    def unsent(self) -> None:
        """The call that was to try the way was not sent."""
        self._trying = False

    def answered(
        self, answer: Answer, *, sent_at: float, tries: bool, now: float, retry_after: float = 0.0
    ) -> None:
        """`tries`: the lane was closed when the call was sent, and this call was to find out."""
        old = not tries and sent_at <= self._closed_at
        if tries:
            self._trying = False
        if answer is Answer.THROTTLED:
            if not old:
                self._close(now, retry_after)
            elif self.closed:
                self._not_before = max(self._not_before, now + retry_after)
        elif tries:
            if answer is Answer.PASSED:
                self._open(sent_at)
            else:
                self._not_before = now + FIRST_PAUSE
        elif answer is Answer.PASSED and (self.closed or not old):
            self._passed.append(sent_at)
            if not old:
                self.rate *= 1 + (GROWTH if self.rate < self._refused_rate else GROWTH_BEYOND)

    def forget(self) -> None:
        """Nothing was refused for long."""
        if not self.closed:
            self.rate = self._refused_rate = math.inf
            self._not_before = -math.inf

    def _close(self, now: float, retry_after: float) -> None:
        if self._pauses is None:
            first = max(FIRST_PAUSE, 1 / self.rate)
            self._pauses = growing(first, 2.0, max(first, LONGEST_PAUSE))
            self._refused_rate = self.rate
            self._closed_since = now
            self._at_will = 0
        self._closed_at = now
        self._not_before = now + max(next(self._pauses) * (1 + self._draw()) / 2, retry_after)

    def _open(self, now: float) -> None:
        self._pauses = None
        times = sorted(at for at in self._passed if self._closed_since - LONGEST_PERIOD <= at < now)
        throughput = max(((len(times) - i) / (now - at) for i, at in enumerate(times)), default=0.0)
        if self.rate < math.inf:
            # Who has little to send, or shares the limit with others, gets little through.
            self.rate = max(min(self.rate * CUT, throughput), self.rate / 2, SLOWEST)
        else:
            # A guess, so it grows as if it had been refused.
            self.rate = self._refused_rate = max(throughput, SLOWEST_AT_FIRST)
        self._passed.clear()
        self._passed.append(now)
        if now - self._closed_since >= LONG:
            self._at_will = int(len(times) * CUT)
        self._not_before = now if self._at_will else now + 1 / self.rate


@dataclass(eq=False)
class Call:
    """Waiting in a lane, or under way."""

    sandbox: str
    place: int
    """Lower goes first."""
    sent_at: float | None = None
    tries: bool = False
    """Whether the lane is closed and this call tries it."""


@dataclass(frozen=True)
class _Kept:
    place: int
    since: float


class Lane:
    """One action's calls: those that wait, in their order, and those under way."""

    def __init__(self, at_once: int, draw: Callable[[], float] = random.random) -> None:
        """`at_once` calls may be under way."""
        self.pace = Pace(draw)
        self._at_once = at_once
        self._under_way = 0
        self._waiting: list[Call] = []
        self._numbers = itertools.count()
        self._kept: dict[str, _Kept] = {}
        """The places of sandboxes whose calls were refused; the oldest first."""
        self._busy_at = -math.inf

    def join(self, sandbox: str, now: float) -> Call:
        """Begin to wait."""
        if not self._waiting and now - self._busy_at > MEMORY:
            self.pace.forget()
        kept = self._kept.pop(sandbox, None)
        call = Call(sandbox, kept.place if kept else next(self._numbers))
        bisect.insort(self._waiting, call, key=lambda each: each.place)
        return call

    def leave(self, call: Call) -> None:
        """The call will not be sent: it need not wait, or its turn is not used."""
        if call.sent_at is None:
            self._waiting.remove(call)
            return
        self._under_way -= 1
        if call.tries:
            self.pace.unsent()

    def next(self, now: float) -> Call | None:
        """The call whose turn it is; it counts as under way from now on."""
        at = self.wakes_at()
        if at is None or now < at:
            return None
        call = self._waiting.pop(0)
        call.sent_at, call.tries = now, self.pace.closed
        self.pace.sent(now)
        self._under_way += 1
        if self._waiting and self.pace.limited:
            self._busy_at = now
        return call

    def wakes_at(self) -> float | None:
        """From when on `next` gives a call; None: not before something else happens."""
        if not self._waiting or self._under_way >= self._at_once:
            return None
        return self.pace.ready_at()

    def ended(self, call: Call, answer: Answer, now: float, retry_after: float = 0.0) -> None:
        """A call that was under way has its answer. `retry_after` is what the cloud asks for."""
        assert call.sent_at is not None
        self._under_way -= 1
        self.pace.answered(answer, sent_at=call.sent_at, tries=call.tries, now=now, retry_after=retry_after)
        if answer is Answer.THROTTLED:
            self._busy_at = now
            self._keep(call, now)

    def _keep(self, call: Call, now: float) -> None:
        kept = self._kept.pop(call.sandbox, None)
        self._kept[call.sandbox] = _Kept(min(call.place, kept.place) if kept else call.place, now)
        while now - next(iter(self._kept.values())).since > MEMORY:  # whose callers have given up
            del self._kept[next(iter(self._kept))]


class Turn:
    """The right to send one call, which must come to an end."""

    def __init__(self, gate: "_Gate", call: Call) -> None:
        self._gate = gate
        self._call = call

    def ended(self, answer: Answer, retry_after: float = 0.0) -> None:
        self._gate.ended(self._call, answer, retry_after)

    def unused(self) -> None:
        """The call was not sent, or nothing is known of it."""
        self._gate.leave(self._call)


class Budget:
    """The daemon's calls to one account. Needs no closing: once nobody waits, nothing is left."""

    def __init__(self) -> None:
        self._gates: dict[str, _Gate] = {}

    async def turn(self, action: str, sandbox: str, *, at_once: int) -> Turn:
        """Return when a call of this action may be sent for the sandbox (empty: for the node as a whole).
        No more than `at_once` of them are under way. Cancelled, it leaves the queue.
        """
        gate = self._gates.get(action)
        if gate is None:
            gate = self._gates[action] = _Gate(action, Lane(at_once))
        return Turn(gate, await gate.pass_through(sandbox))


class _Gate:
    """A lane with callers that sleep until their turn."""

    def __init__(self, action: str, lane: Lane) -> None:
        self._action = action
        self._lane = lane
        self._sleepers: dict[Call, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def pass_through(self, sandbox: str) -> Call:
        loop = asyncio.get_running_loop()
        call = self._lane.join(sandbox, loop.time())
        turn = self._sleepers[call] = loop.create_future()
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            self._sleepers.pop(call, None)
            self.leave(call)
            raise
        return call

    def leave(self, call: Call) -> None:
        self._lane.leave(call)
        self._wake()

    def ended(self, call: Call, answer: Answer, retry_after: float) -> None:
        pace = self._lane.pace
        was_closed = pace.closed
        self._lane.ended(call, answer, asyncio.get_running_loop().time(), retry_after)
        if pace.closed and not was_closed:
            log.warning("an action is throttled: its calls wait", action=self._action)
        elif was_closed and not pace.closed:
            log.info("an action goes on", action=self._action, calls_per_minute=round(pace.rate * 60, 1))
        self._wake()

    def _wake(self) -> None:
        """Let go whose turn it is, and come back when it is the next one's."""
        loop = asyncio.get_running_loop()
        while call := self._lane.next(loop.time()):
            turn = self._sleepers.pop(call)
            if not turn.done():  # it is, if its caller was cancelled; `leave` follows
                turn.set_result(None)
        if self._timer:
            self._timer.cancel()
        at = self._lane.wakes_at()
        self._timer = None if at is None else loop.call_at(at, self._wake)
