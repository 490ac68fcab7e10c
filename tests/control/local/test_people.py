"""Users, groups and their keys, in either kind of database."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from aigateway.actors.control.local.api_keys import (
    KnownKey,
    Uses,
    WantedKey,
    create_key,
    create_keys,
    find_callers,
    list_keys,
    note_uses,
    revoke_key,
)
from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.migrations import migrations, statements
from aigateway.actors.control.local.people import (
    AlreadyThere,
    NoSuch,
    add_members,
    create_group,
    create_users,
    delete_group,
    find_group,
    find_user,
    list_users,
    remove_members,
    set_disabled,
    user_id_for,
)
from aigateway.actors.control.local.policy_document import rules_text
from aigateway.actors.control.local.schema import APPLICATION_ID, Database, open_database
from aigateway.actors.control.messages import Denied

WHO = "a test"


@pytest.fixture
def database(either: Database) -> Database:
    return either


def caller_of(database: Database, token: str, now: float | None = None) -> Any:
    return find_callers(database, [token], time.time() if now is None else now)[token]


def machine_key(database: Database, group: str, name: str, **changes: Any) -> str:
    wanted = WantedKey(group=group, name=name, **changes)
    return create_keys(database, [wanted], who=WHO)[0].token


def test_a_key_makes_its_user_and_finds_one_that_is_there(database: Database) -> None:
    [bob] = create_users(database, [("bob", "11111111-1111-4111-8111-111111111111")], who=WHO)
    assert create_key(database, "bob").key.user_id == bob.id
    assert create_key(database, "ada").key.user_id == user_id_for("ada")
    assert [user.name for user in list_users(database)] == ["ada", "bob"]


def test_a_user_has_one_name_and_one_id(database: Database) -> None:
    [ada] = create_users(database, [("ada", None)], who=WHO)
    with pytest.raises(AlreadyThere, match='user "ada"'):
        create_users(database, [("eve", None), ("ada", None)], who=WHO)
    with pytest.raises(AlreadyThere, match='"ada" has the id'):
        create_users(database, [("eve", ada.id)], who=WHO)
    with pytest.raises(AlreadyThere):
        create_users(database, [("eve", None), ("eve", None)], who=WHO)
    assert list_users(database) == [ada]
    assert find_user(database, ada.id.upper()) == find_user(database, " ada ") == ada
    with pytest.raises(NoSuch, match='no user "eve"'):
        find_user(database, "eve")


def test_a_disabled_users_keys_are_refused_until_the_user_is_enabled(database: Database) -> None:
    token = create_key(database, "ada").token
    other = create_key(database, "bob").token
    set_disabled(database, "ada", True, who=WHO)
    refused = caller_of(database, token)
    assert isinstance(refused, Denied)
    assert refused.reason == "user disabled"
    assert refused.caller is not None
    assert refused.caller.username == "ada"
    assert isinstance(caller_of(database, other), KnownKey)
    assert [key.state(0) for key in list_keys(database)] == ["disabled", "active"]
    set_disabled(database, "ada", False, who=WHO)
    assert isinstance(caller_of(database, token), KnownKey)


def test_callers_come_with_the_groups_that_their_users_are_in(database: Database) -> None:
    token = create_key(database, "ada").token
    for name in ("ops", "lab"):
        create_group(database, name, who=WHO)
        add_members(database, name, ["ada"], who=WHO)
    assert caller_of(database, token).caller.groups == ("lab", "ops")
    remove_members(database, "ops", ["ada"], who=WHO)
    assert caller_of(database, token).caller.groups == ("lab",)
    assert find_group(database, "lab").members == ("ada",)
    assert find_user(database, "ada").groups == ("lab",)


def test_a_machines_key_is_its_groups_and_keeps_its_identity(database: Database) -> None:
    for name in ("lab", "ops"):
        create_group(database, name, who=WHO)
    old, new = (machine_key(database, "lab", "ci", project="web") for _ in range(2))
    other = machine_key(database, "ops", "ci")
    found = [caller_of(database, token) for token in (old, new, other)]
    assert all(each.group_id for each in found)
    first, second, third = (each.caller for each in found)
    assert (first.username, first.groups, first.project) == ("lab/ci", ("lab",), "web")
    assert first.user_id == second.user_id != third.user_id
    assert [key.group for key in list_keys(database, group="lab")] == ["lab", "lab"]
    assert list_users(database) == []


def test_nobody_becomes_a_machine_by_name(database: Database) -> None:
    create_group(database, "lab", who=WHO)
    machine = caller_of(database, machine_key(database, "lab", "ci")).caller
    user = caller_of(database, create_key(database, "lab/ci").token)
    assert user.caller.user_id != machine.user_id
    assert user.group_id is None
    set_disabled(database, "lab/ci", True, who=WHO)
    assert isinstance(caller_of(database, machine_key(database, "lab", "ci")), KnownKey)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (WantedKey(username="ada", group="lab", name="x"), "not of both"),
        (WantedKey(group="lab"), "needs a name"),
        (WantedKey(group="nowhere", name="x"), 'no group "nowhere"'),
        (WantedKey(username="ada", name="a\nb"), "control characters"),
        (WantedKey(username="ada", project="a\x1b"), "control characters"),
    ],
)
def test_of_many_keys_all_are_made_or_none(
    database: Database, wanted: WantedKey, reason: str
) -> None:
    create_group(database, "lab", who=WHO)
    with pytest.raises((ValueError, NoSuch), match=reason):
        create_keys(database, [WantedKey(username="eve"), wanted], who=WHO)
    assert list_keys(database) == list_users(database) == []


def test_ten_thousand_keys_are_made_in_one_go(database: Database) -> None:
    wanted = [WantedKey(username=f"user-{number % 5000}") for number in range(10_000)]
    made = create_keys(database, wanted, who=WHO)
    assert len({each.token for each in made}) == 10_000
    assert len(list_users(database)) == 5000
    assert caller_of(database, made[-1].token).caller.username == "user-4999"


def test_a_group_with_good_keys_is_not_deleted(database: Database) -> None:
    create_group(database, "lab", who=WHO)
    add_members(database, "lab", [create_key(database, "ada").key.username], who=WHO)
    token = machine_key(database, "lab", "ci")
    key_id = token.partition("-")[0]
    with pytest.raises(ValueError, match=key_id):
        delete_group(database, "lab", who=WHO)
    revoke_key(database, key_id)
    delete_group(database, "lab", who=WHO)
    with pytest.raises(NoSuch):
        find_group(database, "lab")
    assert find_user(database, "ada").groups == ()
    assert isinstance(caller_of(database, token), Denied)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a/b"])
def test_a_groups_name_is_one_line_without_a_slash(database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="the group name"):
        create_group(database, name, who=WHO)


def test_members_are_added_all_or_none(database: Database) -> None:
    create_group(database, "lab", who=WHO)
    create_users(database, [("ada", None)], who=WHO)
    with pytest.raises(NoSuch, match="eve"):
        add_members(database, "lab", ["ada", "eve"], who=WHO)
    with pytest.raises(NoSuch, match="group"):
        add_members(database, "lob", ["ada"], who=WHO)
    with pytest.raises(AlreadyThere):
        create_group(database, "lab", who=WHO)
    assert find_group(database, "lab").members == ()


def test_each_change_is_noted_with_what_was_before_and_after(database: Database) -> None:
    create_users(database, [("ada", None)], who=WHO, now=1)
    create_group(database, "lab", who=WHO, now=2)
    add_members(database, "lab", ["ada"], who=WHO, now=3)
    add_members(database, "lab", ["ada"], who=WHO, now=4)
    made = create_keys(database, [WantedKey(username="ada", name="laptop")], who=WHO, now=5)
    revoke_key(database, made[0].key.id, who="another", now=6)
    revoke_key(database, made[0].key.id, who="another", now=7)
    set_disabled(database, "ada", True, who=WHO, now=8)
    set_disabled(database, "ada", True, who=WHO, now=9)
    remove_members(database, "lab", ["ada"], who=WHO, now=10)
    delete_group(database, "lab", who=WHO, now=11)
    changes = list_changes(database, 100)[::-1]
    assert [(each["who"], each["action"], each["at"][17:19]) for each in changes] == [
        (WHO, "user.create", "01"),
        (WHO, "group.create", "02"),
        (WHO, "group.add", "03"),
        (WHO, "key.create", "05"),
        ("another", "key.revoke", "06"),
        (WHO, "user.disable", "08"),
        (WHO, "group.remove", "10"),
        (WHO, "group.delete", "11"),
    ]
    assert changes[2]["after"] == changes[6]["before"] == {"members": ["ada"]}
    assert changes[3]["after"] == {"user": "ada", "name": "laptop"}
    assert (changes[5]["before"], changes[5]["after"]) == (
        {"state": "active"},
        {"state": "disabled"},
    )
    noted = str(changes)
    assert made[0].token not in noted
    assert made[0].token.partition("-")[2] not in noted


def test_a_key_is_known_with_its_own_rules(database: Database) -> None:
    rules = rules_text({"requests_per_minute": 5, "models": ("a",), "caps": ()})
    assert rules is not None
    [made] = create_keys(database, [WantedKey(username="ada", rules=rules)], who=WHO)
    assert caller_of(database, made.token).rules == rules == list_keys(database)[0].rules


def test_that_a_key_is_used_is_noted_once_a_minute(database: Database) -> None:
    made = create_key(database, "ada", now=1000)
    uses = Uses()
    uses.note(made.key.id, caller_of(database, made.token, 1000).last_used_at, 1000)
    uses.note(made.key.id, None, 1001)
    uses.written(lambda found: note_uses(database, found))
    assert not uses
    used_at = list_keys(database)[0].last_used_at
    assert used_at == "1970-01-01T00:16:40.000000Z" == caller_of(database, made.token).last_used_at
    for known in (uses, Uses()):
        # What another process has written counts as well.
        known.note(made.key.id, used_at, 1059)
        assert not known
        known.note(made.key.id, used_at, 1060)
        assert known
    # One that was later with another gateway stays.
    note_uses(database, {made.key.id: 999.0})
    assert list_keys(database)[0].last_used_at == "1970-01-01T00:16:40.000000Z"


def test_what_cannot_be_written_stays_to_be_written() -> None:
    uses, taken = Uses(), []
    uses.note("k", None, 1)

    def failing(_found: dict[str, float]) -> None:
        raise OSError

    with pytest.raises(OSError):
        uses.written(failing)
    uses.written(taken.append)
    assert taken == [{"k": 1}]


def test_the_keys_of_an_older_database_go_on_working(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    for step in migrations("sqlite")[:3]:
        for statement in statements(step.sql):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 3")
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
    for id, user_id, name in [("k1", "u1", "ada"), ("k2", "u1", "ada"), ("k3", "u2", "ada")]:
        connection.execute(
            "INSERT INTO api_keys (id, secret_sha256, user_id, username, created_at)"
            " VALUES (?, ?, ?, ?, '2026-02-28T12:00:00.000000Z')",
            (id, digest, user_id, name),
        )
    connection.commit()
    connection.close()
    database = open_database(path)
    assert [(user.id, user.name) for user in list_users(database)] == [("u1", "ada"), ("u2", "ada")]
    found = find_callers(database, ["k1-secret", "k3-secret"], time.time())
    assert [each.caller.user_id for each in found.values() if isinstance(each, KnownKey)] == [
        "u1",
        "u2",
    ]
    with pytest.raises(NoSuch, match="several users"):
        set_disabled(database, "ada", True, who=WHO)
    set_disabled(database, "u2", True, who=WHO)
    assert isinstance(caller_of(database, "k3-secret"), Denied)
    assert isinstance(caller_of(database, "k1-secret"), KnownKey)
    database.close()
