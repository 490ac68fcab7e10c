"""The parts of a provider that decide: the agenda, the pool, the strategy.  No I/O here."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_rig import KEYS, OWN, make_config

from aigateway.actors.actor.base import new_reply
from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.conversation import Affinity
from aigateway.actors.interception.headers import CENTRALIZED, Credential
from aigateway.actors.providers import pauses
from aigateway.actors.providers.agenda import Agenda
from aigateway.actors.providers.counters import Counters
from aigateway.actors.providers.jobs import Job
from aigateway.actors.providers.making import PlainMaker
from aigateway.actors.providers.refusals import ProviderAnswer
from aigateway.actors.providers.request import Perform, UpstreamRequest
from aigateway.actors.providers.steps import Deliver, FallBack, Pause, Refuse, Send, Step
from aigateway.actors.providers.strategy import Strategy
from aigateway.actors.providers.worker_pool import Member, WorkerPool
from aigateway.actors.upstream.errors import (
    AnswerTimeout,
    ConnectFailed,
    ConnectTimeout,
    HeadCut,
    Unsendable,
    UpstreamError,
)

NOW = 1000.0
NOON = 1_792_584_000.0
"""Wed, 21 Oct 2026 12:00:00 GMT, in Unix seconds."""


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


# -- the pool


def ref(number: int) -> Any:
    return SimpleNamespace(actor_urn=f"urn:{number}")


def connection(name: str) -> Any:
    return SimpleNamespace(name=name)


def fill(pool: WorkerPool, count: int) -> list[Member]:
    return [pool.add(ref(number), f"worker-{number}") for number in range(count)]


def test_the_last_used_connection_and_the_last_worker_come_first():
    pool = WorkerPool(10)
    a, b, c = fill(pool, 3)
    assert pool.take() is pool.take_kept() is None
    connections = [connection(name) for name in "xyz"]
    for member, kept in zip((a, c, b), connections, strict=True):
        pool.free(member, NOW)
        pool.keep(kept, NOW)
    assert [pool.take() for _ in range(4)] == [b, c, a, None]
    assert [pool.take_kept() for _ in range(4)] == [*reversed(connections), None]


def test_those_idle_for_long_are_taken_out():
    pool = WorkerPool(10)
    members = fill(pool, 3)
    connections = [connection(name) for name in "xyz"]
    for member, kept, since in zip(members, connections, (NOW, NOW + 5, NOW + 9), strict=True):
        pool.free(member, since)
        pool.keep(kept, since)
    assert pool.take_idle(NOW + 5) == members[:2]
    assert pool.take_cold(NOW + 5) == connections[:2]
    assert (len(pool), pool.kept) == (1, 1)
    assert pool.take() is members[2]
    assert pool.take_kept() is connections[2]


def test_a_queue_is_bounded_in_length_and_time_and_by_each_deadline():
    pool = WorkerPool(0, queue=2, wait=30.0)
    patient, hurried, refused = make_job(), make_job(deadline=NOW + 3), make_job()
    assert pool.enqueue(patient, NOW)
    assert pool.enqueue(hurried, NOW)
    assert not pool.enqueue(refused, NOW)
    assert pool.next_expiry() == NOW + 3
    assert pool.take_expired(NOW + 2) == []
    assert pool.take_expired(NOW + 3) == [hurried]
    assert pool.next_waiting() is patient
    assert pool.next_waiting() is None
    assert pool.next_expiry() is None


STEPS = ["add", "take", "free", "lend", "return", "drain", "remove", "idle"]


class Lent:
    """Stands for an exchange that is out."""

    def __init__(self) -> None:
        self.walker = SimpleNamespace()


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=60))
def test_a_pool_always_knows_who_does_what(steps):
    pool = WorkerPool(5)
    known: dict[int, Member] = {}
    states: dict[int, str] = {}
    out: list[Any] = []
    for now, (step, number) in enumerate(steps):
        member = known.get(number)
        match step:
            case "add" if member is None and pool.has_room:
                known[number] = pool.add(ref(number), f"worker-{number}")
                states[number] = "busy"
            case "take" if pool.has_room:
                taken = pool.take()
                assert (taken is None) is ("idle" not in states.values())
                if taken is not None:
                    place = next(n for n, m in known.items() if m is taken)
                    assert states[place] == "idle"
                    states[place] = "busy"
            case "free" if member is not None and states[number] != "idle":
                pool.free(member, now)
                states[number] = "idle"
            case "lend" if states.get(number) == "busy":
                assert member is not None
                pool.free(member, now)
                states[number] = "idle"
                out.append(Lent())
                pool.lend(out[-1], out[-1].walker)
            case "return" if out:
                back = out.pop(number % len(out))
                assert pool.walker_of(back) is pool.end_loan(back) is back.walker
                assert not pool.is_out(back)
            case "drain" if states.get(number) == "busy":
                assert member is not None
                pool.drain(member)
                states[number] = "draining"
            case "remove":
                assert pool.remove(ref(number)) is member
                known.pop(number, None)
                states.pop(number, None)
            case "idle":
                for old in pool.take_idle(now - 5):
                    place = next(n for n, m in known.items() if m is old)
                    assert states.pop(place) == "idle"
                    del known[place]
        assert len(pool) == len(known)
        busy = len(states) - list(states.values()).count("idle")
        assert pool.in_use == busy + len(out) <= 5
        assert all(pool.is_out(each) for each in out)
        assert pool.draining == list(states.values()).count("draining")
        assert sorted(state.state for state in pool.states()) == sorted(states.values())
        assert all((pool.find(ref(n)) is known.get(n)) for n in range(8))


# -- the strategy


def decide(
    random: float = 0.0, standing: Credential | None = None, **settings: Any
) -> tuple[Strategy, Counters]:
    counters = Counters()
    config = make_config("http://h", **settings)
    maker = PlainMaker(config)
    maker.standing = standing
    return Strategy(config, counters, lambda: random, maker), counters


def begin(strategy: Strategy, *, deadline: float = math.inf, **changes: Any) -> Job:
    model = changes.get("model", "m")
    job, step = strategy.begin(make_perform(**changes), model, deadline, NOW)
    assert isinstance(step, Send)
    job.attempts += 1
    return job


def answered(
    strategy: Strategy, job: Job, status: int, headers: Headers, now: float, body: bytes = b""
) -> Step:
    """An answer comes; its clock stands still at noon."""
    return strategy.answered(job, ProviderAnswer(status, headers, body, True, NOON), now)


@pytest.mark.parametrize(("dice", "pauses"), [
    (0.0, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]),
    (1.0, [0.375, 0.75, 1.5, 3.0, 6.0, 6.0]),
])  # fmt: skip
def test_pauses_grow_up_to_a_limit_and_are_jittered(dice, pauses):
    strategy, _ = decide(dice, max_retries=len(pauses))
    job = begin(strategy)
    for pause in pauses:
        assert answered(strategy, job, 500, (), NOW) == Pause(pause)
        assert isinstance(strategy.resume(job, NOW), Send)
    assert isinstance(answered(strategy, job, 500, (), NOW), Deliver)


@pytest.mark.parametrize(
    ("headers", "step"),
    [
        ([("Retry-After", "3")], Pause(3.25)),
        ([("Retry-After", "60")], Pause(60.25)),
        ([("Retry-After", "61")], Deliver()),
        ([("retry-after-ms", "1500"), ("Retry-After", "9")], Pause(1.75)),
        ([("Retry-After", "-1")], Pause(0.375)),
        ([("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")], Pause(0.375)),
        ([("Retry-After", "Wed, 21 Oct 2026 12:00:05 GMT")], Pause(5.25)),
        ([("Retry-After", "1.5")], Pause(1.75)),
        ([("X-Should-Retry", "False")], Deliver()),
        ([("X-Should-Retry", "true")], Pause(0.375)),
    ],
)
def test_an_upstreams_wish_is_heard(headers, step):
    strategy, _ = decide(1.0, max_retries=1)
    assert answered(strategy, begin(strategy), 503, headers, NOW) == step


def test_a_pause_that_would_last_beyond_the_deadline_is_not_made():
    strategy, _ = decide(max_retries=1)
    assert isinstance(
        answered(strategy, begin(strategy, deadline=NOW + 0.5), 500, (), NOW), Deliver
    )
    assert strategy.paused == 0


def test_only_so_many_pause_at_once(monkeypatch):
    monkeypatch.setattr(pauses, "MAX_PAUSED", 1)
    strategy, _ = decide(max_retries=2)
    first, second = begin(strategy), begin(strategy)
    assert isinstance(answered(strategy, first, 500, (), NOW), Pause)
    assert isinstance(answered(strategy, second, 500, (), NOW), Deliver)
    strategy.resume(first, NOW)
    assert isinstance(answered(strategy, first, 500, (), NOW), Pause)


FAILURES: list[tuple[UpstreamError, bool, bool]] = [
    # What went wrong; whether it is tried again; whether another provider is asked.
    (ConnectFailed("refused"), True, True),
    (ConnectTimeout("late"), True, True),
    (HeadCut("reset"), False, True),
    (AnswerTimeout("late"), False, True),
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
    if isinstance(step, FallBack):
        step = step.instead
    assert isinstance(step, Refuse)
    assert (step.refused.status, step.refused.message) == (error.status, str(error))


def test_a_resting_key_is_waited_for_exactly():
    strategy, counters = decide(0.5, max_retries=1, keys=KEYS[:1])
    job = begin(strategy)
    limited = [("Retry-After", "20")]
    assert answered(strategy, job, 429, limited, NOW) == Pause(20.125)
    assert isinstance(strategy.resume(job, NOW + 20.125), Send)
    assert counters.keys_tried == {1: 1}
    # The client gets what the provider says.
    assert answered(strategy, job, 429, limited, NOW + 30) == Deliver()
    assert counters.exhaustions == {"rate_limited": 1}


def test_a_users_own_key_never_marks_one_of_ours():
    strategy, counters = decide(max_retries=1)
    job = begin(strategy, credential=OWN)
    assert job.ask_back.isdisjoint({401, 403})
    assert isinstance(answered(strategy, job, 429, (), NOW), Pause)
    assert {key.state for key in strategy.keys(NOW)} == {"valid"}
    assert counters.rests == {}


# -- what becomes of a request when keys are refused


def test_a_403_goes_to_the_next_key_and_then_to_the_client():
    strategy, counters = decide()
    job = begin(strategy)
    assert answered(strategy, job, 403, (), NOW) == Send()
    assert answered(strategy, job, 403, (), NOW) == Deliver()
    assert {key.state for key in strategy.keys(NOW)} == {"valid"}
    assert (counters.failovers, counters.exhaustions, counters.rests) == (1, {}, {})


def test_a_429_that_forbids_retries_goes_to_the_client_at_once():
    strategy, _ = decide(max_retries=3)
    job = begin(strategy)
    assert answered(strategy, job, 429, [("x-should-retry", "false")], NOW) == Deliver()
    assert {key.state for key in strategy.keys(NOW)} == {"valid"}


def test_a_last_429_that_forbids_retries_is_not_waited_for():
    strategy, _ = decide(max_retries=3, keys=KEYS[:1])
    headers = [("x-should-retry", "false"), ("Retry-After", "2")]
    assert answered(strategy, begin(strategy), 429, headers, NOW) == Deliver()


SAID = b'{"type":"error","error":{"type":"authentication_error","message":"bad key"}}'


STANDING = Credential((), CENTRALIZED, "", "AKIA...")


@pytest.mark.parametrize("keys", [KEYS[:1], ()])
def test_a_401_to_the_gateways_credential_is_told_as_its_own_trouble(keys):
    strategy, _ = decide(keys=keys, standing=STANDING)
    job = begin(strategy, api="messages")
    assert 401 in job.ask_back
    step = answered(strategy, job, 401, [("request-id", "req_9")], NOW, SAID)
    assert isinstance(step, Refuse)
    refused = step.refused
    assert (refused.status, refused.error_type, refused.quotes) == (502, "unauthorized", True)
    assert ("x-should-retry", "false") in refused.headers
    for word in ("authentication_error", "bad key", "req_9"):
        assert word in refused.message


AWS = [
    ("ExpiredTokenException", "The security token included in the request is expired", True),
    ("UnrecognizedClientException", "The security token ... is invalid.", True),
    ("InvalidSignatureException", "The request signature we calculated does not match", True),
    ("MissingAuthenticationTokenException", "Missing Authentication Token", True),
    ("IncompleteSignatureException", "x", True),
    ("UnrecognizedClientException:http://internal.amazon.com/coral/x", "x", True),
    ("com.amazon.coral.service#ExpiredTokenException", "x", True),
    ("AccessDeniedException", "You don't have access to the model with that ID.", False),
    ("AccessDeniedException", "Bearer Token has expired", True),
    ("", "blocked by policy", False),
]


@pytest.mark.parametrize(("kind", "message", "about"), AWS)
def test_a_403_by_which_aws_means_its_credentials_counts_as_a_401(kind, message, about):
    strategy, _ = decide(type="bedrock", keys=(), standing=STANDING)
    job = begin(strategy)
    headers = [("x-amzn-RequestId", "r-1"), *([("x-amzn-ErrorType", kind)] if kind else [])]
    body = b'{"message":"%s"}' % message.encode()
    step = answered(strategy, job, 403, headers, NOW, body)
    assert isinstance(step, Refuse) is about
    assert isinstance(step, Deliver) is not about


def test_an_earlier_answer_is_told_when_the_next_key_meets_no_answer():
    strategy, _ = decide()
    job = begin(strategy)
    limited = [("Retry-After", "9"), ("Content-Type", "text/plain")]
    assert answered(strategy, job, 429, limited, NOW, b"slow down") == Send()
    step = strategy.failed(job, HeadCut("reset"), NOW)
    assert isinstance(step, Refuse)
    assert (step.refused.status, step.refused.body) == (429, b"slow down")
    assert step.refused.headers == limited


def test_a_rate_limit_is_told_rather_than_a_later_refusal_of_another_key():
    strategy, _ = decide()
    job = begin(strategy)
    assert answered(strategy, job, 429, [("Retry-After", "9")], NOW, b"slow down") == Send()
    step = answered(strategy, job, 401, (), NOW, SAID)
    assert isinstance(step, Refuse)
    assert (step.refused.status, step.refused.body) == (429, b"slow down")


def test_a_key_that_was_refused_is_asked_about_its_success():
    strategy, _ = decide(keys=KEYS[:1])
    assert isinstance(answered(strategy, begin(strategy), 401, (), NOW), Refuse)
    job = begin(strategy)
    assert 200 in job.ask_back
    assert answered(strategy, job, 200, (), NOW) == Deliver()
    assert {key.state for key in strategy.keys(NOW)} == {"valid"}
    assert 200 not in begin(strategy).ask_back


def test_a_bound_request_takes_no_other_key_and_no_other_provider():
    strategy, _ = decide(fallback="spare")
    bound = Affinity("session", binding=True)
    for status in (403, 429):
        step = answered(
            strategy, begin(strategy, affinity=bound, model=str(status)), status, (), NOW
        )
        assert isinstance(step, Deliver)
    step = answered(strategy, begin(strategy, affinity=bound), 401, (), NOW)
    assert isinstance(step, Refuse)
    step = strategy.failed(begin(strategy, affinity=bound), HeadCut("reset"), NOW)
    assert isinstance(step, Refuse)


@pytest.mark.parametrize(("seconds", "waits"), [("10", True), ("11", False)])
def test_a_bound_request_waits_once_for_a_key_that_is_back_soon(seconds, waits):
    strategy, _ = decide()
    bound = Affinity("session", binding=True)
    limited = [("Retry-After", seconds)]
    answered(strategy, begin(strategy, affinity=bound), 429, limited, NOW)
    job, step = strategy.begin(make_perform(affinity=bound), "m", math.inf, NOW)
    if not waits:
        assert isinstance(step, Refuse)
        assert (step.refused.status, step.refused.retry_after) == (429, 11)
        return
    assert step == Pause(10.0)
    assert isinstance(strategy.resume(job, NOW + 10), Send)


def test_nobody_is_asked_while_all_keys_rest_for_the_model():
    strategy, counters = decide(keys=KEYS[:1])
    answered(strategy, begin(strategy, model="m"), 429, [("Retry-After", "2.5")], NOW)
    job, step = strategy.begin(make_perform(model="m"), "m", math.inf, NOW)
    assert isinstance(step, Refuse)
    assert (step.refused.status, step.refused.retry_after, step.refused.sent) == (429, 3, False)
    assert job.attempts == 0
    assert counters.exhaustions == {"rate_limited": 2}
    begin(strategy, model="another")
    begin(strategy, route="", passed="/v1/models")
