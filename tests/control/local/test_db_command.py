"""``aigateway db``, and the other commands on PostgreSQL."""

from __future__ import annotations

import builtins
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from postgres_server import PASSWORD, PostgresServer

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.migrations import VERSION
from aigateway.actors.control.local.opening import open_address, state_of
from aigateway.actors.control.local.schema import open_database
from aigateway.actors.control.local.store import Store
from aigateway.http.cli.db import command as db
from aigateway.http.cli.keys import command as keys
from aigateway.http.cli.usage import command as usage

Run = Callable[..., Result]


@pytest.fixture
def run(address: str, commands_on: Callable[[str], Run]) -> Run:
    """Run a command on a database of either kind, which says no password."""
    run = commands_on(address)

    def invoke(command: click.Command, *arguments: str) -> Result:
        result = run(command, *arguments)
        assert PASSWORD not in result.output
        assert "%2Fw%40rd" not in result.output
        return result

    return invoke


@pytest.fixture
def filled(tmp_path: Path, records: Any) -> Path:
    """A SQLite file with a key, two interceptions, and texts that PostgreSQL cannot hold."""
    path = tmp_path / "source.db"
    store = Store(path, 1)
    first, second = records.start(metadata={"nul": "\0"}), records.start()
    store.write(
        [first, second],
        [
            records.prompt(first.id, prompt="a\0b"),
            records.tokens(first.id, input_tokens=2**40),
            records.tool(second.id, injected=True),
            records.thought(second.id),
            records.answer(second.id),
            records.sent(first.id, "a", "b"),
            records.sent(second.id, "a", "b", "c"),
            records.end(first.id),
        ],
    )
    store.remember_ids([("ada", ("resp_1",))], 1_772_280_000.0)
    store.close()
    database = open_database(path)
    create_key(database, "ada")
    database.close()
    return path


def test_keys_are_made_listed_and_revoked(run: Run) -> None:
    made = json.loads(run(keys, "create", "ada", "--json").stdout)
    assert [key["id"] for key in json.loads(run(keys, "list", "--json").stdout)] == [made["id"]]
    assert run(keys, "revoke", made["id"]).exit_code == 0
    assert json.loads(run(keys, "list", "--json").stdout)[0]["state"] == "revoked"


def test_migrate_makes_the_schema_once_and_status_shows_it(run: Run) -> None:
    assert f"has version {VERSION} now; before, it had 0" in run(db, "migrate").stdout
    assert "is up to date" in run(db, "migrate").stdout
    shown = run(db, "status")
    assert shown.exit_code == 0
    assert "api_keys: 0 rows" in shown.stdout
    data = json.loads(run(db, "status", "--json").stdout)
    assert data["version"] == data["newest_version"] == VERSION
    assert data["rows"]["interceptions"] == 0


def test_usage_of_a_database_without_a_schema_names_the_way_out(run: Run, address: str) -> None:
    if "://" not in address:
        Path(address).touch()
    result = run(usage)
    assert result.exit_code == 1
    assert "aigateway " in result.stderr


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_copy_takes_everything_along(run: Run, filled: Path, address: str) -> None:
    before = filled.read_bytes()
    result = run(db, "copy", str(filled))
    assert result.exit_code == 0, result.output
    assert "the counts agree" in result.stdout
    assert state_of(address).rows == state_of(str(filled)).rows
    assert state_of(address).rows["interceptions"] == 2
    target = open_address(address)
    source = sqlite3.connect(filled)
    for table in (
        "interceptions", "token_usages", "tool_usages", "api_keys", "stored_ids", "model_answers",
        "content_parts", "content_links", "content_turns",
    ):  # fmt: skip
        columns = [row[1] for row in source.execute(f"PRAGMA table_info({table})")]
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1"
        assert target.execute(query).fetchall() == source.execute(query).fetchall()
    assert target.execute("SELECT prompt FROM user_prompts").fetchall() == [("a�b",)]
    source.close()
    target.close()
    assert filled.read_bytes() == before
    assert "ada" in run(usage).stdout


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_copy_into_a_database_with_rows_is_refused(run: Run, filled: Path, address: str) -> None:
    run(keys, "create", "eve", "--quiet")
    result = run(db, "copy", str(filled))
    assert result.exit_code == 1
    assert "has rows already (1 in api_keys" in result.stderr
    assert state_of(address).rows["interceptions"] == 0


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_copy_that_breaks_off_has_copied_nothing_and_can_be_given_again(
    run: Run, filled: Path, address: str
) -> None:
    source = sqlite3.connect(filled)
    # What SQLite stores and PostgreSQL does not: the tables before it were copied already.
    source.execute("UPDATE token_usages SET input_tokens = 'many'")
    source.commit()
    result = run(db, "copy", str(filled))
    assert result.exit_code == 1
    assert "token_usages" in result.stderr
    assert set(state_of(address).rows.values()) == {0}
    source.execute("UPDATE token_usages SET input_tokens = 7")
    source.commit()
    source.close()
    assert run(db, "copy", str(filled)).exit_code == 0


@pytest.mark.parametrize("address", ["sqlite"], indirect=True)
def test_copy_into_a_file_is_wrong_usage(run: Run, filled: Path) -> None:
    result = run(db, "copy", str(filled))
    assert result.exit_code == 2
    assert "must be PostgreSQL" in result.stderr


def test_without_the_extra_the_way_to_it_is_told(
    postgres: PostgresServer, run: Run, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        fromlist = rest[2] if len(rest) > 2 else ()
        if "postgres" in (fromlist or ()):
            raise ImportError("No module named 'psycopg'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    result = run(db, "migrate")
    if "://" in address:
        assert result.exit_code == 1
        assert "pip install 'aigateway[postgres]'" in result.stderr
    else:
        assert result.exit_code == 0
