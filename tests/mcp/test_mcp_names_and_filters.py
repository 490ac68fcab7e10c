"""Tools get ids that fit, differ and stay; patterns decide which are offered."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigateway.actors.mcp import offering
from aigateway.actors.mcp.offering import BadPattern, ToolFilter, tool_ids

FITS = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def test_an_id_names_server_and_tool():
    assert tool_ids([("coder", "coder_list_workspaces")]) == {
        ("coder", "coder_list_workspaces"): "bmcp_coder_coder_list_workspaces"
    }


def test_characters_that_do_not_fit_are_replaced():
    assert tool_ids([("my.hub", "do it/now")]) == {("my.hub", "do it/now"): "bmcp_my_hub_do_it_now"}


def test_a_long_id_is_cut_and_stays_unique():
    first, second = ("s", "x" * 70 + "1"), ("s", "x" * 70 + "2")
    ids = tool_ids([first, second])
    assert {len(one) for one in ids.values()} == {64}
    assert ids[first] != ids[second]
    # What a tool is called does not depend on its neighbours.
    assert tool_ids([second])[second] == ids[second]


def test_ids_that_would_be_the_same_get_a_suffix_each():
    ids = tool_ids([("a_b", "c"), ("a", "b_c"), ("a", "d")])
    assert ids["a", "d"] == "bmcp_a_d"
    assert ids["a_b", "c"] != ids["a", "b_c"]
    assert all(one.startswith("bmcp_a_b_c_") for pair, one in ids.items() if pair != ("a", "d"))


def test_even_colliding_hashes_are_told_apart(monkeypatch):
    monkeypatch.setattr(offering, "_HASH", 0)
    ids = tool_ids([("a_b", "c"), ("a", "b_c"), ("a", "b.c")])
    assert len(set(ids.values())) == 3


@given(
    st.lists(
        st.tuples(st.text("ab_.é", max_size=40), st.text("ab_.é", max_size=40)),
        max_size=20,
        unique=True,
    )
)
def test_ids_fit_and_differ_in_any_order(pairs):
    ids = tool_ids(pairs)
    assert set(ids) == set(pairs)
    assert len(set(ids.values())) == len(pairs)
    assert all(FITS.fullmatch(one) for one in ids.values())
    shuffled = list(pairs)
    random.Random(7).shuffle(shuffled)
    assert tool_ids(shuffled) == ids


@pytest.mark.parametrize(
    ("allow", "deny", "name", "through"),
    [
        ("", "", "anything", True),
        ("list", "", "coder_list_all", True),
        ("^list", "", "coder_list_all", False),
        ("", "delete", "coder_delete_all", False),
        ("list", "all$", "coder_list_all", False),
        ("(?i)LIST", "", "list", True),
        ("^(read|list)$", "", "read", True),
    ],
)
def test_deny_wins_and_patterns_are_found_anywhere(allow, deny, name, through):
    assert ToolFilter(allow, deny).lets_through(name) is through


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("^[[:alpha:]_]+$", "read_all", True),
        ("^[[:alpha:]_]+$", "read2", False),
        ("^[^[:digit:]]+$", "read2", False),
        ("[[:punct:]]", "a.b", True),
        (r"^read\z", "read", True),
        ("read$", "read\n", False),
        ("(?m)read$", "read\nx", True),
        (r"read\$", "read$", True),
        (r"[$]", "a$", True),
        ("[]x]", "]", True),
        ("[^]x]", "]", False),
        (r"[a\]b]c", "]c", True),
        ("[a[]c", "[c", True),
        ("[a&&b]", "&", True),
        ("[a-]", "-", True),
        ("[+--]", ",", True),
        (r"^\d+$", "٣", False),
    ],
)
def test_patterns_mean_what_they_mean_in_go(pattern, name, found):
    assert ToolFilter(pattern).lets_through(name) is found


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "\\pL", "[[:foo:]]", "[[:^alpha:]]", "a(?i)b", "a\\"]
)
def test_a_pattern_that_python_would_misread_is_refused(pattern):
    with pytest.raises(BadPattern, match="compile tool regex"):
        ToolFilter("", pattern)
