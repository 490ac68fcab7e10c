"""Every state of a provider's keys, and every way from one to the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.providers.keypool import (
    MAX_COOLDOWN,
    Exhausted,
    Key,
    KeyPool,
    KeyPoolError,
    KeyStatus,
    KeyTransition,
    Marked,
)

FIRST = "sk-first-0123456789abcd"
SECOND = "sk-second-0123456789abcd"
THIRD = "sk-third-0123456789abcd"
KEYS = (FIRST, SECOND, THIRD)
HINT = "sk-f...abcd"
START = 1000.0


def the_key(pool: KeyPool, now: float = START) -> Key:
    key = pool.walk().next(now)
    assert isinstance(key, Key)
    return key


def states(pool: KeyPool, now: float) -> list[str]:
    return [status.state for status in pool.states(now)]


def seconds(value: str) -> list[tuple[str, str]]:
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


def test_a_pool_starts_with_every_key_valid() -> None:
    pool = KeyPool(KEYS)
    assert len(pool) == 3
    assert pool.states(START) == (
        KeyStatus("sk-f...abcd", "valid"),
        KeyStatus("sk-s...abcd", "valid"),
        KeyStatus("sk-t...abcd", "valid"),
    )
    assert pool.counts(START) == {"valid": 3, "temporary": 0, "permanent": 0}


# Earlier answers as (status, seconds of Retry-After, time), then one more, at START.
TRANSITIONS = [
    # valid →
    ("valid", 200, "", None, "valid"),
    ("valid", 429, "30", ("valid", "temporary", "rate_limited", 30.0), "temporary"),
    ("valid", 429, "", ("valid", "temporary", "rate_limited", 60.0), "temporary"),
    ("valid", 401, "", ("valid", "permanent", "unauthorized", 0.0), "permanent"),
    ("valid", 403, "", ("valid", "permanent", "forbidden", 0.0), "permanent"),
    # temporary →
    ("temporary", 200, "", None, "temporary"),
    ("temporary", 429, "30", (), "temporary"),
    ("temporary", 401, "", ("temporary", "permanent", "unauthorized", 0.0), "permanent"),
    ("temporary", 403, "", ("temporary", "permanent", "forbidden", 0.0), "permanent"),
    # permanent →
    ("permanent", 200, "", None, "permanent"),
    ("permanent", 429, "30", (), "permanent"),
    ("permanent", 401, "", (), "permanent"),
    ("permanent", 403, "", (), "permanent"),
    # temporary, and over →
    ("recovered", 200, "", None, "valid"),
    ("recovered", 429, "5", ("valid", "temporary", "rate_limited", 5.0), "temporary"),
    ("recovered", 401, "", ("valid", "permanent", "unauthorized", 0.0), "permanent"),
    ("recovered", 403, "", ("valid", "permanent", "forbidden", 0.0), "permanent"),
]
REASONS = {429: "rate_limited", 401: "unauthorized", 403: "forbidden"}


@pytest.mark.parametrize(("before", "status", "delay", "transition", "after"), TRANSITIONS)
def test_each_answer_moves_a_key_to_its_next_state(
    before: str,
    status: int,
    delay: str,
    transition: tuple[str, str, str, float] | tuple[()] | None,
    after: str,
) -> None:
    pool = KeyPool([FIRST])
    key = the_key(pool, 0.0)
    if before == "temporary":
        pool.mark(key, 429, seconds("20"), START - 10)
    elif before == "recovered":
        pool.mark(key, 429, seconds("20"), START - 20)
    elif before == "permanent":
        pool.mark(key, 401, [], START - 10)

    marked = pool.mark(key, status, seconds(delay), START)

    if transition is None:
        assert marked is None
    elif not transition:
        assert marked == Marked(REASONS[status], None)
    else:
        assert marked == Marked(transition[2], KeyTransition(HINT, *transition))
    assert states(pool, START) == [after]


@pytest.mark.parametrize("status", [200, 201, 400, 402, 404, 408, 413, 422, 500, 502, 503, 529])
def test_an_answer_that_is_not_about_the_key_marks_nothing(status: int) -> None:
    pool = KeyPool(KEYS)
    assert pool.mark(the_key(pool), status, seconds("30"), START) is None
    assert pool.counts(START)["valid"] == 3


DELAYS = [
    ([], 60.0),
    ([("Retry-After", "7")], 7.0),
    ([("retry-after", " 7 ")], 7.0),
    ([("Retry-After-Ms", "1500")], 1.5),
    ([("retry-after-ms", "0.5")], 0.0005),
    ([("Retry-After", "7"), ("Retry-After-Ms", "1500")], 1.5),
    ([("Retry-After", "7"), ("Retry-After-Ms", "0")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "-1")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "soon")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "nan")], 7.0),
    ([("Retry-After", "7"), ("Retry-After-Ms", "inf")], 7.0),
    ([("Retry-After", "0")], 60.0),
    ([("Retry-After", "-5")], 60.0),
    ([("Retry-After", "1.5")], 60.0),
    ([("Retry-After", "")], 60.0),
    ([("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")], 60.0),
    ([("Retry-After", "9" * 500)], 60.0),
    ([("Retry-After", "9" * 5000)], 60.0),
    ([("Retry-After", "99999999")], MAX_COOLDOWN),
    ([("Retry-After-Ms", "1e300")], MAX_COOLDOWN),
]


@pytest.mark.parametrize(("headers", "cooldown"), DELAYS)
def test_a_key_rests_as_long_as_the_answer_says(
    headers: list[tuple[str, str]], cooldown: float
) -> None:
    pool = KeyPool([FIRST])
    marked = pool.mark(the_key(pool, 0.0), 429, headers, 0.0)
    assert marked is not None
    assert marked.transition is not None
    assert marked.transition.cooldown == pytest.approx(cooldown)
    [status] = pool.states(0.0)
    assert status.remaining == pytest.approx(cooldown)
    assert states(pool, cooldown * 0.999) == ["temporary"]
    assert states(pool, cooldown * 1.001) == ["valid"]


def test_a_later_deadline_is_kept_and_an_earlier_one_replaced() -> None:
    pool = KeyPool([FIRST])
    key = the_key(pool)
    pool.mark(key, 429, seconds("30"), START)
    pool.mark(key, 429, seconds("5"), START + 1)
    assert pool.states(START + 2) == (KeyStatus(HINT, "temporary", 28.0),)
    pool.mark(key, 429, seconds("60"), START + 2)
    assert pool.states(START + 2) == (KeyStatus(HINT, "temporary", 60.0),)


def test_a_success_does_not_end_a_rest() -> None:
    pool = KeyPool([FIRST])
    key = the_key(pool)
    pool.mark(key, 429, seconds("30"), START)
    assert pool.mark(key, 200, [], START + 1) is None
    assert states(pool, START + 1) == ["temporary"]


def test_every_request_begins_with_the_first_valid_key() -> None:
    pool = KeyPool(KEYS)
    assert [the_key(pool).index for _ in range(3)] == [0, 0, 0]
    pool.mark(the_key(pool), 429, seconds("10"), START)
    assert the_key(pool).index == 1
    pool.mark(the_key(pool), 403, [], START)
    assert the_key(pool).index == 2
    assert the_key(pool, START + 10).index == 0


def test_a_walk_tries_each_key_once() -> None:
    pool = KeyPool(KEYS)
    walker = pool.walk()
    tried = []
    for _ in range(3):
        key = walker.next(START)
        assert isinstance(key, Key)
        tried.append(key.secret)
        assert walker.last == key
        pool.mark(key, 429, seconds("10"), START)
    assert tried == [FIRST, SECOND, THIRD]
    assert walker.attempts == 3
    assert isinstance(walker.next(START), Exhausted)
    assert isinstance(walker.next(START + 60), Exhausted)
    assert walker.attempts == 3
    assert walker.last is not None
    assert walker.last.secret == THIRD


def test_a_walk_passes_over_keys_that_another_request_has_lost() -> None:
    pool = KeyPool(KEYS)
    walker, other = pool.walk(), pool.walk()
    walker.next(START)
    other.next(START)
    second = other.next(START)
    assert isinstance(second, Key)
    pool.mark(second, 401, [], START)
    third = walker.next(START)
    assert isinstance(third, Key)
    assert (third.index, walker.attempts) == (2, 2)


def test_two_walks_at_once_blame_the_same_key_once() -> None:
    pool = KeyPool(KEYS)
    one, other = pool.walk().next(START), pool.walk().next(START)
    assert isinstance(one, Key)
    assert isinstance(other, Key)
    first, second = (pool.mark(key, 429, seconds("9"), START) for key in (one, other))
    assert first is not None
    assert first.transition is not None
    assert second == Marked("rate_limited", None)


AUTH_FAILED = Exhausted("auth_failed", 502, "all configured keys failed authentication")


def limited(after: int | None, text: str) -> Exhausted:
    message = f"all configured keys are rate-limited (retry after {text})"
    return Exhausted("rate_limited", 429, message, after)


# The answers that the three keys got at START, and what is left then at START + 1.
EXHAUSTIONS = [
    ([(401, ""), (403, ""), (401, "")], AUTH_FAILED),
    ([(429, "5"), (429, "3"), (429, "10")], limited(2, "2s")),
    ([(429, ""), (429, ""), (429, "")], limited(59, "59s")),
    ([(429, "61"), (429, "70"), (403, "")], limited(60, "1m0s")),
    ([(401, ""), (429, "3602"), (403, "")], limited(3601, "1h0m1s")),
    ([(401, ""), (429, "1"), (403, "")], limited(None, "0s")),
    ([(429, "1"), (429, "9"), (429, "9")], limited(None, "0s")),
]


@pytest.mark.parametrize(("answers", "expected"), EXHAUSTIONS)
def test_an_exhausted_pool_says_why_and_for_how_long(
    answers: list[tuple[int, str]], expected: Exhausted
) -> None:
    pool = KeyPool(KEYS)
    walker = pool.walk()
    for status, delay in answers:
        key = walker.next(START)
        assert isinstance(key, Key)
        assert pool.mark(key, status, seconds(delay), START) is not None
    assert walker.next(START + 1) == expected


def test_a_fraction_of_a_second_is_waited_out() -> None:
    pool = KeyPool([FIRST])
    pool.mark(the_key(pool), 429, [("retry-after-ms", "1200")], START)
    assert pool.walk().next(START) == limited(2, "2s")
    assert pool.walk().next(START + 1.1) == limited(1, "1s")


def test_a_pool_without_a_valid_key_is_exhausted_before_the_first_attempt() -> None:
    pool = KeyPool([FIRST])
    pool.mark(the_key(pool), 401, [], START)
    walker = pool.walk()
    assert walker.next(START) == AUTH_FAILED
    assert walker.attempts == 0
    assert walker.last is None


def test_no_key_stands_in_a_repr() -> None:
    pool = KeyPool(KEYS)
    key = the_key(pool)
    marked = pool.mark(key, 401, [], START)
    shown = repr([pool, key, marked, pool.states(START), pool.walk()])
    assert "<KeyPool of 3>" in shown
    assert all(secret not in shown for secret in KEYS)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([200, 401, 403, 429, 500]),
            st.integers(1, 20),
            st.floats(0, 10),
        ),
        max_size=30,
    )
)
def test_a_walk_hands_out_exactly_the_valid_keys_in_order(
    answers: list[tuple[int, int, int, float]],
) -> None:
    pool = KeyPool(KEYS)
    walker = pool.walk()
    keys = [key for _ in KEYS if isinstance(key := walker.next(0.0), Key)]
    now = 0.0
    for index, status, delay, later in answers:
        now += later
        pool.mark(keys[index], status, seconds(str(delay)), now)
    valid = [index for index, state in enumerate(states(pool, now)) if state == "valid"]
    walker = pool.walk()
    handed_out = []
    while isinstance(key := walker.next(now), Key):
        handed_out.append(key.index)
    assert handed_out == valid
    assert sum(pool.counts(now).values()) == len(KEYS)
    if not valid and key.outcome == "rate_limited":
        assert key.retry_after is not None
        assert 1 <= key.retry_after <= 20
        assert "valid" in states(pool, now + key.retry_after)
