"""What answers make of a provider's keys, and which key a request gets next."""

from __future__ import annotations

import pytest

from aigateway.actors.codec.headers import Headers
from aigateway.actors.interception.conversation import NO_AFFINITY, Affinity
from aigateway.actors.providers import keypool
from aigateway.actors.providers.keypool import (
    Key,
    KeyPool,
    KeyPoolError,
    KeyStatus,
    Marked,
    Rest,
    Subject,
    Walker,
)

FIRST = "sk-first-0123456789abcd"
SECOND = "sk-second-0123456789abcd"
THIRD = "sk-third-0123456789abcd"
KEYS = (FIRST, SECOND, THIRD)
HINT = "sk-f...abcd"
START = 1000.0
WALL = 1_764_000_000.0
MODEL = Subject.model("m")
OTHER = Subject.model("n")


def take(
    pool: KeyPool,
    now: float = START,
    subject: Subject = MODEL,
    affinity: Affinity = NO_AFFINITY,
) -> Walker:
    """A request that was given a key."""
    walker = pool.walk(subject, affinity)
    assert isinstance(walker.next(now), Key)
    return walker


def refuse(walker: Walker, status: int, headers: Headers = (), now: float = START) -> Marked | None:
    return walker.refused(status, headers, now, WALL)


def index_of(walker: Walker) -> int:
    assert walker.last is not None
    return walker.last.index


def handed_out(
    pool: KeyPool, now: float, subject: Subject = MODEL, affinity: Affinity = NO_AFFINITY
) -> list[int]:
    """The places of all keys that one request would try, in order."""
    walker = pool.walk(subject, affinity)
    places = []
    while (key := walker.next(now)) is not None:
        places.append(key.index)
    walker.end()
    return places


def seconds(value: str) -> Headers:
    return [("Retry-After", value)]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([], "no keys provided"),
        ([FIRST, SECOND, FIRST], "duplicate key"),
        ([FIRST, ""], "empty key"),
    ],
)
def test_keys_that_make_no_pool_are_refused_without_being_shown(keys: list[str], text: str) -> None:
    with pytest.raises(KeyPoolError, match=text) as caught:
        KeyPool(keys)
    assert FIRST not in str(caught.value)


def test_a_pool_starts_with_every_key_valid_and_in_order() -> None:
    pool = KeyPool(KEYS)
    assert len(pool) == 3
    assert pool.states(START) == (
        KeyStatus("sk-f...abcd"),
        KeyStatus("sk-s...abcd"),
        KeyStatus("sk-t...abcd"),
    )
    assert [status.state for status in pool.states(START)] == ["valid"] * 3
    assert handed_out(pool, START) == [0, 1, 2]


# -- 429


def test_a_429_excludes_the_key_for_its_model_alone_until_the_rest_is_over() -> None:
    pool = KeyPool(KEYS)
    rest = Rest(HINT, MODEL, "rate_limited", 30.0)
    assert refuse(take(pool), 429, seconds("30")) == Marked("rate_limited", rest)
    assert handed_out(pool, START + 29.9) == [1, 2]
    assert handed_out(pool, START + 29.9, OTHER) == [0, 1, 2]
    assert handed_out(pool, START + 29.9, Subject.route("m")) == [0, 1, 2]
    assert pool.states(START + 10)[0] == KeyStatus(HINT, (Rest(HINT, MODEL, "rate_limited", 20),))
    assert handed_out(pool, START + 30) == [0, 1, 2]
    assert pool.states(START + 30)[0].state == "valid"


def test_a_429_of_a_passed_route_leaves_models_and_other_routes_alone() -> None:
    pool = KeyPool([FIRST])
    counting = Subject.route("/v1/messages/count_tokens")
    refuse(take(pool, subject=counting), 429, seconds("30"))
    assert handed_out(pool, START + 1, counting) == []
    assert handed_out(pool, START + 1, Subject.route("/v1/models")) == [0]
    assert handed_out(pool, START + 1) == [0]


def test_a_429_without_a_delay_rests_a_minute() -> None:
    pool = KeyPool([FIRST])
    refuse(take(pool), 429)
    assert handed_out(pool, START + 59.9) == []
    assert handed_out(pool, START + 60) == [0]


@pytest.mark.parametrize("value", ["false", "False", " false "])
def test_a_429_that_forbids_retries_and_names_no_delay_is_not_about_the_key(value: str) -> None:
    pool = KeyPool([FIRST])
    assert refuse(take(pool), 429, [("x-should-retry", value)]) is None
    assert pool.states(START)[0].state == "valid"


def test_a_429_that_forbids_retries_and_names_a_delay_rests() -> None:
    pool = KeyPool([FIRST])
    assert refuse(take(pool), 429, [("x-should-retry", "false"), *seconds("7")])
    assert handed_out(pool, START + 6.9) == []
    assert handed_out(pool, START + 7) == [0]


@pytest.mark.parametrize(
    "now",
    [
        ("Retry-After", "0"),
        ("retry-after-ms", "0"),
        ("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),
    ],
)
def test_a_429_that_says_now_rests_no_key_and_ends_no_rest(now: tuple[str, str]) -> None:
    pool = KeyPool([FIRST])
    one, other = take(pool), take(pool)
    assert refuse(one, 429, [now]) == Marked("rate_limited")
    assert handed_out(pool, START) == [0]
    refuse(other, 429, seconds("30"))
    assert handed_out(pool, START + 29) == []


@pytest.mark.parametrize("value", ["86400", "287441", "99999999999999999999"])
@pytest.mark.parametrize("longest", [300.0, 20.0])
def test_no_rest_is_longer_than_the_pool_allows(value: str, longest: float) -> None:
    pool = KeyPool([FIRST], longest)
    refuse(take(pool), 429, seconds(value))
    assert handed_out(pool, START + longest - 0.1) == []
    assert handed_out(pool, START + longest) == [0]


def test_a_later_end_is_kept_and_an_earlier_one_replaced() -> None:
    pool = KeyPool([FIRST])
    one, other, third = take(pool), take(pool), take(pool)
    refuse(one, 429, seconds("30"))
    assert refuse(other, 429, seconds("5"), START + 1) == Marked("rate_limited")
    assert pool.states(START + 2)[0].rests[0].remaining == 28.0
    refuse(third, 429, seconds("60"), START + 2)
    assert pool.states(START + 2)[0].rests[0].remaining == 60.0


def test_a_request_learns_when_its_first_key_is_back() -> None:
    pool = KeyPool(KEYS[:2])
    walker = take(pool)
    assert walker.back_in(START) == 0
    refuse(walker, 429, seconds("9"))
    walker.next(START)
    refuse(walker, 429, [("retry-after-ms", "1200")])
    assert walker.next(START) is None
    assert walker.back_in(START) == pytest.approx(1.2)
    assert pool.walk(OTHER, NO_AFFINITY).back_in(START) == 0


# -- 401


def test_a_401_orders_keys_for_every_model_and_takes_none_away() -> None:
    pool = KeyPool(KEYS)
    rest = Rest(HINT, None, "unauthorized", 60.0)
    assert refuse(take(pool), 401) == Marked("unauthorized", rest)
    assert handed_out(pool, START + 59) == [1, 2, 0]
    assert handed_out(pool, START + 59, OTHER) == [1, 2, 0]
    assert handed_out(pool, START + 60) == [0, 1, 2]


def test_when_all_rest_for_401_the_one_whose_rest_ends_first_is_tried_first() -> None:
    pool = KeyPool(KEYS)
    walker = take(pool)
    for later in (0.0, 1.0, 2.0):
        refuse(walker, 401, now=START + later)
        walker.next(START + later)
    assert handed_out(pool, START + 3) == [0, 1, 2]
    # The first is refused once more, and rests longer than the others.
    refuse(take(pool, START + 4), 401, now=START + 4)
    assert handed_out(pool, START + 5) == [1, 2, 0]


def test_a_rest_after_401_doubles_while_it_repeats_up_to_the_cap_and_a_success_ends_it() -> None:
    pool = KeyPool([FIRST])
    now = START
    for expected in (60.0, 120.0, 240.0, 300.0, 300.0):
        walker = take(pool, now)
        marked = refuse(walker, 401, now=now)
        assert marked is not None
        assert marked.begun == Rest(HINT, None, "unauthorized", expected)
        now += expected + 1
    walker = take(pool, now)
    assert walker.last is not None
    assert pool.is_on_trial(walker.last)
    walker.accepted()
    assert not pool.is_on_trial(walker.last)
    assert pool.states(now)[0].state == "valid"
    refuse(take(pool, now), 401, now=now)
    assert pool.states(now)[0].rests[0].remaining == 60.0


def test_many_requests_that_meet_the_same_401_count_once() -> None:
    pool = KeyPool([FIRST])
    walkers = [take(pool, START - 1) for _ in range(50)]
    marks = [refuse(walker, 401) for walker in walkers]
    assert [mark is not None and mark.begun is not None for mark in marks] == [True] + [False] * 49
    assert pool.states(START)[0].rests[0].remaining == 60.0


# -- 403


def test_a_403_rests_nothing_but_is_the_last_choice_of_its_session_for_this_model() -> None:
    pool = KeyPool(KEYS)
    session = Affinity("session")
    walker = take(pool, affinity=session)
    refused = index_of(walker)
    assert refuse(walker, 403) == Marked("forbidden")
    assert [status.state for status in pool.states(START)] == ["valid"] * 3
    assert handed_out(pool, START, MODEL, session)[-1] == refused
    assert handed_out(pool, START, OTHER, session)[0] == refused
    assert handed_out(pool, START, MODEL, NO_AFFINITY) == [0, 1, 2]


def test_a_403_never_takes_the_only_key_away() -> None:
    pool = KeyPool([FIRST])
    for affinity in (NO_AFFINITY, Affinity("session")):
        for _ in range(3):
            refuse(take(pool, affinity=affinity), 403)
    assert handed_out(pool, START) == [0]


@pytest.mark.parametrize("status", [200, 400, 402, 404, 408, 413, 422, 500, 502, 503, 529])
def test_an_answer_that_is_not_about_the_key_changes_nothing(status: int) -> None:
    pool = KeyPool(KEYS)
    assert refuse(take(pool), status, seconds("30")) is None
    assert pool.states(START)[0].state == "valid"


# -- walks


def test_a_request_tries_each_key_once() -> None:
    pool = KeyPool(KEYS)
    walker = pool.walk(MODEL)
    tried = []
    while (key := walker.next(START)) is not None:
        tried.append(key.secret)
        refuse(walker, 401)
    assert tried == [FIRST, SECOND, THIRD]
    assert walker.attempts == 3
    assert walker.next(START + 600) is None


def test_requests_in_flight_are_counted_with_the_key_that_they_have_now() -> None:
    pool = KeyPool(KEYS)
    keys = [key for walker in [pool.walk(MODEL)] for _ in KEYS if (key := walker.next(START))]

    def counts() -> list[int]:
        return [pool.inflight(key) for key in keys]

    assert counts() == [0, 0, 1]
    pool = KeyPool(KEYS)
    walker = take(pool)
    assert counts() == [1, 0, 0]
    refuse(walker, 429)
    walker.next(START)
    assert counts() == [0, 1, 0]
    assert (walker.end(), walker.end()) == (2, 0)
    assert counts() == [0, 0, 0]


# -- bounds


def test_rests_that_are_over_are_forgotten_and_the_others_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keypool, "MAX_RESTS", 10)
    pool = KeyPool([FIRST])
    for number in range(25):
        subject = Subject.model(f"model-{number}")
        refuse(take(pool, subject=subject), 429, seconds(str(100 + number)))
    kept = [rest.subject for rest in pool.states(START)[0].rests]
    assert kept == [Subject.model(f"model-{number}") for number in range(24, 14, -1)]
    assert pool.states(START + 200) == (KeyStatus(HINT),)
    assert "0 rests" in repr(pool)


def test_long_names_are_told_apart_in_bounded_space() -> None:
    one, other = Subject.model("x" * 100_000 + "1"), Subject.model("x" * 100_000 + "2")
    assert one != other
    assert max(len(one.name), len(other.name)) <= keypool.LONGEST_NAME


def test_last_choices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keypool, "MAX_LAST_CHOICES", 3)
    pool = KeyPool(KEYS)
    sessions = [Affinity(f"s{number}") for number in range(5)]
    refused = []
    for session in sessions:
        walker = take(pool, affinity=session)
        refused.append(index_of(walker))
        refuse(walker, 403)
        walker.end()
    last = [handed_out(pool, START, MODEL, session)[-1] for session in sessions]
    assert [a == b for a, b in zip(last, refused, strict=True)][2:] == [True] * 3
    assert handed_out(pool, START, MODEL, sessions[0])[0] == refused[0]


def test_no_key_stands_in_a_repr() -> None:
    pool = KeyPool(KEYS)
    walker = take(pool)
    marked = refuse(walker, 401)
    shown = repr([pool, walker.last, marked, pool.states(START), walker])
    assert "<KeyPool of 3" in shown
    assert all(secret not in shown for secret in KEYS)
