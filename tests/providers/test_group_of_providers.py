"""Groups of providers: who answers a session."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.values.sharing import BadGroup, ranked, read_group

SESSIONS = [f"session-{number}" for number in range(4000)]


def test_sessions_are_shared_by_weight() -> None:
    won = Counter(ranked((("a", 3), ("b", 1)), session)[0] for session in SESSIONS)
    assert 0.72 < won["a"] / len(SESSIONS) < 0.78


def test_when_a_provider_leaves_only_its_own_sessions_move() -> None:
    group = (("a", 3), ("b", 1), ("c", 2))
    for session in SESSIONS[:500]:
        order = ranked(group, session)
        rest = tuple(each for each in group if each[0] != order[0])
        assert ranked(rest, session) == order[1:]
        last = tuple(each for each in group if each[0] != order[2])
        assert ranked(last, session) == order[:2]


@given(st.dictionaries(st.text("abc-", min_size=1), st.integers(1, 1000), min_size=1), st.text())
def test_each_provider_of_a_group_has_one_place(group: dict[str, int], session: str) -> None:
    order = ranked(tuple(group.items()), session)
    assert sorted(order) == sorted(group)
    assert order == ranked(tuple(reversed(group.items())), session)
    assert read_group(",".join(f"{n} : {w}" for n, w in group.items())) == tuple(group.items())


def test_a_weight_that_is_left_out_is_one() -> None:
    assert read_group("a, b:2") == (("a", 1), ("b", 2))
    assert read_group("") == ()


@pytest.mark.parametrize(
    "text", ["a,,b", "a:0", "a:x", "a:-1", "a:", "a:1001", "a,a:2", ":3", "a:²"]
)
def test_a_wrong_group_is_told(text: str) -> None:
    with pytest.raises(BadGroup):
        read_group(text)
