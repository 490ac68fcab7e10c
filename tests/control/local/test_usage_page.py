"""The page for users says what is so."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from aigateway.actors.control.local.store import Store

PAGE = (Path(__file__).parents[3] / "docs" / "usage.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def filled(path: Path, records: Any, database: sqlite3.Connection) -> sqlite3.Connection:
    old = records.start(started_at=0.0, client_session_id="s")
    running = records.start(started_at=1.0)
    store = Store(path, 1)
    rest = [
        records.prompt(old.id),
        records.tokens(old.id, metadata={"usage_complete": False}),
        records.tool(old.id, invocation_error="no"),
        records.thought(old.id),
        records.end(old.id, error_type="timeout"),
        records.prompt(running.id),
    ]
    store.write([old, running], rest)
    store.close()
    return database


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_each_example_runs(filled: sqlite3.Connection, number: int) -> None:
    example = EXAMPLES[number]
    if example.startswith("SELECT"):
        filled.execute(example).fetchall()
    else:
        filled.executescript(example)


def test_examples_find_what_they_promise(filled: sqlite3.Connection) -> None:
    def rows(beginning: str) -> list[Any]:
        (example,) = [text for text in EXAMPLES if text.startswith(beginning)]
        return filled.execute(example).fetchall()

    assert rows("SELECT tool,") == [("Bash", 1, 1)]
    assert rows("SELECT substr") == [("1970-01", "ada", 10, 5)]
    assert [row[1:3] for row in rows("SELECT provider_name")] == [("timeout", 1)]
    assert len(rows("SELECT interception_id")) == 1


def test_every_column_is_described(database: sqlite3.Connection) -> None:
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
        if table.startswith(("prompt_search", "answer_search")):
            continue  # the full text search's own
        assert f"**`{table}`**" in PAGE
        for row in database.execute(f"PRAGMA table_info({table})"):
            assert f"`{row[1]}`" in PAGE
