"""``aigateway users``, ``groups``, ``keys`` and ``policy`` on the command line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from aigateway.actors.control.local.audit import list_changes
from aigateway.actors.control.local.opening import open_address
from aigateway.http.cli.groups import command as groups
from aigateway.http.cli.keys import command as keys
from aigateway.http.cli.policy import command as policy
from aigateway.http.cli.users import command as users

Run = Callable[..., Result]
POLICY = "everybody: {models: [claude-*]}\ngroups: {lab: {content: none}}\n"


@pytest.fixture
def run(address: str, commands_on: Callable[[str], Run]) -> Run:
    """Run a command on a database of either kind."""
    open_address(address).close()
    run = commands_on(address)

    def invoke(command: click.Command, *arguments: str, code: int = 0, typed: str = "") -> Result:
        result = run(command, *arguments, input=typed)
        assert result.exit_code == code, result.output
        return result

    return invoke


def as_json(run: Run, command: click.Command, *arguments: str) -> Any:
    return json.loads(run(command, *arguments, "--json").stdout)


def test_users_are_made_listed_and_disabled(run: Run) -> None:
    assert run(users, "create", "ada", "bob").stdout == "Made ada.\nMade bob.\n"
    assert 'there is a user "ada"' in run(users, "create", "ada", code=1).stderr
    assert "user name is empty" in run(users, "create", "", code=2).stderr
    assert "no UUID" in run(users, "create", "eve", "--id", "7", code=2).stderr
    assert "for one user" in run(users, "create", "a", "b", "--id", "7", code=2).stderr
    [off] = as_json(run, users, "disable", "ada")
    assert (off["name"], off["state"]) == ("ada", "disabled")
    assert [user["state"] for user in as_json(run, users, "list")] == ["disabled", "active"]
    assert "Enabled ada." in run(users, "enable", off["id"]).stdout
    assert as_json(run, users, "show", "ada")["disabled_at"] is None
    assert "state: active" in run(users, "show", "ada").stdout
    assert 'no user "eve"' in run(users, "disable", "bob", "eve", code=1).stderr
    assert as_json(run, users, "show", "bob")["state"] == "active"
    assert "bob" in run(users, "list").stdout


def test_groups_are_made_filled_and_deleted(run: Run) -> None:
    assert "No groups" in run(groups, "list").stderr
    run(users, "create", "ada", "bob")
    assert as_json(run, groups, "create", "lab")["members"] == []
    assert 'a group "lab" already' in run(groups, "create", "lab", code=1).stderr
    assert "lab has 2 members now." in run(groups, "add", "lab", "ada", "bob").stdout
    assert as_json(run, groups, "remove", "lab", "bob")["members"] == ["ada"]
    assert "member: ada" in run(groups, "show", "lab").stdout
    assert [group["name"] for group in as_json(run, groups, "list")] == ["lab"]
    assert [user["name"] for user in as_json(run, users, "list", "--group", "lab")] == ["ada"]
    assert 'no group "lob"' in run(users, "list", "--group", "lob", code=1).stderr
    run(keys, "create", "--group", "lab", "--name", "ci")
    assert "revoke them first" in run(groups, "delete", "lab", code=2).stderr
    [key] = as_json(run, keys, "list", "--group", "lab")
    assert as_json(run, keys, "revoke", key["id"]) == {"revoked": [key["id"]]}
    assert "Deleted the group lab." in run(groups, "delete", "lab").stdout


def test_a_key_says_whose_it_is_and_what_it_may(run: Run) -> None:
    run(groups, "create", "lab")
    options = ("--group", "lab", "--name", "ci", "--project", "web", "--model", "claude-*")
    limits = ("--requests-per-minute", "5", "--tokens-per-minute", "9", "--cap", "20/day")
    made = as_json(run, keys, "create", *options, *limits)
    assert made["username"] == "lab/ci"
    assert made["rules"] == {
        "models": ["claude-*"],
        "requests_per_minute": 5,
        "tokens_per_minute": 9,
        "caps": [{"usd": "20", "every": "day"}],
    }
    shown = as_json(run, keys, "show", made["id"])
    assert "key" not in shown
    assert shown == {name: value for name, value in made.items() if name != "key"}
    text = run(keys, "show", made["key"]).stdout
    assert "project: web" in text
    assert made["key"] not in text
    run(keys, "create", "ada")
    assert [key["username"] for key in as_json(run, keys, "list", "--user", "ada")] == ["ada"]
    assert "no key" in run(keys, "show", "nosuchkeyx", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "whose key is it?"),
        (("ada", "--group", "lab", "--name", "x"), "not of both"),
        (("ada", "--cap", "20"), "20/day"),
        (("ada", "--cap", "20/year"), "day or week or month"),
        (("ada", "--cap", "x/day"), "amount of dollars"),
        (("ada", "--model", ""), "must not be empty"),
        (("ada", "--requests-per-minute", "-1"), "-1"),
        (("ada", "--from", "-"), "leave USERNAME"),
    ],
)
def test_keys_that_cannot_be_are_not_made(run: Run, arguments: tuple[str, ...], said: str) -> None:
    run(groups, "create", "lab")
    assert said in run(keys, "create", *arguments, code=2).stderr
    assert as_json(run, keys, "list") == []


def test_keys_are_made_from_a_file_in_one_go(run: Run, tmp_path: Path) -> None:
    run(groups, "create", "lab")
    file = tmp_path / "keys.csv"
    file.write_text("username, expires_in, group, name\nada, 90d,,\n\n,,lab, ci\nbob\n")
    found = run(keys, "create", "--from", str(file), "--project", "web")
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [row["username"] for row in rows] == ["ada", "lab/ci", "bob"]
    assert all(row["key"].startswith(row["id"] + "-") for row in rows)
    listed = {key["username"]: key for key in as_json(run, keys, "list")}
    assert listed["ada"]["expires_at"] is not None
    assert listed["bob"]["expires_at"] is None
    assert {key["project"] for key in listed.values()} == {"web"}
    plain = run(keys, "create", "--from", "-", "--json", typed="eve\nada\n")
    assert [key["username"] for key in json.loads(plain.stdout)] == ["eve", "ada"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no keys"),
        ("username,colour\nada,red\n", 'line 1: "colour" is no column'),
        ("ada,90d\n", "line 1: the first line must name the columns"),
        ("username,username\na,b\n", "there twice"),
        ("username,expires_in\nada,soon\n", 'line 2: "soon" is no duration'),
        ("username\nada\na,b\n", "line 3: there are 2 values for 1 columns"),
        ("username,name\n,x\n", "line 2: it names neither"),
        ("username,group,name\nada,lab,x\n", "not of both"),
        ("username\nada\na\x01b\n", "control characters"),
    ],
)
def test_a_bad_file_makes_no_keys_and_is_told_by_its_line(run: Run, text: str, said: str) -> None:
    assert said in run(keys, "create", "--from", "-", typed=text, code=2).stderr
    assert as_json(run, keys, "list") == []


# -- policy


def test_a_policy_is_shown_compared_and_applied(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    assert "There is no policy" in run(policy, "show").stderr
    compared = run(policy, "diff", str(file), code=1)
    assert compared.stdout == "+ everybody.models: [claude-*]\n+ groups.lab.content: none\n"
    assert "there is no group lab yet" in compared.stderr
    applied = run(policy, "apply", str(file), typed="y\n")
    assert compared.stdout in applied.stdout
    assert "Applied as version 1." in applied.stdout
    assert run(policy, "diff", str(file)).stdout == "Nothing changes.\n"
    assert run(policy, "show").stdout == POLICY
    assert as_json(run, policy, "show")["document"] == POLICY
    assert "Nothing changes." in run(policy, "apply", str(file), "--yes").stdout
    assert as_json(run, policy, "show")["version"] == 1


def test_nothing_is_applied_without_a_yes(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    run(policy, "apply", str(file), typed="n\n", code=1)
    assert "give --yes" in run(policy, "apply", "-", typed=POLICY, code=2).stderr
    assert "give --yes" in run(policy, "apply", str(file), "--json", code=2).stderr
    assert as_json(run, policy, "show")["version"] == 0
    done = run(policy, "apply", "-", "--yes", "--json", typed=POLICY)
    assert json.loads(done.stdout)["version"] == 1


def test_a_bad_policy_is_told_by_its_file_line_and_field(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("groups:\n  lab: {modles: [a]}\n")
    for arguments in (("diff", str(file)), ("apply", str(file), "--yes")):
        said = run(policy, *arguments, code=2).stderr
        assert f'{file}: line 2: groups.lab: there is no field "modles"' in said
    file.write_bytes(b"contact: \xff")
    assert "not UTF-8" in run(policy, "diff", str(file), code=2).stderr
    assert as_json(run, policy, "show")["version"] == 0


def test_who_changed_what_is_noted(run: Run, address: str) -> None:
    run(users, "create", "ada")
    run(policy, "apply", "-", "--yes", typed=POLICY)
    database = open_address(address)
    newest, oldest = list_changes(database, 10)
    database.close()
    assert oldest["action"] == "user.create"
    assert newest["after"] == {"version": 1, "document": POLICY}
    assert newest["who"].startswith("command line: ")
