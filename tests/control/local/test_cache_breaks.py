"""What a provider's cache could have served of a prompt, and what kept it from that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.control.local.cache_breaks import CAUSES, LEAST, CacheTurn, Verdict, judge
from aigateway.actors.values.prompt_parts import PromptParts, decoded, encoded


def part(name: str) -> bytes:
    return name.encode().ljust(6)[:6]


def parts(messages: str, *, tools: str = "t", system: str = "s", **more: Any) -> PromptParts:
    """A prompt with a message for each letter; marked at its system prompt and its end."""
    marks = more.pop("marks", (1, len(messages) + 1))
    more.setdefault("explicit", True)
    return PromptParts.of(part(tools), part(system), map(part, messages), marks, **more)


def turn(messages: str = "ab", **changes: Any) -> CacheTurn:
    values: dict[str, Any] = {
        "began": 100.0,
        "model": "m",
        "provider": "p",
        "key": "k",
        "parts": parts(messages),
        "ttl": 300.0,
        "prompt_tokens": 20_000,
        "read_tokens": 0,
        "kept_tokens": 20_000,
    }
    return CacheTurn(**(values | changes))


BEFORE = turn("abc", began=50.0)
"""Keeps 20,000 tokens until 350."""


def verdict(messages: str, earlier: Sequence[CacheTurn] = (BEFORE,), **changes: Any) -> Verdict:
    values = {"prompt_tokens": 25_000, "kept_tokens": 25_000} | changes
    return judge(turn(messages, **values), earlier)


def test_the_first_turn_of_a_conversation_loses_nothing() -> None:
    assert verdict("abcd", []) == Verdict()
    # Tools and system prompt may have been in the cache from elsewhere.
    assert verdict("abcd", [], read_tokens=3000) == Verdict(3000)


def test_a_turn_that_reads_what_the_one_before_has_left_loses_nothing() -> None:
    assert verdict("abcde", read_tokens=20_000) == Verdict(20_000)
    # More than that is a windfall.
    assert verdict("abcde", read_tokens=22_000) == Verdict(22_000)


def test_less_than_the_shortest_prompt_that_is_cached_is_no_loss() -> None:
    assert verdict("abcde", read_tokens=20_000 - LEAST + 1) == Verdict(20_000)
    assert verdict("abcde", read_tokens=20_000 - LEAST).lost_tokens == LEAST


def test_no_more_can_be_lost_than_the_prompt_has() -> None:
    short = verdict("xy", prompt_tokens=8000, read_tokens=5000)
    assert short == Verdict(8000, 3000, "message", 1)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"model": "n"}, ("model", None)),
        ({"provider": "q"}, ("provider", None)),
        ({"key": "l"}, ("key", None)),
        ({"parts": parts("abcd", tools="u")}, ("tools", None)),
        ({"parts": parts("abcd", system="z")}, ("system", None)),
        ({"parts": parts("xbcd")}, ("message", 1)),
        ({"parts": parts("abxd")}, ("message", 3)),
        ({"parts": parts("ab")}, ("message", 3)),
        ({"parts": parts("abcd", marks=())}, ("marks", None)),
        ({"parts": parts("abcd", marks=(1,))}, ("marks", None)),
        ({"parts": parts("abc" + "d" * 30)}, ("marks", None)),
        ({"began": 351.0}, ("pause", None)),
        ({}, ("unknown", None)),
    ],
)
def test_the_first_thing_that_changed_is_the_cause(
    changes: dict[str, Any], cause: tuple[str, int | None]
) -> None:
    found = verdict("abcd", **changes)
    assert (found.cause, found.place) == cause
    assert (found.could_tokens, found.lost_tokens) == (20_000, 20_000)


def test_of_several_changes_the_first_one_is_the_cause() -> None:
    everything = parts("axcd", tools="u", system="z", marks=())
    same_tools = parts("axcd", system="z", marks=())
    late = {"began": 1000.0, "parts": everything}
    assert verdict("", **late, model="n", provider="q", key="l").cause == "model"
    assert verdict("", **late, provider="q", key="l").cause == "provider"
    assert verdict("", **late, key="l").cause == "key"
    assert verdict("", **late).cause == "tools"
    assert verdict("", **late | {"parts": same_tools}).cause == "system"


def test_after_a_pause_a_changed_message_is_no_cause_unless_something_was_read() -> None:
    late: dict[str, Any] = {"began": 1000.0, "parts": parts("abxd")}
    assert verdict("", **late).cause == "pause"
    # Tools and system prompt are kept for an hour, the messages were not.
    assert verdict("", **late, read_tokens=5000).cause == "message"
    assert verdict("abcd", began=1000.0, read_tokens=5000).cause == "pause"


def test_what_was_not_marked_was_not_cached_and_its_change_is_no_cause() -> None:
    before = turn("abc", began=50.0, parts=parts("abc", marks=(1, 2)))
    assert verdict("axy", [before]).cause == "unknown"
    assert verdict("xbc", [before]).cause == "message"
    unmarked = turn("abc", began=50.0, parts=parts("abc", marks=()))
    assert verdict("abx", [unmarked]).cause == "unknown"


def test_without_marks_all_of_a_prompt_is_cached() -> None:
    before = turn("abc", began=50.0, parts=parts("abc", marks=(), explicit=False))
    now = {"parts": parts("abxd", marks=(), explicit=False)}
    assert verdict("", [before], **now).cause == "message"
    same = {"parts": parts("abcd", marks=(), explicit=False)}
    assert verdict("", [before], **same).cause == "unknown"


def test_a_turn_is_held_against_the_one_of_its_conversation_that_shares_most() -> None:
    other = turn("mno", began=90.0, parts=parts("mno", tools="q", system="q"))
    older = turn("a", began=20.0, kept_tokens=5000)
    assert verdict("abcd", [other, older, BEFORE], read_tokens=20_000) == Verdict(20_000)
    # Nothing that went before begins as it does.
    assert verdict("xyz", [other], parts=parts("xyz")) == Verdict()
    # Of two that share as much the last counts.
    last = evolve(BEFORE, began=80.0, kept_tokens=21_000)
    assert verdict("abcd", [last, BEFORE]).could_tokens == 21_000
    assert verdict("abcd", [BEFORE, last]).could_tokens == 21_000


def test_what_a_client_asks_for_itself_and_what_began_later_is_before_nothing() -> None:
    aside = turn("abcd", began=90.0, parts=parts("abcd", aside=True))
    later = turn("abcd", began=101.0)
    assert verdict("abcde", [aside, later]) == Verdict()


_PARTS = st.builds(
    PromptParts.of,
    tools=st.binary(min_size=6, max_size=6),
    system=st.binary(min_size=6, max_size=6),
    messages=st.lists(st.binary(min_size=6, max_size=6), max_size=5).map(tuple),
    marks=st.lists(st.integers(0, 6), max_size=3, unique=True).map(lambda at: tuple(sorted(at))),
    explicit=st.booleans(),
    ttl=st.sampled_from([0, 300, 3600]),
    aside=st.booleans(),
)
_FEW_PARTS = st.builds(
    parts,
    st.text("ab", max_size=4),
    tools=st.sampled_from("tu"),
    system=st.sampled_from("sz"),
    marks=st.lists(st.integers(0, 6), max_size=3, unique=True).map(lambda at: tuple(sorted(at))),
    explicit=st.booleans(),
    aside=st.booleans(),
)
_TURNS = st.builds(
    turn,
    began=st.sampled_from([0.0, 100.0, 200.0, 900.0]),
    model=st.sampled_from("mn"),
    provider=st.sampled_from("pq"),
    key=st.sampled_from("kl"),
    parts=_FEW_PARTS,
    prompt_tokens=st.integers(0, 9000),
    read_tokens=st.integers(0, 9000),
    kept_tokens=st.integers(0, 9000),
)


@given(_TURNS, st.lists(_TURNS, max_size=5))
def test_whatever_turns_there_are_the_sums_are_right(
    now: CacheTurn, earlier: list[CacheTurn]
) -> None:
    found = judge(now, earlier)
    assert found.could_tokens >= now.read_tokens
    assert (found.cause is None) == (found.lost_tokens == 0)
    assert (found.place is not None) == (found.cause == "message")
    if found.cause is not None:
        assert found.cause in CAUSES
        assert LEAST <= found.lost_tokens == found.could_tokens - now.read_tokens
        assert found.could_tokens <= max(now.prompt_tokens, now.read_tokens)
    if found.place is not None:
        assert found.place >= 1
    assert judge(now, earlier[::-1]).lost_tokens == found.lost_tokens or len(earlier) > 1


@given(_TURNS, st.lists(_TURNS, max_size=5), st.integers(1025, 9000))
def test_who_reads_all_that_could_be_read_breaks_nothing(
    now: CacheTurn, earlier: list[CacheTurn], read: int
) -> None:
    could = judge(now, earlier).could_tokens
    assert judge(evolve(now, read_tokens=max(could, read)), earlier).cause is None


@given(_FEW_PARTS, _FEW_PARTS)
def test_what_two_prompts_share_is_all_before_the_first_part_that_differs(
    one: PromptParts, other: PromptParts
) -> None:
    shared = one.shared(other)
    assert shared == other.shared(one)
    assert one.joined[: shared * 6] == other.joined[: shared * 6]
    assert shared <= min(len(one), len(other))
    if shared < min(len(one), len(other)):
        at = slice(shared * 6, shared * 6 + 6)
        assert one.joined[at] != other.joined[at]


@given(_PARTS)
def test_parts_are_read_as_they_were_written(parts: PromptParts) -> None:
    assert decoded(encoded(parts)) == parts


@given(st.binary(max_size=60))
def test_what_is_no_parts_is_read_as_none(data: bytes) -> None:
    found = decoded(data)
    assert found is None or encoded(found)


def test_parts_of_another_version_or_length_are_read_as_none() -> None:
    import msgspec

    encode = msgspec.msgpack.encode
    assert decoded(encode((1, 0, 0, (), b"t" * 12))) is not None
    for wrong in ((2, 0, 0, (), b"t" * 12), (1, 0, 0, (), b"t" * 13), (1, 0, 0, (), b"t" * 6)):
        assert decoded(encode(wrong)) is None
