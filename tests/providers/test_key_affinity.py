"""Sessions keep their key, in every process and as long as the key may be used."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import pytest

from aigateway.actors.interception.conversation import Affinity
from aigateway.actors.providers import sessions as sessions_module
from aigateway.actors.providers.keypool import KeyPool, Subject, Walker
from aigateway.actors.providers.sessions import FORGET_AFTER, Sessions

KEYS = tuple(f"sk-key-{number}-0123456789abcd" for number in range(4))
MODEL = Subject.model("m")
WALL = 1_764_000_000.0
IDLE = [0, 0, 0, 0]


def begin(pool: KeyPool, session: str, now: float, *, bound: bool = False) -> Walker:
    walker = pool.walk(MODEL, Affinity(session, bound))
    walker.next(now)
    return walker


def served(pool: KeyPool, session: str, now: float, *, bound: bool = False) -> int | None:
    """One request of a session that is answered; the place of the key that served it."""
    walker = begin(pool, session, now, bound=bound)
    walker.end(answered=True)
    return None if walker.last is None else walker.last.index


def test_no_session_moves_more_than_twice_when_a_key_rests_and_comes_back() -> None:
    pool = KeyPool(KEYS)
    names = [f"session-{number}" for number in range(20)]
    used: dict[str, list[int | None]] = {name: [] for name in names}
    now = 1000.0
    rests_until = 0.0
    for turn in range(30):
        now += 10
        for name in names:
            walker = begin(pool, name, now)
            if turn == 10 and walker.last is not None and walker.last.index == 2:
                walker.refused(429, [("Retry-After", "95")], now, WALL)
                walker.next(now)
                rests_until = now + 95
            walker.end(answered=True)
            used[name].append(None if walker.last is None else walker.last.index)
    assert rests_until, "some session has that key"
    moves = {name: sum(a != b for a, b in itertools.pairwise(keys)) for name, keys in used.items()}
    homes = {name: keys[0] for name, keys in used.items()}
    assert len(set(homes.values())) == 4, "sessions are spread over all keys"
    assert {moves[name] for name in names if homes[name] == 2} == {2}
    assert {moves[name] for name in names if homes[name] != 2} == {0}
    assert all(keys[-1] == keys[0] for keys in used.values())


def test_a_session_has_the_same_key_in_another_process() -> None:
    code = (
        "from aigateway.actors.providers.sessions import Sessions\n"
        f"s = Sessions({KEYS!r})\n"
        "print([s.order(f'session-{n}', [0, 0, 0, 0], 0.0) for n in range(20)])"
    )
    here = Sessions(KEYS)
    expected = [here.order(f"session-{number}", IDLE, 0.0) for number in range(20)]
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(expected)


def test_a_key_that_is_added_moves_only_the_sessions_that_it_takes() -> None:
    names = [f"session-{number}" for number in range(400)]
    before, after = Sessions(KEYS[:3]), Sessions(KEYS)
    moved = 0
    for name in names:
        old, new = before.order(name, IDLE[:3], 0.0)[0], after.order(name, IDLE, 0.0)[0]
        assert new in (old, 3)
        moved += new != old
    assert 60 <= moved <= 140


def test_the_place_of_a_key_in_the_list_does_not_matter() -> None:
    one, other = Sessions(KEYS), Sessions(KEYS[::-1])
    for number in range(50):
        first = one.order(f"session-{number}", IDLE, 0.0)[0]
        assert 3 - other.order(f"session-{number}", IDLE, 0.0)[0] == first


def test_without_a_session_keys_are_used_in_their_order() -> None:
    assert Sessions(KEYS).order("", [9, 0, 0, 0], 0.0) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("inflight", "passes"),
    [([5, 1, 1, 1], True), ([4, 2, 1, 1], False), ([3, 0, 0, 0], True), ([2, 0, 0, 0], False)],
)
def test_a_new_session_passes_over_a_key_with_twice_the_mean_in_flight(
    inflight: list[int], passes: bool
) -> None:
    """The first in ``inflight`` is the key that the session would have."""
    name = "session"
    ranked = Sessions(KEYS).order(name, IDLE, 0.0)
    busy = [0, 0, 0, 0]
    for place, count in zip(ranked, inflight, strict=True):
        busy[place] = count
    sessions = Sessions(KEYS)
    expected = ranked[1] if passes else ranked[0]
    assert sessions.order(name, busy, 0.0)[0] == expected
    # What it got it keeps, also when that is the busy one by now.
    assert sessions.order(name, IDLE, 1.0)[0] == expected
    busy[expected] = 100
    assert sessions.order(name, busy, 2.0)[0] == expected


def test_a_session_with_things_in_an_account_passes_over_no_busy_key() -> None:
    """Another process, which does not know how busy this one is, must find the same key."""
    ranked = Sessions(KEYS).order("session", IDLE, 0.0)
    busy = [0, 0, 0, 0]
    busy[ranked[0]] = 100
    assert Sessions(KEYS).order("session", busy, 0.0, stays=True)[0] == ranked[0]
    pool = KeyPool(KEYS)
    for _ in range(20):
        pool.walk(MODEL, Affinity("session")).next(0.0)
    walker = pool.walk(MODEL, Affinity("another", stays=True))
    key = walker.next(0.0)
    assert key is not None
    assert key.index == Sessions(KEYS).order("another", IDLE, 0.0)[0]


def test_many_new_sessions_at_once_are_spread_over_all_keys() -> None:
    pool = KeyPool(KEYS)
    walkers = [begin(pool, f"session-{number}", 0.0) for number in range(200)]
    counts = Counter(walker.last.index for walker in walkers if walker.last is not None)
    assert max(counts.values()) <= 100
    assert len(counts) == 4


def test_a_session_that_was_silent_for_long_is_new_again() -> None:
    ranked = Sessions(KEYS).order("session", IDLE, 0.0)
    busy = [0, 0, 0, 0]
    busy[ranked[0]] = 10
    sessions = Sessions(KEYS)
    sessions.order("session", IDLE, 0.0)
    assert sessions.order("session", busy, FORGET_AFTER)[0] == ranked[0]
    assert sessions.order("session", busy, 2.1 * FORGET_AFTER)[0] == ranked[1]


def test_what_is_remembered_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 10)
    sessions = Sessions(KEYS)
    for number in range(100):
        sessions.order(f"session-{number}", IDLE, float(number))
    assert len(sessions) == 10


# -- requests that are bound to an account


def test_a_bound_request_goes_where_its_session_was_served_last_and_nowhere_else() -> None:
    pool = KeyPool(KEYS)
    home = served(pool, "session", 0.0)
    assert home is not None
    limited = begin(pool, "session", 1.0)
    limited.refused(429, [("Retry-After", "10")], 1.0, WALL)
    limited.next(1.0)
    limited.end(answered=True)
    assert limited.last is not None
    other = limited.last.index
    assert other != home
    # What the other key's account has stored is there, not at home.
    assert served(pool, "session", 2.0, bound=True) == other
    assert served(pool, "session", 20.0, bound=True) == other
    # A request that is free goes home.
    assert served(pool, "session", 21.0) == home
    assert served(pool, "session", 22.0, bound=True) == home


def test_a_bound_request_whose_key_rests_waits_for_it_instead_of_taking_another() -> None:
    pool = KeyPool(KEYS)
    home = served(pool, "session", 0.0)
    limited = begin(pool, "session", 1.0, bound=True)
    assert limited.last is not None
    assert limited.last.index == home
    limited.refused(429, [("Retry-After", "10")], 1.0, WALL)
    assert limited.next(1.0) is None
    assert limited.back_in(1.0) == 10.0
    assert served(pool, "session", 2.0, bound=True) is None
    assert served(pool, "session", 11.0, bound=True) == home


def test_a_refusal_does_not_say_where_things_are_stored() -> None:
    pool = KeyPool(KEYS)
    home = served(pool, "session", 0.0)
    walker = begin(pool, "session", 1.0)
    while walker.last is not None:
        walker.refused(403, [], 1.0, WALL)
        if walker.next(1.0) is None:
            break
    walker.end(answered=True)
    assert served(pool, "session", 2.0, bound=True) == home
