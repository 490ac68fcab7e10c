"""The numbered steps of the schema: they are whole, in order, and take old databases forward."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import LiteralString

import pytest
from postgres_server import PostgresServer
from waiting import wait_until

from aigateway.actors.control.local.migrations import VERSION, migrations, statements
from aigateway.actors.control.local.opening import open_address, state_of
from aigateway.actors.control.local.schema import APPLICATION_ID, open_database


def columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
    return {
        table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        for (table,) in tables.fetchall()
    }


def of_version(path: Path, version: int) -> None:
    """A database as an older gateway left it, with a prompt in it."""
    connection = sqlite3.connect(path)
    for step in migrations("sqlite")[:version]:
        for statement in statements(step.sql):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute(
        "INSERT INTO user_prompts VALUES ('i', 'm', 'kept', '{}', '2026-02-28T12:00:00Z', NULL)"
    )
    connection.commit()
    connection.close()


def test_both_kinds_of_database_take_the_same_steps() -> None:
    ours = [(step.number, step.name) for step in migrations("sqlite")]
    assert ours == [(step.number, step.name) for step in migrations("postgresql")]
    assert [number for number, _name in ours] == list(range(1, VERSION + 1))


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_database_of_any_version_becomes_like_a_new_one_and_keeps_its_rows(
    tmp_path: Path, version: int
) -> None:
    of_version(tmp_path / "old.db", version)
    old, new = open_database(tmp_path / "old.db"), open_database(tmp_path / "new.db")
    assert columns(old) == columns(new)
    assert old.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert old.execute("SELECT prompt FROM user_prompts").fetchall() == [("kept",)]
    old.close()
    new.close()


def test_many_that_open_an_old_database_at_once_take_each_step_once(tmp_path: Path) -> None:
    of_version(tmp_path / "old.db", 1)
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            open_database(tmp_path / "old.db").close()
        except BaseException as ex:
            failures.append(ex)

    openers = [threading.Thread(target=open_it) for _ in range(8)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert failures == []


def test_many_that_open_a_new_database_at_once_make_it_together(address: str) -> None:
    failures: list[BaseException] = []
    together = threading.Barrier(6)

    def open_it() -> None:
        try:
            together.wait()
            open_address(address).close()
        except BaseException as ex:
            failures.append(ex)

    openers = [threading.Thread(target=open_it) for _ in range(6)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert failures == []
    assert state_of(address).version == VERSION


def test_who_comes_while_another_brings_the_schema_up_waits_for_it(
    postgres: PostgresServer,
) -> None:
    address = postgres.new_database()
    other = threading.Thread(target=lambda: open_address(address).close())
    with postgres.connect(address) as connection:

        def ask(query: LiteralString) -> object:
            row = connection.execute(query).fetchone()
            assert row is not None
            return row[0]

        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (APPLICATION_ID,))
            other.start()
            waits: LiteralString = (
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )
            wait_until(lambda: ask(waits) == 1, "the second waits for the lock", 10.0)
            assert ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        other.join()
    assert state_of(address).version == VERSION


def test_sql_is_taken_apart_at_the_ends_of_statements_only() -> None:
    text = """-- what it is for; and why
CREATE TABLE a (b TEXT DEFAULT ';');

CREATE TRIGGER t AFTER INSERT ON a BEGIN
    DELETE FROM a;
    SELECT 1;
END;
"""
    assert list(statements(text)) == [
        "CREATE TABLE a (b TEXT DEFAULT ';')",
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n    DELETE FROM a;\n    SELECT 1;\nEND",
    ]


def test_a_statement_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="no end: CREATE TABLE a"):
        list(statements("CREATE TABLE a (b)"))
