"""What of a policy holds for one caller."""

from __future__ import annotations

from typing import Any

import pytest

from aigateway.actors.values.policy import (
    CONTENT_LEVELS,
    CallerRules,
    Cap,
    Limit,
    Policy,
    Rules,
    Stated,
    Subject,
    content_level,
    glob_matches,
)


def rules_for(policy: Policy, **who: Any) -> CallerRules:
    return policy.rules_for(**{"user_id": "u1", "username": "ada", "key_id": "k1"} | who)


def test_the_most_specific_statement_holds() -> None:
    policy = Policy(
        everybody=Rules(models=("a",), requests_per_minute=1),
        groups={"lab": Rules(models=("b",), providers=("openai",))},
        users={"ada": Rules(models=("c",))},
        keys={"k1": Rules(models=("d",), requests_per_minute=9)},
    )
    assert rules_for(policy, username="bob", key_id="k2").models == (
        Stated(("a",), "everybody.models"),
    )
    lab = rules_for(policy, username="bob", key_id="k2", groups=("lab",))
    assert lab.models == (Stated(("b",), "groups.lab.models"),)
    assert lab.providers == (Stated(("openai",), "groups.lab.providers"),)
    assert lab.limits == (
        Limit(1, "requests", Subject("user", "u1"), "everybody.requests_per_minute"),
    )
    assert rules_for(policy, key_id="k2").models == (Stated(("c",), "users.ada.models"),)
    mine = rules_for(policy)
    assert mine.models == (Stated(("d",), "keys.k1.models"),)
    assert mine.limits == (
        Limit(9, "requests", Subject("key", "k1"), "keys.k1.requests_per_minute"),
    )


def test_of_several_groups_the_most_generous_holds() -> None:
    policy = Policy(
        everybody=Rules(unpriced="refuse"),
        groups={
            "a": Rules(models=("x", "y"), tokens_per_minute=10, unpriced="refuse"),
            "b": Rules(models=("y", "z"), tokens_per_minute=30, unpriced="allow"),
            "c": Rules(),
        },
    )
    found = rules_for(policy, groups=("b", "c", "a", "unknown"))
    assert found.models == (Stated(("x", "y", "z"), "groups.a.models, groups.b.models"),)
    assert found.limits == (
        Limit(30, "tokens", Subject("user", "u1"), "groups.b.tokens_per_minute"),
    )
    assert found.unpriced == Stated("allow", "groups.b.unpriced")


def test_content_is_the_lowest_that_any_statement_says() -> None:
    policy = Policy(
        everybody=Rules(content="prompts"),
        groups={"legal": Rules(content="none")},
        users={"ada": Rules(content="prompts")},
    )
    found = rules_for(policy), rules_for(policy, groups=("legal",))
    # The one that is named is the first that says so, from the most specific on.
    assert found[0].content == Stated("prompts", "users.ada.content")
    assert found[1].content == Stated("none", "groups.legal.content")
    assert rules_for(Policy()).content is None


@pytest.mark.parametrize("gateway", CONTENT_LEVELS)
def test_a_policy_only_lowers_what_the_gateway_is_set_to(gateway: str) -> None:
    lower = [rules_for(Policy(everybody=Rules(content=level))) for level in ("prompts", "none")]
    assert content_level(gateway, rules_for(Policy())) == content_level(gateway, None) == gateway
    assert content_level(gateway, lower[0]) == ("none" if gateway == "none" else "prompts")
    assert content_level(gateway, lower[1]) == "none"


def test_every_cap_and_shared_limit_that_applies_holds() -> None:
    day, month = Cap(1, "day", "user"), Cap(2, "month", "group")
    policy = Policy(
        everybody=Rules(caps=(day, month)),
        groups={
            "a": Rules(caps=(month,), shared_requests_per_minute=5),
            "b": Rules(shared_requests_per_minute=6, caps=(Cap(3, "week", "user"),)),
        },
        users={"u1": Rules(caps=(day,))},
        keys={"k1": Rules(caps=(Cap(4, "day", "key"),))},
        projects={"web": Rules(caps=(Cap(5, "week", "project"),))},
    )
    found = rules_for(policy, groups=("a", "b"), project="web", own=Rules(caps=(day,)))
    assert {(each.rule, str(each.subject)) for each in found.caps} == {
        ("key k1.caps[0]", "user:u1"),
        ("keys.k1.caps[0]", "key:k1"),
        ("users.u1.caps[0]", "user:u1"),
        ("everybody.caps[0]", "user:u1"),
        ("everybody.caps[1]", "group:a"),
        ("everybody.caps[1]", "group:b"),
        ("groups.a.caps[0]", "group:a"),
        ("groups.b.caps[0]", "user:u1"),
        ("projects.web.caps[0]", "project:web"),
    }
    assert [(limit.count, str(limit.subject)) for limit in found.limits] == [
        (5, "group:a"),
        (6, "group:b"),
    ]
    assert not rules_for(policy, project="other", key_id="k2", user_id="u2").caps[2:]


def test_a_keys_own_rules_can_only_narrow() -> None:
    policy = Policy(everybody=Rules(models=("claude-*",), requests_per_minute=5))
    own = Rules(models=("*haiku*",), requests_per_minute=50, unpriced="allow", content="none")
    found = rules_for(policy, own=own)
    assert found.model_refusal("claude-haiku") is None
    assert found.model_refusal("claude-opus") == Stated("claude-opus", "key k1.models")
    assert found.model_refusal("other-haiku") == Stated("other-haiku", "everybody.models")
    assert [limit.count for limit in found.limits] == [5, 50]
    assert found.unpriced == Stated("refuse", "")
    assert found.content == Stated("none", "key k1.content")


def test_one_of_a_models_names_is_enough() -> None:
    found = rules_for(Policy(everybody=Rules(models=("claude-*",))))
    assert found.model_refusal("eu.anthropic.claude-x", ["claude-x"]) is None
    assert found.model_refusal("gpt-5", ["o9"]) == Stated("gpt-5", "everybody.models")


def test_an_empty_list_allows_nothing_and_none_allows_all() -> None:
    assert rules_for(Policy(everybody=Rules(providers=()))).provider_refusal("openai")
    assert rules_for(Policy()).provider_refusal("openai") is None
    assert rules_for(Policy()).model_refusal("x") is None


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("claude-*", "claude-opus-5", True),
        ("claude-*", "claude", False),
        ("gpt-?", "gpt-5", True),
        ("gpt-?", "gpt-55", False),
        ("gpt-5.1", "gpt-5x1", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("*haiku*", "eu.anthropic.claude-haiku-4-5-v1:0", True),
        ("*", "any\nthing", True),
    ],
)
def test_stars_and_question_marks_are_all_that_globs_know(
    glob: str, name: str, matches: bool
) -> None:
    assert glob_matches(glob, name) is matches
