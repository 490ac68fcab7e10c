"""The parts of a provider that decide: the agenda, the roster, the strategy.  No I/O here."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_rig import KEYS, OWN, make_config

from aigateway.actors.actor import new_reply
from aigateway.actors.providers import strategy as strategy_module
from aigateway.actors.providers.agenda import Agenda
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.errors import (
    AnswerTimeout,
    ConnectFailed,
    ConnectTimeout,
    HeadCut,
    Unsendable,
    UpstreamError,
)
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.messages import Perform
from aigateway.actors.providers.request import UpstreamRequest
from aigateway.actors.providers.roster import Member, Roster
from aigateway.actors.providers.strategy import FallBack, Pause, Refuse, Relay, Send, Strategy

NOW = 1000.0


def make_perform(**changes: Any) -> Perform:
    settings: dict[str, Any] = {
        "method": "POST",
        "headers": (),
        "body": b"",
        "rest": "/v1/messages",
        "route": "/v1/messages",
        **changes,
    }
    return Perform(request=UpstreamRequest(**settings), reply=new_reply())


def make_job(deadline: float = math.inf) -> Job:
    return Job(make_perform(), "m", None, frozenset(), deadline)


# -- the agenda


@given(st.lists(st.tuples(st.floats(0, 10), st.integers()), max_size=20), st.floats(0, 10))
def test_an_agenda_gives_out_what_is_due_in_order(entries, now):
    agenda: Agenda[tuple[float, int]] = Agenda()
    for entry in entries:
        first = agenda.next_due()
        assert agenda.add(entry[0], entry) is (first is None or entry[0] < first)
    due = agenda.due(now)
    assert sorted(due, key=lambda entry: entry[0]) == due
    assert all(entry[0] <= now for entry in due)
    later = agenda.clear()
    assert all(entry[0] > now for entry in later)
    assert sorted([*due, *later]) == sorted(entries)
    assert (len(agenda), agenda.next_due()) == (0, None)


# -- the roster


def ref(number: int) -> Any:
    return SimpleNamespace(actor_urn=f"urn:{number}")


def fill(roster: Roster, count: int) -> list[Member]:
    return [roster.add(ref(number), f"worker-{number}") for number in range(count)]


def test_the_last_used_connection_is_used_first_and_a_closed_one_last():
    roster = Roster(10)
    a, b, c, d = fill(roster, 4)
    assert roster.take() is None
    for member, connected in ((a, True), (b, False), (c, True), (d, False)):
        roster.free(member, NOW, connected=connected)
    assert [roster.take() for _ in range(5)] == [c, a, d, b, None]


def test_those_idle_for_long_are_taken_out():
    roster = Roster(10)
    members = fill(roster, 3)
    for member, since in zip(members, (NOW, NOW + 5, NOW + 9), strict=True):
        roster.free(member, since, connected=True)
    assert roster.take_idle(NOW + 5) == members[:2]
    assert len(roster) == 1
    assert roster.take() is members[2]


def test_a_queue_is_bounded_in_length_and_time_and_by_each_deadline():
    roster = Roster(0, queue=2, wait=30.0)
    patient, hurried, refused = make_job(), make_job(deadline=NOW + 3), make_job()
    assert roster.enqueue(patient, NOW)
    assert roster.enqueue(hurried, NOW)
    assert not roster.enqueue(refused, NOW)
    assert roster.next_expiry() == NOW + 3
    assert roster.take_expired(NOW + 2) == []
    assert roster.take_expired(NOW + 3) == [hurried]
    assert roster.next_waiting() is patient
    assert roster.next_waiting() is None
    assert roster.next_expiry() is None


STEPS = ["add", "take", "warm", "cold", "drain", "remove", "idle"]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=60))
def test_a_roster_always_knows_who_does_what(steps):
    roster = Roster(5)
    known: dict[int, Member] = {}
    states: dict[int, str] = {}
    for now, (step, number) in enumerate(steps):
        member = known.get(number)
        match step:
            case "add" if member is None and roster.has_room:
                known[number] = roster.add(ref(number), f"worker-{number}")
                states[number] = "busy"
            case "take":
                taken = roster.take()
                assert (taken is None) is ("idle" not in states.values())
                if taken is not None:
                    place = next(n for n, m in known.items() if m is taken)
                    assert states[place] == "idle"
                    states[place] = "busy"
            case "warm" | "cold" if member is not None and states[number] != "idle":
                roster.free(member, now, connected=step == "warm")
                states[number] = "idle"
            case "drain" if states.get(number) == "busy":
                assert member is not None
                roster.drain(member)
                states[number] = "draining"
            case "remove":
                assert roster.remove(ref(number)) is member
                known.pop(number, None)
                states.pop(number, None)
            case "idle":
                for old in roster.take_idle(now - 5):
                    place = next(n for n, m in known.items() if m is old)
                    assert states.pop(place) == "idle"
                    del known[place]
        assert len(roster) == len(known) <= 5
        assert roster.draining == list(states.values()).count("draining")
        assert sorted(state.state for state in roster.states()) == sorted(states.values())
        assert all((roster.find(ref(n)) is known.get(n)) for n in range(8))


# -- the strategy


def decide(random: float = 0.0, **settings: Any) -> tuple[Strategy, Counters]:
    counters = Counters()
    return Strategy(make_config("http://h", **settings), counters, lambda: random), counters


def begin(strategy: Strategy, *, deadline: float = math.inf, **changes: Any) -> Job:
    job, step = strategy.begin(make_perform(**changes), "m", deadline, NOW)
    assert isinstance(step, Send)
    job.attempts += 1
    return job


@pytest.mark.parametrize(("dice", "pauses"), [
    (0.0, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]),
    (1.0, [0.375, 0.75, 1.5, 3.0, 6.0, 6.0]),
])  # fmt: skip
def test_pauses_grow_up_to_a_limit_and_are_jittered(dice, pauses):
    strategy, _ = decide(dice, max_retries=len(pauses))
    job = begin(strategy)
    for pause in pauses:
        assert strategy.answered(job, 500, (), NOW) == Pause(pause)
        assert isinstance(strategy.resume(job, NOW), Send)
    assert isinstance(strategy.answered(job, 500, (), NOW), Relay)


@pytest.mark.parametrize(
    ("headers", "step"),
    [
        ([("Retry-After", "3")], Pause(3.25)),
        ([("Retry-After", "60")], Pause(60.25)),
        ([("Retry-After", "61")], Relay()),
        ([("retry-after-ms", "1500"), ("Retry-After", "9")], Pause(1.75)),
        ([("Retry-After", "-1")], Pause(0.375)),
        ([("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")], Pause(0.375)),
        ([("X-Should-Retry", "False")], Relay()),
        ([("X-Should-Retry", "true")], Pause(0.375)),
    ],
)
def test_an_upstreams_wish_is_heard(headers, step):
    strategy, _ = decide(1.0, max_retries=1)
    assert strategy.answered(begin(strategy), 503, headers, NOW) == step


def test_a_pause_that_would_last_beyond_the_deadline_is_not_made():
    strategy, _ = decide(max_retries=1)
    assert isinstance(strategy.answered(begin(strategy, deadline=NOW + 0.5), 500, (), NOW), Relay)
    assert strategy.paused == 0


def test_only_so_many_pause_at_once(monkeypatch):
    monkeypatch.setattr(strategy_module, "MAX_PAUSED", 1)
    strategy, _ = decide(max_retries=2)
    first, second = begin(strategy), begin(strategy)
    assert isinstance(strategy.answered(first, 500, (), NOW), Pause)
    assert isinstance(strategy.answered(second, 500, (), NOW), Relay)
    strategy.resume(first, NOW)
    assert isinstance(strategy.answered(first, 500, (), NOW), Pause)


FAILURES: list[tuple[UpstreamError, bool, bool]] = [
    # What went wrong; whether it is tried again; whether another provider is asked.
    (ConnectFailed("refused"), True, True),
    (ConnectTimeout("late"), True, True),
    (HeadCut("reset"), False, True),
    (AnswerTimeout("late"), False, False),
    (Unsendable("line break"), False, False),
]


@pytest.mark.parametrize(("error", "again", "elsewhere"), FAILURES, ids=lambda v: type(v).__name__)
def test_what_is_done_about_a_request_without_an_answer(error, again, elsewhere):
    strategy, _ = decide(max_retries=1, fallback=("spare",))
    job = begin(strategy)
    step = strategy.failed(job, error, NOW)
    assert isinstance(step, Pause) is again
    if again:
        strategy.resume(job, NOW)
        step = strategy.failed(job, error, NOW)
    assert isinstance(step, FallBack if elsewhere else Refuse)
    assert isinstance(step, FallBack | Refuse)
    assert (step.refused.status, step.refused.message) == (error.status, str(error))


def test_a_resting_key_is_waited_for_exactly():
    strategy, counters = decide(0.5, max_retries=1, keys=KEYS[:1])
    job = begin(strategy)
    limited = [("Retry-After", "20")]
    assert strategy.answered(job, 429, limited, NOW) == Pause(20.125)
    assert isinstance(strategy.resume(job, NOW + 20.125), Send)
    assert counters.keys_tried == {1: 1}
    step = strategy.answered(job, 429, limited, NOW + 30)
    assert isinstance(step, Refuse)
    assert step.refused.retry_after == 20
    assert counters.exhaustions == {"rate_limited": 1}


def test_a_users_own_key_never_marks_one_of_ours():
    strategy, counters = decide(max_retries=1)
    job = begin(strategy, credential=OWN)
    assert job.ask_back.isdisjoint({401, 403})
    assert isinstance(strategy.answered(job, 429, (), NOW), Pause)
    assert {key.state for key in strategy.keys(NOW)} == {"valid"}
    assert counters.key_transitions == {}
