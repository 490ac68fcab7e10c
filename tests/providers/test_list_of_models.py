"""Lists of models: what clients ask for, what a provider calls it, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.values.models import BadModelList, ModelList, parse_models

LIST = "claude-sonnet-5, fast = claude-haiku-4-5, gpt-* = openai/gpt-*, o*-mini = *, claude-*"


def listed(text: str) -> ModelList:
    found = parse_models(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("asked", "upstream"),
    [
        ("claude-sonnet-5", "claude-sonnet-5"),
        ("fast", "claude-haiku-4-5"),
        ("gpt-5.2", "openai/gpt-5.2"),
        ("gpt-", "openai/gpt-"),
        ("o3-mini", "o3-mini"),
        ("o-mini", "o-mini"),
        ("o3", None),
        ("claude-opus-5", "claude-opus-5"),
        ("CLAUDE-OPUS-5", None),
        ("claude-haiku-4-5 ", "claude-haiku-4-5 "),
        ("", None),
        ("*", None),
    ],
)
def test_a_list_names_what_is_served_and_as_what(asked: str, upstream: str | None) -> None:
    assert listed(LIST).upstream(asked) == upstream


def test_a_name_that_is_written_out_comes_before_patterns_and_the_first_pattern_counts() -> None:
    found = listed("a* = first-*, ab* = second-*, abc = third")
    assert [found.upstream(name) for name in ("abc", "abd", "a")] == [
        "third",
        "first-bd",
        "first-",
    ]


def test_the_beginning_and_the_end_of_a_pattern_do_not_overlap() -> None:
    found = listed("ab*ba")
    assert found.upstream("aba") is None
    assert found.upstream("abba") == "abba"


def test_only_names_that_are_written_out_are_listed() -> None:
    assert listed(LIST).names == ("claude-sonnet-5", "fast")


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_no_list_is_no_list(text: str) -> None:
    assert parse_models(text) is None


def test_bedrocks_ids_and_arns_are_names() -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc"
    found = listed(f"claude-x={arn},y = eu.anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert found.upstream("claude-x") == arn
    assert found.upstream("y") == "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a,,b", "an entry is empty"),
        ("a,", "an entry is empty"),
        ("= b", '"= b" lacks a name'),
        ("a =", '"a =" lacks a name'),
        ("a = b = c", '"a = b = c": a name has no blanks'),
        ("two words", '"two words": a name has no blanks'),
        ("a* *", '"a* *": a name has no blanks'),
        ("a*b*", '"a*b*": a name has no blanks'),
        ("a* = b*c*", '"a* = b*c*": a name has no blanks'),
        ("a = b*", 'there is no "*" on the left'),
        ("a = *", 'there is no "*" on the left'),
        ("a, b, a = c", '"a" is there twice'),
        ("a\x00", "a name has no blanks"),
    ],
)
def test_a_wrong_list_says_which_entry_is_wrong(text: str, named: str) -> None:
    with pytest.raises(BadModelList) as caught:
        parse_models(text)
    assert named in str(caught.value)


NAMES = st.text("ab-./:", min_size=1, max_size=6)
PATTERNS = st.builds(
    lambda a, b: f"{a}*{b}", st.text("ab-", max_size=3), st.text("ab-", max_size=3)
)


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=6))
def test_written_pairs_are_read_as_they_were_meant(pairs: dict[str, str]) -> None:
    found = listed(", ".join(f"{asked}={upstream}" for asked, upstream in pairs.items()))
    assert found.names == tuple(pairs)
    assert {asked: found.upstream(asked) for asked in pairs} == pairs


@given(PATTERNS, PATTERNS, st.text("ab-", min_size=1, max_size=8))
def test_a_pattern_carries_over_exactly_what_its_star_stands_for(
    left: str, right: str, asked: str
) -> None:
    upstream = listed(f"{left} = {right}").upstream(asked)
    before, _, after = left.partition("*")
    fits = any(
        asked == before + middle + after
        for middle in (asked[len(before) : len(asked) - len(after)],)
        if len(asked) >= len(before) + len(after)
    )
    assert (upstream is not None) is fits
    if upstream is not None and right != "*":
        start, _, end = right.partition("*")
        middle = upstream[len(start) : len(upstream) - len(end)]
        assert before + middle + after == asked
    elif upstream is not None:
        assert upstream == asked


@given(st.text(max_size=20))
def test_any_text_is_a_list_or_a_bad_list(text: str) -> None:
    try:
        found = parse_models(text)
    except BadModelList:
        return
    assert found is None or found.literal or found.patterns
