"""The small parts of the connection, with time and threads taken away."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import cast

import structlog
from attrs import define, field

from aigateway.actors.control.call_counters import CallCounters
from aigateway.actors.control.coderd._alarms import Alarm, Alarms
from aigateway.actors.control.coderd._calls import Calls, RpcCall
from aigateway.actors.control.coderd._provider_feed import ProviderFeed
from aigateway.actors.control.coderd._session import Session
from aigateway.actors.control.coderd.versions import ApiVersion
from aigateway.actors.control.rpc_results import Failure, RpcAnswer, RpcResult


@define(eq=False)
class StubAlarms:
    """Alarms that ring when the test says so."""

    set: list[Alarm] = field(factory=list)

    def at(self, _when: float, action: Callable[[], None]) -> Alarm:
        alarm = Alarm(action)
        self.set.append(alarm)
        return alarm

    def ring(self) -> None:
        due, self.set = self.set, []
        for alarm in due:
            alarm.ring()


@define(eq=False)
class StubSession:
    """A session that keeps what it was asked."""

    version: ApiVersion = field(factory=lambda: ApiVersion(1, 4))
    ended: bool = False
    asked: list[Callable[[RpcResult], None]] = field(factory=list)
    held: list[bool] = field(factory=list)
    """Whether each of them may wait for others."""
    signals: list[Callable[[], None]] = field(factory=list)

    def call(
        self,
        _rpc: str,
        _request: bytes,
        _timeout: float,
        done: Callable[[RpcResult], None],
        *,
        can_wait: bool = False,
    ) -> None:
        self.asked.append(done)
        self.held.append(can_wait)

    def watch(
        self,
        _rpc: str,
        _request: bytes,
        signal: Callable[[], None],
        done: Callable[[RpcResult], None],
    ) -> None:
        self.signals.append(signal)
        self.asked.append(done)

    def seen(self) -> Session:
        return cast(Session, self)


def run_now(action: Callable[[], None]) -> None:
    action()


def make_calls(alarms: StubAlarms, max_wait: float = 60.0) -> Calls:
    return Calls(run_now, cast(Alarms, alarms), CallCounters(), max_wait=max_wait)


def make_call(outcomes: list[RpcResult]) -> RpcCall:
    return RpcCall(rpc="/x", request=lambda _: b"", done=outcomes.append, timeout=1.0)


# -- calls


def test_a_call_has_one_outcome_though_its_alarm_rings_late() -> None:
    alarms, session, outcomes = StubAlarms(), StubSession(), list[RpcResult]()
    calls = make_calls(alarms)
    calls.ask(make_call(outcomes))
    (alarm,) = alarms.set
    action = alarm._action
    assert action is not None
    calls.connected(session.seen())
    action()
    session.asked[0](RpcAnswer(b"yes"))
    assert outcomes == [RpcAnswer(b"yes")]


def test_a_lost_call_moves_to_the_session_that_is_there_already() -> None:
    first, second, outcomes = StubSession(), StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(first.seen())
    calls.ask(make_call(outcomes))
    calls.disconnected(first.seen(), "gone")
    calls.connected(second.seen())
    first.asked[0](Failure("lost"))
    second.asked[0](RpcAnswer(b"yes"))
    assert outcomes == [RpcAnswer(b"yes")]
    # The end of a session that was replaced does not touch its successor.
    calls.disconnected(first.seen(), "gone")
    assert calls.session is second.seen()


def test_a_lost_call_whose_time_is_over_is_not_repeated() -> None:
    session, outcomes = StubSession(ended=True), list[RpcResult]()
    calls = make_calls(StubAlarms(), max_wait=0.0)
    calls.connected(session.seen())
    calls.ask(make_call(outcomes))
    session.asked[0](Failure("lost"))
    assert outcomes == [Failure("lost")]


def test_a_silent_coderd_is_not_asked_twice() -> None:
    session, outcomes = StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(session.seen())
    calls.ask(make_call(outcomes))
    session.asked[0](Failure("no answer within 1 s"))
    assert outcomes == [Failure("no answer within 1 s")]


def test_a_call_whose_stream_breaks_is_made_again_in_the_same_session() -> None:
    session, outcomes = StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(session.seen())
    calls.ask(make_call(outcomes))
    session.asked[0](Failure("broken", broken=True))
    session.asked[1](RpcAnswer(b"yes"))
    assert outcomes == [RpcAnswer(b"yes")]


def test_a_call_is_given_up_when_its_stream_breaks_each_time() -> None:
    session, outcomes = StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(session.seen())
    calls.ask(make_call(outcomes))
    for number in range(3):
        assert not outcomes
        session.asked[number](Failure("broken", broken=True))
    assert outcomes == [Failure("broken", broken=True)]
    assert len(session.asked) == 3


def test_a_call_that_its_line_swallows_is_made_again_until_its_time_is_over() -> None:
    session, outcomes = StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(session.seen())
    call = make_call(outcomes)
    calls.ask(call)
    swallowed = Failure("no answer within 1 s", away=False, silent=True)
    for number in range(5):
        session.asked[number](swallowed)
    assert not outcomes
    assert len(session.asked) == 6
    call.expires = 0.0
    session.asked[5](swallowed)
    assert outcomes == [swallowed]


def test_a_record_that_a_line_swallows_goes_back_to_where_it_came_from() -> None:
    session, outcomes = StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(session.seen())
    calls.send("/x", b"", 1.0, outcomes.append)
    session.asked[0](Failure("no answer", silent=True))
    assert outcomes == [Failure("no answer", silent=True)]


def test_a_call_that_nobody_waits_for_is_not_made_again() -> None:
    session, outcomes = StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(session.seen())
    calls.send("/x", b"", 1.0, outcomes.append)
    session.asked[0](Failure("broken", broken=True))
    assert outcomes == [Failure("broken", broken=True)]


def test_a_call_that_nobody_waits_for_does_not_wait_for_a_coderd_that_is_away() -> None:
    outcomes = list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.send("/x", b"", 1.0, outcomes.append)
    calls.unreachable("no route")
    calls.send("/x", b"", 1.0, outcomes.append)
    calls.give_up("the key was refused")
    calls.send("/x", b"", 1.0, outcomes.append)
    texts = [outcome.text for outcome in outcomes if isinstance(outcome, Failure)]
    assert texts == [
        "coderd is away: coderd has not been reached yet",
        "coderd is away: no route",
        "the key was refused",
    ]
    assert not any(outcome.sent for outcome in outcomes if isinstance(outcome, Failure))


def test_only_a_call_that_nobody_waits_for_may_be_held_back() -> None:
    session, outcomes = StubSession(), list[RpcResult]()
    calls = make_calls(StubAlarms())
    calls.connected(session.seen())
    calls.ask(make_call(outcomes))
    calls.send("/x", b"", 1.0, outcomes.append)
    assert session.held == [False, True]


def test_a_call_waits_once_however_often_its_session_is_lost() -> None:
    alarms, outcomes = StubAlarms(), list[RpcResult]()
    calls = make_calls(alarms)
    calls.ask(make_call(outcomes))
    for _ in range(3):
        session = StubSession()
        calls.connected(session.seen())
        session.ended = True
        session.asked[0](Failure("lost"))
    assert outcomes == []
    alarms.ring()
    (outcome,) = outcomes
    assert outcome == Failure("coderd was away for 60 s: lost")


# -- providers


def make_feed(alarms: StubAlarms) -> ProviderFeed:
    return ProviderFeed(
        run_now,
        cast(Alarms, alarms),
        CallCounters(),
        fixed=None,
        finish=lambda found: found,
        timeout=1.0,
    )


def test_what_an_old_session_still_tells_is_ignored() -> None:
    alarms = StubAlarms()
    feed = make_feed(alarms)
    old, new = StubSession(), StubSession()
    feed.connected(old.seen())
    alarms.ring()
    old.signals[0]()
    watch_ended, loaded = old.asked
    feed.connected(new.seen())
    old.signals[0]()
    loaded(RpcAnswer(b""))
    watch_ended(Failure("lost"))
    assert len(old.asked) == 2
    # Its alarms too.
    feed.connected(StubSession().seen())
    alarms.ring()
    assert new.asked == []


def test_a_load_that_was_to_be_tried_again_is_not_when_the_session_is_another() -> None:
    alarms = StubAlarms()
    feed = make_feed(alarms)
    old = StubSession(version=ApiVersion(1, 1))
    feed.connected(old.seen())
    old.asked[0](Failure("no answer within 1 s"))
    feed.connected(StubSession().seen())
    alarms.ring()
    assert len(old.asked) == 1


def make_alarms() -> Alarms:
    alarms = Alarms("test-alarms")
    alarms.start()
    return alarms


# -- alarms


def test_alarms_ring_in_the_order_of_their_times() -> None:
    alarms = make_alarms()
    rung: queue.Queue[str] = queue.Queue()
    now = time.monotonic()
    alarms.at(now + 0.06, lambda: rung.put("second"))
    alarms.at(now + 0.03, lambda: rung.put("first"))
    cancelled = alarms.at(now + 0.01, lambda: rung.put("cancelled"))
    cancelled.cancel()
    alarms.at(now - 5.0, lambda: rung.put("at once"))
    assert [rung.get(timeout=10) for _ in range(3)] == ["at once", "first", "second"]
    alarms.stop()
    alarms.stop()


def test_an_alarm_that_fails_does_not_silence_the_others() -> None:
    alarms = make_alarms()
    rung = threading.Event()

    def fail() -> None:
        raise RuntimeError("surprise")

    with structlog.testing.capture_logs() as logs:
        alarms.at(0.0, fail)
        alarms.at(time.monotonic() + 0.01, rung.set)
        assert rung.wait(10)
    assert [entry["event"] for entry in logs] == ["an alarm failed"]
    alarms.stop()


def test_stopped_alarms_do_not_ring() -> None:
    alarms = make_alarms()
    rung = threading.Event()
    alarms.at(time.monotonic() + 0.02, rung.set)
    alarms.stop()
    alarms._thread.join(10)
    assert not alarms._thread.is_alive()
    assert not rung.is_set()
