"""What is old goes, in small steps, and the file with it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, TypeAlias

from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.prompt_search import index_more, search_prompts
from aigateway.actors.control.local.retention import (
    DAY,
    INTERCEPTIONS_AT_ONCE,
    Forgetting,
    Retention,
    can_shrink,
    due,
    give_back,
)
from aigateway.actors.control.local.schema import Database, open_database
from aigateway.actors.control.local.sessions import SessionFilter, find_sessions
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution

AnyStore: TypeAlias = Store | PostgresStore
NOW = 1_772_280_000.0
TABLES = ("interceptions", "token_usages", "user_prompts", "tool_usages", "model_thoughts",
          "model_answers", "content_turns", "content_links", "content_parts")  # fmt: skip


def put(store: AnyStore, records: Any, days: float, *, ended: bool = True, text: str = "x") -> str:
    """Store a request of so many days ago, with a row of everything."""
    at = NOW - days * DAY
    start = records.start(started_at=at, attribution=Attribution(f"s-{days}"))
    told = [
        records.tokens(start.id, record_id="1", created_at=at),
        records.prompt(start.id, record_id="1", created_at=at, prompt=text),
        records.tool(
            start.id,
            record_id="1",
            created_at=at,
            invocation_error="a secret failed",
            metadata={"type": "t", "invalid_arguments": "a secret"},
        ),
        records.thought(start.id, record_id="1", created_at=at, content=text),
        records.answer(start.id, record_id="1", created_at=at, content=text),
        records.sent(start.id, f"{text} {days} days ago"),
    ]
    if ended:
        told.append(
            records.end(start.id, ended_at=at + 1, error_type="unknown", error_message="a secret")
        )
    store.write([start], told)
    return str(start.id)


def counts(database: Database) -> dict[str, int]:
    return {
        table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES
    }


def forget(database: Database, **days: int) -> Forgetting:
    forgetting = Forgetting(Retention(**days))
    while forgetting.step(database, NOW):
        pass
    return forgetting


def test_old_records_go_whole_and_new_ones_stay_whole(
    store: AnyStore, either: Database, records: Any
) -> None:
    put(store, records, 40)
    put(store, records, 31)
    kept = put(store, records, 29)
    assert forget(either, records=30).deleted == {"content": 0, "records": 2}
    assert set(counts(either).values()) == {1}
    assert either.execute("SELECT id FROM interceptions").fetchall() == [(kept,)]
    assert [row.session_id for row in find_sessions(either, SessionFilter())] == ["s-29"]


def test_old_content_goes_and_what_was_spent_stays(
    store: AnyStore, either: Database, records: Any
) -> None:
    old, new = put(store, records, 31), put(store, records, 29)
    assert forget(either, content=30).deleted == {"content": 1, "records": 0}
    assert counts(either) == {
        "interceptions": 2, "token_usages": 2, "user_prompts": 1, "tool_usages": 2,
        "model_thoughts": 1, "model_answers": 1, "content_turns": 1, "content_links": 1,
        "content_parts": 1,
    }  # fmt: skip
    tools = either.execute("SELECT interception_id, tool, input, invocation_error FROM tool_usages")
    assert set(tools.fetchall()) == {
        (old, "Bash", "{}", "failed"),
        (new, "Bash", '{"command":"ls"}', "a secret failed"),
    }
    told = either.execute("SELECT interception_id, metadata FROM tool_usages").fetchall()
    assert {id: json.loads(metadata) for id, metadata in told} == {
        old: {"type": "t"},
        new: {"type": "t", "invalid_arguments": "a secret"},
    }
    errors = either.execute("SELECT id, error_type, error_message FROM interceptions")
    assert set(errors.fetchall()) == {(old, "unknown", None), (new, "unknown", "a secret")}


def test_content_that_arrives_late_goes_with_the_next_pass(
    store: AnyStore, either: Database, records: Any
) -> None:
    old = put(store, records, 31)
    forget(either, content=30)
    store.write([], [records.prompt(old, record_id="2")])
    assert counts(either)["user_prompts"] == 1
    forget(either, content=30)
    assert counts(either)["user_prompts"] == 0


def test_a_request_that_has_not_ended_is_waited_for_but_not_for_ever(
    store: AnyStore, either: Database, records: Any
) -> None:
    put(store, records, 36, ended=False)
    assert forget(either, records=30).deleted["records"] == 0
    put(store, records, 38, ended=False)
    assert forget(either, records=30).deleted["records"] == 1
    assert counts(either)["interceptions"] == 1


def test_what_would_go_is_counted_and_stays(
    store: AnyStore, either: Database, records: Any
) -> None:
    for days in (100, 40, 10):
        put(store, records, days)
    before = counts(either)
    content, whole = due(either, Retention(content=30, records=90), NOW)
    assert (content.kind, content.interceptions, content.rows) == ("content", 2, 10)
    assert (whole.kind, whole.interceptions, whole.rows) == ("records", 1, 7)
    assert counts(either) == before
    assert due(either, Retention(), NOW) == []
    forget(either, content=30, records=90)
    assert [each.rows for each in due(either, Retention(content=30, records=90), NOW)] == [0, 0]
    assert counts(either)["interceptions"] == 2


def test_a_step_is_small(store: AnyStore, either: Database, records: Any) -> None:
    starts = [records.start(started_at=NOW - 50 * DAY) for _ in range(3 * INTERCEPTIONS_AT_ONCE)]
    store.write(starts, [records.end(start.id) for start in starts])
    forgetting = Forgetting(Retention(records=30))
    left = len(starts)
    while forgetting.step(either, NOW):
        now_left = counts(either)["interceptions"]
        assert left - now_left <= INTERCEPTIONS_AT_ONCE
        left = now_left
    assert left == 0


def test_deleted_prompts_are_not_found(store: AnyStore, either: Database, records: Any) -> None:
    put(store, records, 31, text="old needle")
    put(store, records, 29, text="new needle")
    index_more(either)
    forget(either, content=30)
    hits = search_prompts(either, "needle", SessionFilter(), 5)
    assert {(hit.what, hit.excerpt) for hit in hits} == {
        ("answer", "new needle"),
        ("prompt", "new needle"),
    }


def test_a_file_becomes_smaller_bit_by_bit(path: Path, records: Any) -> None:
    database = open_database(path)
    store = Store(path, 1)
    for _ in range(40):
        put(store, records, 31, text="z" * 100_000)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    full = path.stat().st_size
    assert can_shrink(database)
    forget(database, content=30)
    steps = 0
    while give_back(database):
        steps += 1
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert steps > 3
    assert path.stat().st_size < full / 2
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    database.close()


def test_a_file_of_an_older_version_stays_as_large_and_says_so(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "old.db")
    old.execute("CREATE TABLE x (y)")
    old.execute("DROP TABLE x")
    old.close()
    database = sqlite3.connect(tmp_path / "old.db")
    assert not can_shrink(database)
    assert not give_back(database)
    database.close()
