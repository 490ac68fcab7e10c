"""What is stored of each record, once, and what is refused."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from typing import Any, TypeAlias

import attrs
import pytest

from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.providers.recording import new_interception_id

AnyStore: TypeAlias = Store | PostgresStore


@pytest.fixture
def database(either: Database) -> Database:
    return either


@pytest.fixture
def store(address: str, database: Database) -> Iterator[AnyStore]:
    store: AnyStore = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    yield store
    store.close()


def only(database: Database, table: str) -> dict[str, Any]:
    cursor = database.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    (row,) = cursor.fetchall()
    found = dict(zip(names, row, strict=True))
    found.pop("record_id", None)
    return found


def count(database: Database, table: str) -> int:
    return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_an_interception_becomes_a_row(store: AnyStore, database: Any, records: Any) -> None:
    start = records.start(
        client_session_id="session",
        correlating_tool_call_id="toolu_0",
        credential_kind="byok",
        credential_hint="sk-...abcd",
        metadata={"n": [1, None, "é"]},
    )
    store.write([start], [])
    row = only(database, "interceptions")
    assert json.loads(row.pop("metadata")) == {"n": [1, None, "é"]}
    assert row == {
        "id": start.id,
        "initiator_id": start.initiator_id,
        "username": "ada",
        "api_key_id": "keykeykeyk",
        "provider": "anthropic",
        "provider_name": "anthropic-eu",
        "model": "claude-x",
        "client": "Claude Code",
        "client_session_id": "session",
        "user_agent": "claude-cli/2.0",
        "correlating_tool_call_id": "toolu_0",
        "credential_kind": "byok",
        "credential_hint": "sk-...abcd",
        "started_at": "2026-02-28T12:00:00.000000Z",
        "ended_at": None,
        "error_type": None,
        "error_message": None,
        "session_id": None,
        "agent_id": None,
        "parent_agent_id": None,
        "group_names": "",
        "project": "",
        "repository": None,
        "branch": None,
        "commit_hash": None,
    }


def test_what_has_no_column_goes_into_the_metadata(
    store: AnyStore, database: Any, records: Any
) -> None:
    start = records.start(
        metadata={"a": 1},
        workspace_id="w",
        agent_firewall_session_id="f",
        agent_firewall_sequence_number=0,
    )
    store.write([start], [])
    assert json.loads(only(database, "interceptions")["metadata"]) == {
        "a": 1,
        "workspace_id": "w",
        "agent_firewall_session_id": "f",
        "agent_firewall_sequence_number": 0,
    }


def test_an_end_completes_its_interception(store: AnyStore, database: Any, records: Any) -> None:
    start = records.start(credential_hint="first")
    end = records.end(
        start.id,
        credential_hint="second",
        error_type="overloaded",
        error_message="busy",
        provider_name="fallback",
    )
    assert not store.write([start], [end]).records
    row = only(database, "interceptions")
    assert row["ended_at"] == "2026-02-28T12:00:02.000000Z"
    assert (row["error_type"], row["error_message"]) == ("overloaded", "busy")
    assert (row["credential_hint"], row["provider_name"]) == ("second", "fallback")


def test_an_end_that_knows_no_better_changes_neither_hint_nor_provider(
    store: AnyStore, database: Any, records: Any
) -> None:
    start = records.start(credential_hint="first")
    store.write([start], [records.end(start.id)])
    row = only(database, "interceptions")
    assert (row["credential_hint"], row["provider_name"]) == ("first", "anthropic-eu")


def test_ends_that_tell_much_and_little_come_in_one_write(
    store: AnyStore, database: Any, records: Any
) -> None:
    starts = [records.start(id=id, credential_hint="first", metadata={"a": 1}) for id in "xyz"]
    ends = [
        records.end("x", credential_hint="second"),
        records.end("nobody"),
        records.end("y", metadata={"stop_reason": "length"}),
        records.end("z", error_type="timeout", error_message="late"),
    ]
    assert list(store.write(starts, ends).records) == [1]
    rows = database.execute(
        "SELECT id, ended_at IS NOT NULL, credential_hint, metadata, error_type FROM interceptions"
        " ORDER BY id"
    ).fetchall()
    assert [(*row[:3], json.loads(row[3]), row[4]) for row in map(tuple, rows)] == [
        ("x", True, "second", {"a": 1}, None),
        ("y", True, "first", {"a": 1, "stop_reason": "length"}, None),
        ("z", True, "first", {"a": 1}, "timeout"),
    ]


def test_token_counts_of_other_kinds_are_merged_into_the_metadata(
    store: AnyStore, database: Any, records: Any
) -> None:
    usage = records.tokens(
        "i",
        cache_read_input_tokens=3,
        cache_write_input_tokens=4,
        extra_token_types={"audio": 7},
        metadata={"usage_complete": False},
    )
    store.write([], [usage])
    row = only(database, "token_usages")
    assert json.loads(row.pop("metadata")) == {"usage_complete": False, "audio": 7}
    assert row == {
        "interception_id": "i",
        "msg_id": "msg_1",
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_write_input_tokens": 4,
        "created_at": "2026-02-28T12:00:01.000000Z",
        "cost_nano_usd": None,
        "price": None,
        "price_table": None,
    }


def test_prompt_tool_and_thought_become_rows(store: AnyStore, database: Any, records: Any) -> None:
    tool = records.tool(
        "i",
        tool_call_id="toolu_1",
        item_id="item",
        server_url="https://mcp.example",
        injected=True,
        invocation_error="no",
        metadata={"t": 1},
    )
    thought = records.thought("i", metadata={"source": "thinking"})
    store.write([], [records.prompt("i"), tool, thought])
    time = "2026-02-28T12:00:01.000000Z"
    assert only(database, "user_prompts") == {
        "interception_id": "i",
        "msg_id": "msg_1",
        "prompt": "why?",
        "metadata": "{}",
        "created_at": time,
    }
    assert only(database, "tool_usages") == {
        "interception_id": "i",
        "msg_id": "msg_1",
        "tool_call_id": "toolu_1",
        "item_id": "item",
        "server_url": "https://mcp.example",
        "tool": "Bash",
        "input": '{"command":"ls"}',
        "injected": 1,
        "invocation_error": "no",
        "metadata": '{"t":1}',
        "created_at": time,
    }
    assert only(database, "model_thoughts") == {
        "interception_id": "i",
        "content": "because",
        "metadata": '{"source":"thinking"}',
        "created_at": time,
    }


def test_what_is_sent_twice_is_stored_once(store: AnyStore, database: Any, records: Any) -> None:
    start = records.start()
    batch = [
        records.tokens(start.id, record_id="1"),
        records.prompt(start.id, record_id="2"),
        records.tool(start.id, record_id="3"),
        records.tool(start.id, record_id="4"),
        records.thought(start.id, record_id="5"),
        records.end(start.id),
    ]
    for _ in range(2):
        assert store.write([start], batch) == store.write([start, start], [*batch, *batch])
    tables = ("interceptions", "token_usages", "user_prompts", "tool_usages", "model_thoughts")
    assert [count(database, table) for table in tables] == [1, 1, 1, 2, 1]


def test_the_same_number_in_another_interception_is_another_record(
    store: AnyStore, database: Any, records: Any
) -> None:
    store.write([], [records.tokens("i", record_id="1"), records.tokens("j", record_id="1")])
    assert count(database, "token_usages") == 2


def test_records_without_a_number_are_stored_as_often_as_sent(
    store: AnyStore, database: Any, records: Any
) -> None:
    store.write([], [records.tokens("i"), records.tokens("i")])
    assert count(database, "token_usages") == 2


def test_usage_of_an_unknown_interception_is_kept(
    store: AnyStore, database: Any, records: Any
) -> None:
    assert not store.write([], [records.tokens("nobody", record_id="1")]).records
    assert count(database, "token_usages") == 1


def test_the_end_of_an_unknown_interception_is_rejected_alone(
    store: AnyStore, database: Any, records: Any
) -> None:
    start = records.start()
    batch = [records.end("nobody"), records.tokens("nobody"), records.end(start.id)]
    written = store.write([start], batch)
    assert written.records == {0: 'unknown interception "nobody"'}
    assert only(database, "interceptions")["ended_at"] is not None
    assert count(database, "token_usages") == 1


BAD = [
    {"input_tokens": 2**63},
    {"input_tokens": None},
    {"created_at": math.inf},
    {"created_at": math.nan},
    {"created_at": 1e18},
    {"metadata": {"x": object()}},
    {"msg_id": object()},
]


@pytest.mark.parametrize("change", BAD, ids=lambda change: str(*change))
def test_a_bad_record_is_rejected_alone(
    store: AnyStore, database: Any, records: Any, change: dict[str, Any]
) -> None:
    start = records.start()
    good = records.tokens(start.id, record_id="1")
    bad = attrs.evolve(good, record_id="2", **change)
    last = records.thought(start.id, record_id="3")
    written = store.write([start], [good, bad, last, records.end(start.id)])
    assert list(written.records) == [1]
    assert written.records[1].startswith("invalid record: ")
    assert count(database, "token_usages") == 1
    assert count(database, "model_thoughts") == 1
    assert only(database, "interceptions")["ended_at"] is not None


def test_a_bad_interception_is_refused_alone(store: AnyStore, database: Any, records: Any) -> None:
    good, bad = records.start(), records.start(started_at=math.nan)
    written = store.write([bad, good], [])
    assert list(written.starts) == [0]
    assert only(database, "interceptions")["id"] == good.id


def test_half_of_a_character_does_not_cost_the_record(
    store: AnyStore, database: Any, records: Any
) -> None:
    start = records.start(model="m\ud83d", metadata={"x": "\udc00"})
    written = store.write([start], [records.prompt(start.id, prompt="so \ud83d said")])
    assert (written.starts, written.records) == ({}, {})
    row = only(database, "interceptions")
    assert row["model"] == "m\ufffd"
    assert json.loads(row["metadata"]) == {"x": "\udc00"}
    assert only(database, "user_prompts")["prompt"] == "so \ufffd said"


def test_interception_ids_are_uuids_in_the_order_of_time() -> None:
    ids = [new_interception_id(1_772_280_000 + n / 10_000) for n in range(200)]
    assert ids == sorted(ids)
    parsed = [uuid.UUID(text) for text in ids]
    assert {(one.version, one.variant) for one in parsed} == {(7, uuid.RFC_4122)}
    assert parsed[0].int >> 80 == 1_772_280_000_000
    assert len({new_interception_id(1.0) for _ in range(1000)}) == 1000
