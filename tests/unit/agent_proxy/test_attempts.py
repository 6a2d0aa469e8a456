"""How attempts to reach a forwarder overlap. One attempt is replaced by a script; no network."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from caa.agent_proxy import Connection, Forwarder, connect, dial
from caa.errors import DeadlineExceededError, FailedPreconditionError

FORWARDER = Forwarder("192.0.2.1", 15150, "podvm-a", None)


class Reached(Connection):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Attempts:
    """Plays attempt number n with the n-th step, and each further one with the last."""

    def __init__(self, *steps: Callable[[], Coroutine[Any, Any, Connection]]) -> None:
        self.steps = steps
        self.begun = 0
        self.under_way = 0
        self.most = 0
        self.contexts: list[ssl.SSLContext | None] = []

    async def __call__(self, _forwarder: Forwarder, tls: ssl.SSLContext | None) -> Connection:
        step = self.steps[min(self.begun, len(self.steps) - 1)]
        self.begun += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.contexts.append(tls)
        try:
            return await step()
        finally:
            self.under_way -= 1


async def hang() -> Connection:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never returns


async def reach() -> Connection:
    return Reached()


async def be_refused() -> Connection:
    raise ConnectionRefusedError(111, "refused")


async def meet_another() -> Connection:
    error = ssl.SSLCertVerificationError("wrong")
    error.verify_message = "Hostname mismatch"
    raise error


async def be_alerted() -> Connection:
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV1_ALERT_UNKNOWN_CA"
    raise error


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "_PAUSES", (0.001, 1.0, 0.001))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Attempts]:
    def play(*steps: Callable[[], Coroutine[Any, Any, Connection]]) -> Attempts:
        attempts = Attempts(*steps)
        monkeypatch.setattr(dial, "_open", attempts)
        return attempts

    return play


Play = Callable[..., Attempts]


async def test_a_later_attempt_wins_while_earlier_ones_hang(play: Play) -> None:
    attempts = play(hang, hang, be_refused, hang, reach)
    assert isinstance(await connect(FORWARDER, timeout=20), Reached)
    assert attempts.begun >= 5
    assert attempts.under_way == 0


async def test_attempts_under_way_are_bounded(play: Play) -> None:
    attempts = play(hang)
    with pytest.raises(DeadlineExceededError, match="last seen: nothing yet"):
        await connect(FORWARDER, timeout=0.2)
    assert attempts.most == attempts.begun == 10
    assert attempts.under_way == 0


async def test_the_deadline_tells_what_was_seen_last_and_where(play: Play) -> None:
    attempts = play(be_refused)
    with pytest.raises(DeadlineExceededError) as caught:
        await connect(FORWARDER, timeout=0.05)
    assert (
        str(caught.value)
        == "podvm-a at 192.0.2.1:15150 not reached within 0.05 s; last seen: Connection refused"
    )
    assert attempts.begun > 1


async def test_a_wrong_certificate_ends_it_at_once(play: Play) -> None:
    attempts = play(hang, be_refused, meet_another, reach)
    with pytest.raises(FailedPreconditionError, match=r"podvm-a at 192.0.2.1:15150: .*Hostname mismatch"):
        await connect(FORWARDER, timeout=20)
    assert attempts.begun == 3
    assert attempts.under_way == 0


@pytest.mark.parametrize("reason", ["TLSV1_ALERT_UNKNOWN_CA", "TLSV13_ALERT_CERTIFICATE_REQUIRED"])
async def test_so_does_an_alert_that_would_come_again(play: Play, reason: str) -> None:
    async def be_alerted() -> Connection:
        error = ssl.SSLError(1, "alert")
        error.reason = reason
        raise error

    attempts = play(be_alerted, reach)
    with pytest.raises(FailedPreconditionError, match=reason):
        await connect(FORWARDER, timeout=20)
    assert attempts.begun == 1


async def test_other_tls_failures_are_tried_again(play: Play) -> None:
    async def be_cut_off() -> Connection:
        error = ssl.SSLEOFError(8, "eof")
        error.reason = "UNEXPECTED_EOF_WHILE_READING"
        raise error

    attempts = play(be_cut_off, reach)
    await connect(FORWARDER, timeout=20)
    assert attempts.begun == 2


async def test_earlier_certificates_are_tried_in_turn(play: Play) -> None:
    newest, earlier = (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2))
    attempts = play(meet_another, reach)
    await connect(Forwarder("192.0.2.1", 15150, "podvm-a", newest, (earlier,)), timeout=20)
    assert attempts.contexts == [newest, earlier]


async def test_if_none_fits_the_newest_ones_reason_is_given(play: Play) -> None:
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2)]
    play(meet_another, be_alerted)
    with pytest.raises(FailedPreconditionError, match="Hostname mismatch"):
        await connect(Forwarder("192.0.2.1", 15150, "podvm-a", contexts[0], (contexts[1],)), timeout=20)


async def test_a_second_success_is_closed(play: Play) -> None:
    made: list[Reached] = []
    both = asyncio.Event()

    async def first() -> Connection:
        await both.wait()
        made.append(Reached())
        return made[-1]

    async def second() -> Connection:
        both.set()
        made.append(Reached())
        return made[-1]

    play(first, second, hang)
    winner = await connect(FORWARDER, timeout=20)
    assert isinstance(winner, Reached)
    assert not winner.aborted
    assert len(made) == 2
    assert all(reached.aborted for reached in made if reached is not winner)


async def test_cancelled_it_leaves_nothing_under_way(play: Play) -> None:
    attempts = play(hang)
    before = asyncio.all_tasks()
    dialling = asyncio.create_task(connect(FORWARDER, timeout=20))
    while attempts.begun < 3:
        await asyncio.sleep(0)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    assert attempts.under_way == 0
    assert asyncio.all_tasks() == before


async def test_a_success_that_meets_a_cancellation_is_closed(play: Play) -> None:
    reached: list[Reached] = []

    async def reach_and_be_cancelled() -> Connection:
        reached.append(Reached())
        dialling.cancel()
        return reached[-1]

    play(reach_and_be_cancelled)
    dialling = asyncio.create_task(connect(FORWARDER, timeout=20))
    with pytest.raises(asyncio.CancelledError):
        await dialling
    assert [each.aborted for each in reached] == [True]


async def test_a_bug_is_not_mistaken_for_an_unreachable_vm(play: Play) -> None:
    async def stumble() -> Connection:
        raise ZeroDivisionError

    play(stumble)
    with pytest.raises(ExceptionGroup) as caught:
        await connect(FORWARDER, timeout=20)
    assert caught.group_contains(ZeroDivisionError)
