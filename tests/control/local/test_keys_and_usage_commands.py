"""``aigateway keys`` and ``aigateway usage`` on the command line."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from aigateway.actors.control.local.store import Store
from aigateway.http.cli.keys import command as keys
from aigateway.http.cli.usage import command as usage

TOKEN = re.compile(r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}\n")

Run = Callable[..., Result]


@pytest.fixture
def run(path: Path, commands_on: Callable[[str], Run]) -> Run:
    return commands_on(str(path))


# -- keys


def test_create_prints_the_key_alone_on_standard_output(run: Run, start: Any) -> None:
    for arguments in (("create", "ada"), ("create", "--quiet", "ada")):
        result = run(keys, *arguments)
        assert result.exit_code == 0
        assert TOKEN.fullmatch(result.stdout)
        assert start().authorize(result.stdout.strip()).username == "ada"
    assert result.stderr == ""


def test_create_says_how_long_the_key_is_good(run: Run) -> None:
    assert "until it is revoked" in run(keys, "create", "ada").stderr
    made = json.loads(run(keys, "create", "ada", "--expires-in", "1d12h", "--json").stdout)
    assert TOKEN.fullmatch(made["key"] + "\n")
    assert made["username"] == "ada"
    assert made["state"] == "active"
    assert made["expires_at"] > made["created_at"]


def test_create_says_which_database_it_took_if_nobody_named_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODER_AI_GATEWAY_LOCAL_DB")
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "aigateway.db"
    first = run(keys, "create", "--quiet", "ada")
    assert TOKEN.fullmatch(first.stdout)
    assert f"Warning: no database was named, so {made} was made." in first.stderr
    assert "--local-db" in first.stderr
    assert f"{made} is used" in run(keys, "create", "ada").stderr
    assert run(keys, "create", "--quiet", "ada").stderr == ""
    named = run(keys, "create", "--local-db", str(tmp_path / "other.db"), "ada")
    assert "No database" not in named.stderr
    assert "Warning" not in named.stderr


def test_the_secret_is_never_shown_again(run: Run) -> None:
    token = run(keys, "create", "-q", "ada").stdout.strip()
    secret = token.split("-")[1]
    for arguments in (("list",), ("list", "--json"), ("revoke", token), ("revoke", "no" + token)):
        assert secret not in run(keys, *arguments).output


def test_list_shows_each_key_and_its_state(run: Run) -> None:
    first = run(keys, "create", "-q", "ada").stdout[:10]
    second = run(keys, "create", "-q", "eve [bold]x").stdout[:10]
    run(keys, "revoke", second)
    table = run(keys, "list").stdout
    assert re.search(rf"{first}\s+ada\s+\S+\s+active\s+.*never", table)
    assert re.search(rf"{second}\s+eve \[bold\]x\s+\S+\s+revoked", table)
    listed = json.loads(run(keys, "list", "--json").stdout)
    assert [(key["id"], key["state"]) for key in listed] == [
        (first, "active"),
        (second, "revoked"),
    ]


def test_list_of_nothing_says_how_to_begin(run: Run, database: sqlite3.Connection) -> None:
    result = run(keys, "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "aigateway keys create" in result.stderr
    assert json.loads(run(keys, "list", "--json").stdout) == []


def test_revoke_refuses_a_key_from_then_on(run: Run, start: Any) -> None:
    token = run(keys, "create", "-q", "ada").stdout.strip()
    plane = start()
    result = run(keys, "revoke", token[:10])
    assert (result.exit_code, result.stdout) == (0, f"Revoked {token[:10]}.\n")
    assert plane.authorize(token).message == "unauthorized"


def test_revoke_names_the_keys_that_it_did_not_find(run: Run) -> None:
    token = run(keys, "create", "-q", "ada").stdout
    result = run(keys, "revoke", "nosuchkeyx", token[:10])
    assert result.exit_code == 1
    assert result.stderr == "Error: no such key: nosuchkeyx\n"
    assert f"Revoked {token[:10]}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create",), "whose key is it?"),
        (("create", " "), "user name is empty"),
        (("create", "ada", "--user-id", "x"), '"x" is no UUID'),
        (("create", "ada", "--expires-in", "soon"), "'--expires-in': \"soon\" is no duration"),
        (("create", "ada", "--expires-in", "10"), '"10" is no duration'),
        (("create", "ada", "--expires-in", "0d"), "expired already"),
        (("create", "ada", "--expires-in", "999999999999w"), "year 9999"),
        (("create", "ada", "-q", "--json"), "exclude each other"),
        (("create", "ada", "--config", "/no/such.yaml"), "/no/such.yaml"),
        (("revoke",), "Missing argument 'KEY_ID...'"),
        (("list", "--colour"), "No such option"),
    ],
)
def test_wrong_usage_of_keys_ends_with_2(run: Run, arguments: tuple, reason: str) -> None:
    result = run(keys, *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_a_database_that_is_not_there_ends_with_1(run: Run, path: Path) -> None:
    for command, arguments in ((keys, ["list"]), (keys, ["revoke", "x"]), (usage, [])):
        result = run(command, *arguments)
        assert result.exit_code == 1
        assert result.stderr == f"Error: --local-db {path}: there is no such file\n"
    assert not path.exists()


def test_an_unwritable_database_ends_with_1(run: Run, tmp_path: Path) -> None:
    result = run(keys, "create", "ada", "--local-db", str(tmp_path / "no" / "x.db"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: --local-db ")
    assert result.stderr.count("\n") == 1


def test_a_damaged_database_ends_with_1(run: Run, database: sqlite3.Connection) -> None:
    database.execute("DROP TABLE api_keys")
    database.execute("DROP TABLE interceptions")
    for command, arguments in ((keys, ["list"]), (keys, ["create", "x"]), (usage, [])):
        result = run(command, *arguments)
        assert result.exit_code == 1
        assert "no such table" in result.stderr


def test_the_database_may_be_named_in_the_configuration_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODER_AI_GATEWAY_LOCAL_DB")
    file = tmp_path / "gateway.yaml"
    file.write_text(f"ai_gateway:\n  local_db: {tmp_path / 'named.db'}\n")
    assert run(keys, "create", "ada", "--config", str(file)).exit_code == 0
    assert (tmp_path / "named.db").exists()


# -- usage


@pytest.fixture
def used(path: Path, records: Any) -> None:
    store = Store(path, 1)
    now = time.time()
    first = records.start(started_at=now)
    odd = records.start(started_at=now, username="eve", model="[red]\x1b[31m")
    old = records.start(started_at=now - 10 * 86_400, username="old")
    store.write(
        [first, odd, old],
        [
            records.tokens(first.id, input_tokens=1_000_000),
            records.tool(first.id),
            records.prompt(first.id),
            records.tokens(odd.id),
            records.tokens(old.id),
            records.end(odd.id, error_type="timeout"),
        ],
    )
    store.close()


def test_usage_prints_a_table_with_its_total(run: Run, used: None) -> None:
    table = run(usage).stdout
    assert re.search(r"ada +1 +0 +1,000,000 +5 +0 +0 +1 +1 ", table)
    assert re.search(r"total +3 +1 +1,000,020 +15 ", table)
    assert "█" not in table


def test_usage_draws_a_bar_for_each_row(run: Run, used: None) -> None:
    lines = run(usage, "--chart", "tokens").stdout.splitlines()
    bars = {line.split()[0]: line.count("█") for line in lines if "█" in line}
    assert bars == {"ada": 40, "eve": 1, "old": 1}
    errors = run(usage, "--chart", "errors").stdout
    assert errors.count("█") == 40


def test_what_clients_choose_cannot_command_the_terminal(run: Run, used: None) -> None:
    table = run(usage, "--by", "model", "--chart", "tokens").stdout
    assert "[red]\\x1b[31m" in table
    assert "\x1b" not in table


def test_usage_as_json_has_rows_and_total(run: Run, used: None) -> None:
    found = json.loads(run(usage, "--format", "json", "--by", "user", "--by", "model").stdout)
    assert found["by"] == ["user", "model"]
    assert found["rows"][0] == {
        "user": "ada",
        "model": "claude-x",
        "interceptions": 1,
        "errors": 0,
        "input_tokens": 1_000_000,
        "output_tokens": 5,
        "cache_read_input_tokens": 0,
        "cache_write_input_tokens": 0,
        "prompts": 1,
        "tool_calls": 1,
        "cost_nano_usd": None,
        "unpriced": 1,
    }
    assert found["total"]["interceptions"] == 3


def test_usage_as_csv_has_a_header(run: Run, used: None) -> None:
    rows = list(csv.DictReader(io.StringIO(run(usage, "--format", "csv").stdout)))
    assert [(row["user"], row["input_tokens"]) for row in rows] == [
        ("ada", "1000000"),
        ("eve", "10"),
        ("old", "10"),
    ]


def test_usage_can_be_limited_in_time_and_number(run: Run, used: None) -> None:
    def users(*arguments: str) -> list[str]:
        found = json.loads(run(usage, "--format", "json", *arguments).stdout)
        return [row["user"] for row in found["rows"]]

    assert users("--since", "7d") == ["ada", "eve"]
    assert users("--until", "1w") == ["old"]
    assert users("--since", "2020-01-01", "--until", "2100-01-01T00:00:00Z") == [
        "ada",
        "eve",
        "old",
    ]
    assert users("--since", "yesterday", "--limit", "1") == ["ada"]
    assert users("--until", "yesterday") == ["old"]


def test_no_usage_is_no_error(run: Run, database: sqlite3.Connection) -> None:
    assert "No usage" in run(usage).stdout
    assert json.loads(run(usage, "--format", "json").stdout)["rows"] == []
    assert len(run(usage, "--format", "csv").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--by", "moon"), "'moon' is not one of"),
        (("--since", "last summer"), "'--since': \"last summer\" is no time"),
        (("--until", "2026-13-01"), "is no time"),
        (("--since", "1d", "--until", "2d"), "--since must be before --until"),
        (("--since", "999999999999w"), "outside of the calendar"),
        (("--limit", "0"), "'--limit'"),
        (("--format", "xml"), "'--format'"),
    ],
)
def test_wrong_usage_of_usage_ends_with_2(
    run: Run, database: sqlite3.Connection, arguments: tuple, reason: str
) -> None:
    result = run(usage, *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (keys, ["--help"]),
        (keys, ["create", "--help"]),
        (keys, ["list", "--help"]),
        (keys, ["revoke", "--help"]),
        (usage, ["--help"]),
    ],
)
def test_help_names_the_database_and_the_defaults(
    run: Run, command: click.Command, arguments: list[str]
) -> None:
    text = run(command, *arguments).stdout
    assert text.startswith("Usage: ")
    if command is usage or len(arguments) == 2:
        assert "--local-db" in text
        assert "CODER_AI_GATEWAY_LOCAL_DB" in text
