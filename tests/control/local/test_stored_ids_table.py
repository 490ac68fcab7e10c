"""Whose ids are whose, for how long, and what that costs a database of before."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aigateway.actors.actor.base import new_reply
from aigateway.actors.control.local import migrations, schema
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.stored_ids import FRESH, KEPT, foreign_id, remember
from aigateway.actors.control.messages import Accepted, CheckIds, NotYours, RememberIds, Unavailable

NOW = 1_772_280_000.0


def test_who_had_an_id_first_keeps_it_until_it_is_old(either: Database) -> None:
    remember(either, [("ada", ("a", "b")), ("bob", ("a", "c"))], NOW)
    assert foreign_id(either, "ada", ("x", "a", "b"), NOW) == (None, ())
    assert foreign_id(either, "ada", ("a", "c"), NOW) == ("c", ())
    assert foreign_id(either, "bob", ("c", "b", "a"), NOW) == ("b", ())
    remember(either, [("bob", ("a",))], NOW + KEPT - 1)
    assert foreign_id(either, "bob", ("a",), NOW + KEPT - 1) == ("a", ())
    assert foreign_id(either, "bob", ("a",), NOW + KEPT + 1) == (None, ())
    remember(either, [("bob", ("a",))], NOW + KEPT + 1)
    assert foreign_id(either, "ada", ("a",), NOW + KEPT + 1) == ("a", ())


def test_what_is_used_is_kept_for_longer(either: Database) -> None:
    remember(either, [("ada", ("a",))], NOW)
    assert foreign_id(either, "ada", ("a",), NOW + FRESH - 1) == (None, ())
    assert foreign_id(either, "ada", ("a",), NOW + FRESH + 1) == (None, ("a",))
    remember(either, [("ada", ("a",))], NOW + FRESH + 1)
    assert foreign_id(either, "bob", ("a",), NOW + KEPT + 1) == ("a", ())


def test_what_is_old_goes_and_the_table_does_not_grow(either: Database) -> None:
    def count() -> int:
        number: int = either.execute("SELECT count(*) FROM stored_ids").fetchone()[0]
        return number

    remember(either, [("ada", tuple(f"id{number}" for number in range(1000)))], NOW)
    assert count() == 1000
    for number in range(5):
        remember(either, [("bob", (f"new{number}",))], NOW + KEPT + 1)
    assert count() == 1000 - 5 * 101 + 5
    remember(either, [("bob", tuple(f"more{number}" for number in range(800)))], NOW + KEPT + 1)
    assert count() == 805


def test_a_database_of_before_gets_the_table_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"
    first = migrations.migrations("sqlite")[:1]
    monkeypatch.setattr(schema, "VERSION", 1)
    monkeypatch.setattr(migrations, "migrations", lambda _dialect: first)
    old = schema.open_database(path)
    old.execute("INSERT INTO user_prompts VALUES ('i', 'm', 'p', '{}', 't', NULL)")
    old.close()
    monkeypatch.undo()
    new = schema.open_database(path)
    assert new.execute("SELECT prompt FROM user_prompts").fetchall() == [("p",)]
    remember(new, [("ada", ("a",))], NOW)
    assert new.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    new.close()


def ask(plane: Any, message: Any) -> Any:
    reply = new_reply()
    plane.ref.tell(message(reply))
    return reply.get(timeout=20)


def test_the_control_plane_answers_whose_ids_are_whose(plane: Any) -> None:
    assert ask(plane, lambda reply: CheckIds("bob", ("a",), reply)) == Accepted()
    assert ask(plane, lambda reply: RememberIds("ada", ("a",), reply)) == Accepted()
    assert ask(plane, lambda reply: CheckIds("ada", ("a",), reply)) == Accepted()
    assert ask(plane, lambda reply: CheckIds("bob", ("b", "a"), reply)) == NotYours("a")


def test_a_locked_database_is_waited_for(start: Any, database: sqlite3.Connection) -> None:
    plane = start()
    database.execute("BEGIN IMMEDIATE")
    reply = new_reply()
    plane.ref.tell(RememberIds("ada", ("a",), reply))
    # Readers do not need the lock.
    assert ask(plane, lambda reply: CheckIds("bob", ("a",), reply)) == Accepted()
    database.execute("COMMIT")
    assert reply.get(timeout=20) == Accepted()


def test_one_that_stays_locked_is_told(start: Any, database: sqlite3.Connection) -> None:
    plane = start(lock_patience=0.05)
    database.execute("BEGIN IMMEDIATE")
    answer = ask(plane, lambda reply: RememberIds("ada", ("a",), reply))
    assert isinstance(answer, Unavailable)
    database.execute("ROLLBACK")
    assert ask(plane, lambda reply: RememberIds("ada", ("a",), reply)) == Accepted()
