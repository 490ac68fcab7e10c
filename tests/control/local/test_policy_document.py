"""A policy as people write it, and what they are told when it is wrong."""

from __future__ import annotations

import pytest

from aigateway.actors.control.local.policy_document import (
    BadPolicy,
    differences,
    read_policy,
    read_rules,
    rules_text,
)
from aigateway.actors.values.policy import Cap, Policy, Rules

WHOLE = """
contact: ask platform@example.com
timezone: Europe/Zurich
everybody:
  models: ["claude-*", "gpt-5*"]
  providers: [anthropic, openai]
  content: prompts
  requests_per_minute: 60
  tokens_per_minute: 200_000
  unpriced: refuse
  caps:
    - {usd: 20, every: day}
    - {usd: 0.000000001, every: month, per: group}
groups:
  engineering:
    shared_requests_per_minute: 600
    caps: [{usd: 500, every: month}]
  7: {content: none}
  no: {models: []}
users: {alice: {unpriced: allow, caps: [{usd: 1.50, every: week}]}}
keys: {KEYID: {caps: [{usd: 1, every: day}]}}
projects: {website: {caps: [{usd: 3, every: day}]}}
"""


def test_a_whole_document_is_read() -> None:
    policy = read_policy(WHOLE)
    assert policy == Policy(
        contact="ask platform@example.com",
        timezone="Europe/Zurich",
        everybody=Rules(
            models=("claude-*", "gpt-5*"),
            providers=("anthropic", "openai"),
            content="prompts",
            requests_per_minute=60,
            tokens_per_minute=200_000,
            unpriced="refuse",
            caps=(Cap(20_000_000_000, "day", "user"), Cap(1, "month", "group")),
        ),
        groups={
            "engineering": Rules(
                shared_requests_per_minute=600, caps=(Cap(500_000_000_000, "month", "group"),)
            ),
            "7": Rules(content="none"),
            "no": Rules(models=()),
        },
        users={"alice": Rules(unpriced="allow", caps=(Cap(1_500_000_000, "week", "user"),))},
        keys={"KEYID": Rules(caps=(Cap(1_000_000_000, "day", "key"),))},
        projects={"website": Rules(caps=(Cap(3_000_000_000, "day", "project"),))},
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "everybody:\n", "groups: {a: }"])
def test_what_says_nothing_holds_nothing(text: str) -> None:
    found = read_policy(text)
    assert differences(Policy(), found) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\neverybody:\n  modles: [a]", r'line 3: everybody: there is no field "modles"; did you'),
        ("eveybody: {}", 'did you mean "everybody"'),
        ("colour: blue", "it may have contact, timezone, everybody, groups"),
        ("everybody: {models: [*-mini]}", r"line 1: not valid YAML: .* begins with \* needs"),
        ("everybody:\n\tmodels: []", "line 2: not valid YAML: .* in the place of tabs"),
        ("everybody: {models: claude}", r"everybody.models: must be a list: \[\"claude-"),
        ("everybody: {models: [[a]]}", "everybody.models: must be one value"),
        ('everybody: {models: [""]}', "must not be empty"),
        ('everybody: {models: ["a\\nb"]}', "control characters"),
        ("everybody: {content: all}", '"all" must be prompts or none'),
        ("everybody: {unpriced: maybe}", '"maybe" must be refuse or allow'),
        ("everybody: {requests_per_minute: 1.5}", '"1.5" must be a whole number'),
        ("everybody: {requests_per_minute: -1}", "whole number, 0 or more"),
        (f"everybody: {{tokens_per_minute: {'9' * 5000}}}", "whole number"),
        ("everybody: {requests_per_minute: ٣}", "whole number"),
        ("everybody: {caps: {usd: 1}}", "must be a list"),
        ("everybody: {caps: [{every: day}]}", r"caps\[0\]: a cap needs usd"),
        ("everybody: {caps: [{usd: 1}]}", "a cap needs every"),
        ("everybody: {caps: [{usd: -1, every: day}]}", r"caps\[0\].usd: .* amount of dollars"),
        ("everybody: {caps: [{usd: 1e400, every: day}]}", "amount of dollars"),
        ("everybody: {caps: [{usd: .nan, every: day}]}", "amount of dollars"),
        ("everybody: {caps: [{usd: 1e-10, every: day}]}", "amount of dollars"),
        ("everybody: {caps: [{usd: 9999999999, every: day}]}", "amount of dollars"),
        ("everybody: {caps: [{usd: $5, every: day}]}", "amount of dollars"),
        ("everybody: {caps: [{usd: 1, every: year}]}", "day or week or month"),
        ("everybody: {caps: [{usd: 1, every: day, for: x}]}", 'no field "for"'),
        ("users: {a: {caps: [{usd: 1, every: day, per: group}]}}", '"group" must be user or key'),
        ("projects: {x: {models: [a]}}", 'projects.x: there is no field "models"'),
        ("users: {a: {shared_tokens_per_minute: 1}}", "no field"),
        ("groups:\n  a: {}\n  a: {}", 'line 3: groups: "a" is there twice, first in line 2'),
        ("groups: [a]", "groups must be a mapping"),
        ("groups: {[a]: {}}", "name must be a text"),
        ("timezone: Mars/Olympus", 'no time zone "Mars/Olympus"'),
        ("timezone: ../../etc/passwd", "no time zone"),
        ("[1]", "the policy must be a mapping"),
        ("a: b: c", "line 1: not valid YAML"),
        ("a: 'b", "not valid YAML"),
        ("contact: \x07", "not valid YAML"),
        ("a: 1\n---\nb: 1", "not valid YAML"),
    ],
)
def test_errors_name_the_line_the_field_and_the_way_out(text: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        read_policy(text)


def test_differences_name_each_field_once() -> None:
    new = read_policy(WHOLE)
    assert differences(new, new) == []
    old = read_policy(
        "everybody: {models: [a], caps: [{usd: 5, every: day}]}\nusers: {bob: {content: none}}"
    )
    found = differences(old, new)
    assert "~ everybody.models: [a] -> [claude-*, gpt-5*]" in found
    assert (
        "~ everybody.caps: [$5 every day per user] ->"
        " [$20 every day per user, $0.000000001 every month per group]"
    ) in found
    assert "- users.bob.content: none" in found
    assert "+ groups.no.models: []" in found
    assert "+ contact: ask platform@example.com" in found
    assert "~ timezone: UTC -> Europe/Zurich" in found


def test_a_keys_own_rules_are_kept_as_text() -> None:
    assert rules_text({"models": (), "requests_per_minute": None}) is None
    text = rules_text({"models": ("*-mini",), "caps": ({"usd": "0.5", "every": "day"},)})
    assert text is not None
    assert read_rules(text) == Rules(models=("*-mini",), caps=(Cap(500_000_000, "day", "key"),))
    with pytest.raises(BadPolicy, match="day or week or month"):
        rules_text({"caps": ({"usd": "1", "every": "hour"},)})
