"""The policy of a database: one version holds, and gateways hear of the next one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from waiting import wait_until

from aigateway.actors.control.local import local as local_module
from aigateway.actors.control.local.api_keys import (
    KnownKey,
    WantedKey,
    create_key,
    create_keys,
    list_keys,
)
from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.people import add_members, create_group, set_disabled
from aigateway.actors.control.local.policies import (
    BadStoredPolicy,
    PolicyChanged,
    PolicyInForce,
    apply,
    newest,
)
from aigateway.actors.control.local.policy_document import BadPolicy, rules_text
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.messages import Caller, Denied, Unavailable

ADA = KnownKey(Caller("u", "ada", "k"))
NO_OPUS = "everybody: {models: [claude-haiku]}  # cheap\n"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_versions_follow_each_other_and_changes_are_noted(either: Database) -> None:
    assert newest(either).version == 0
    assert apply(either, NO_OPUS, over=0, who="me", now=1).version == 1
    assert apply(either, "", over=1, who="you", now=2).version == 2
    stored = newest(either)
    assert (stored.version, stored.document, stored.created_by) == (2, "", "you")
    last, first = list_changes(either, 10)
    assert first["before"] is None
    assert last["before"] == first["after"] == {"version": 1, "document": NO_OPUS}


def test_a_policy_that_somebody_else_changed_is_not_overwritten(either: Database) -> None:
    apply(either, NO_OPUS, over=0, who="me")
    with pytest.raises(PolicyChanged, match=r"version 1 .* by me"):
        apply(either, "", over=0, who="you")
    with pytest.raises(BadPolicy):
        apply(either, "[]", over=1, who="me")
    assert newest(either).version == 1


def test_changes_are_found_by_parts_of_who_what_and_with_what(either: Database) -> None:
    for who, user in (("Ada_1", "grace"), ("ada-1", "100%"), ("edsger", "grace")):
        create_key(either, user, who=who, now=1)

    def found(**filters: str) -> list[str]:
        return sorted(each["who"] for each in list_changes(either, 10, **filters))

    assert found(who="ada") == ["Ada_1", "ada-1"]
    # What is a pattern in SQL is a letter here.
    assert found(who="A_1") == ["Ada_1"]
    assert found(who="%") == found(who="!") == []
    assert found(action="CREATE", who="eds") == ["edsger"]
    assert found(subject="key ") == ["Ada_1", "ada-1", "edsger"]
    last = list_changes(either, 1, who="ada")[0]
    assert len(list_changes(either, 10, (last["at"], last["id"]), who="ada")) == 1


def test_without_a_policy_callers_have_no_rules(either: Database) -> None:
    policy = PolicyInForce()
    policy.look(either)
    assert policy.admitted(ADA) is ADA.caller


def test_without_a_policy_callers_are_in_their_groups_all_the_same(
    either: Database, address: str
) -> None:
    """Usage by group needs no policy, nor do caps that come later, which count what was spent."""
    token = create_key(either, "ada").token
    create_group(either, "lab", who="me")
    add_members(either, "lab", ["ada"], who="me")
    if "://" in address:
        with closing(PostgresStore(address, 1, 10)) as shared:
            caller = shared.look_up([token], [], time.time())[0][token]
    else:
        with closing(Store(address, 1)) as store:
            caller = store.find_caller(token, time.time())
    assert isinstance(caller, Caller)
    assert (caller.groups, caller.rules) == (("lab",), None)


def test_groups_are_seen_as_soon_as_a_policy_is(either: Database) -> None:
    clock = Clock()
    policy = PolicyInForce(clock)
    policy.look(either)
    create_group(either, "lab", who="me")
    clock.now = 0.9
    policy.look(either)
    assert not policy.has_groups
    clock.now = 1.0
    policy.look(either)
    assert policy.has_groups


def test_a_new_policy_is_seen_within_a_second_and_not_looked_for_more_often(
    either: Database,
) -> None:
    clock = Clock()
    policy = PolicyInForce(clock)
    policy.look(either)
    apply(either, NO_OPUS, over=0, who="me")
    clock.now = 0.9
    policy.look(either)
    assert policy.version == 0
    clock.now = 1.0
    policy.look(either)
    rules = policy.admitted(ADA).rules
    assert rules is not None
    assert rules.models[0].rule == "everybody.models"
    assert policy.admitted(ADA).rules is rules


def test_callers_who_are_known_follow_a_new_policy_too(either: Database) -> None:
    clock = Clock()
    policy = PolicyInForce(clock)
    for version, globs in enumerate((("a",), ("b",), None)):
        stated = "" if globs is None else f"everybody: {{models: [{globs[0]}]}}"
        apply(either, stated, over=version, who="me")
        clock.now += 1.0
        policy.look(either)
        rules = policy.admitted(ADA).rules
        assert rules is not None
        assert [each.value for each in rules.models] == ([] if globs is None else [globs])


def test_a_keys_own_rules_hold_without_a_policy(either: Database) -> None:
    policy = PolicyInForce()
    policy.look(either)
    own = rules_text({"requests_per_minute": 3})
    rules = policy.admitted(KnownKey(ADA.caller, own)).rules
    assert rules is not None
    assert [limit.rule for limit in rules.limits] == ["key k.requests_per_minute"]
    with pytest.raises(BadStoredPolicy, match="key k"):
        policy.admitted(KnownKey(ADA.caller, '{"of_the_future": 1}'))


def test_a_policy_that_cannot_be_read_lets_nobody_in(either: Database) -> None:
    either.execute("INSERT INTO policies VALUES (1, 'of_the_future: 1', 'me', 'now')")
    policy = PolicyInForce()
    with pytest.raises(BadStoredPolicy, match=r"version 1 .*of_the_future"):
        policy.look(either)


def test_what_is_said_of_a_user_is_not_said_of_a_machine_of_that_name(either: Database) -> None:
    apply(either, "users: {lab/ci: {content: none}}", over=0, who="me")
    policy = PolicyInForce()
    policy.look(either)
    caller = Caller("u", "lab/ci", "k")
    person, machine = (policy.admitted(KnownKey(caller, None, group)) for group in (None, "g"))
    assert person.rules is not None
    assert person.rules.content is not None
    assert machine.rules is not None
    assert machine.rules.content is None


# -- through the control plane


def test_the_control_plane_says_who_calls_and_what_holds(
    start: Callable[..., Any], database: Database
) -> None:
    apply(database, NO_OPUS, over=0, who="me")
    wanted = WantedKey(username="ada", project="web")
    [made] = create_keys(database, [wanted], who="me")
    caller = start().authorize(made.token)
    assert caller.project == "web"
    assert caller.rules.model_refusal("claude-opus").rule == "everybody.models"


def test_a_running_control_plane_hears_of_disabled_users_at_once(
    plane: Any, database: Database
) -> None:
    token = create_key(database, "ada").token
    assert isinstance(plane.authorize(token), Caller)
    set_disabled(database, "ada", True, who="me")
    assert isinstance(plane.authorize(token), Denied)


def test_a_policy_of_the_future_is_told_as_trouble(plane: Any, database: Database) -> None:
    token = create_key(database, "ada").token
    database.execute("INSERT INTO policies VALUES (1, 'of_the_future: 1', 'me', 'now')")
    answer = plane.authorize(token)
    assert isinstance(answer, Unavailable)
    assert "version 1 of the policy cannot be used" in answer.message


def test_the_last_use_is_written_some_time_after_the_request(
    start: Callable[..., Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "USES_WRITTEN_AFTER", 0.01)
    plane = start()
    token = create_key(database, "ada").token
    plane.authorize(token)
    wait_until(lambda: list_keys(database)[0].last_used_at is not None, "the use to be written")


def test_the_last_use_is_written_when_the_control_plane_stops(
    start: Callable[..., Any], database: Database
) -> None:
    plane = start()
    plane.authorize(create_key(database, "ada").token)
    plane.ref.stop()
    assert list_keys(database)[0].last_used_at is not None
