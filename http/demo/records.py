"""What the gateway recorded, read from its database."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Self

from attrs import field, frozen

from aigateway.actors.control.local.schema import read_database

__all__ = ["RecordReader", "Recorded", "RecordedCall", "Usage"]


@frozen
class Usage:
    """Tokens of an interception, added up."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


@frozen
class RecordedCall:
    """A tool call that was recorded."""

    tool: str
    input: str
    call_id: str


@frozen(kw_only=True)
class Recorded:
    """One interception with all that belongs to it."""

    id: str
    username: str
    client: str
    session_id: str | None
    answers: str | None = None
    """The tool call whose result the request brought."""
    provider: str
    model: str
    started_at: str
    ended_at: str | None
    error: str | None
    usage: Usage = Usage()
    prompts: tuple[str, ...] = ()
    tools: tuple[RecordedCall, ...] = ()
    thoughts: tuple[str, ...] = ()
    message_ids: frozenset[str] = field(factory=frozenset)


class RecordReader:
    """Reads interceptions from the embedded control plane's database, newest first.

    ``since`` leaves out what was started before that time.  Raises sqlite3.Error.
    """

    def __init__(self, database: Path, since: str = "") -> None:
        self._since = since
        self._connection = read_database(database)
        self._connection.row_factory = sqlite3.Row
        self._seen_version = -1

    def close(self) -> None:
        self._connection.close()

    def changed(self) -> bool:
        """Whether anything was written since the last call."""
        # Counts what other connections have committed.
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        seen, self._seen_version = self._seen_version, version
        return version != seen

    def newest(self, limit: int) -> list[Recorded]:
        """The newest ``limit`` interceptions."""
        rows = self._connection.execute(
            "SELECT * FROM interceptions WHERE started_at >= ?"
            " ORDER BY started_at DESC, id LIMIT ?",
            (self._since, limit),
        )
        return [self._complete(row) for row in rows.fetchall()]

    def get(self, interception_id: str) -> Recorded | None:
        """One interception, None when it is not recorded."""
        row = self._connection.execute(
            "SELECT * FROM interceptions WHERE id = ?", (interception_id,)
        ).fetchone()
        return None if row is None else self._complete(row)

    def count(self) -> int:
        """How many interceptions there are."""
        count: int = self._connection.execute(
            "SELECT count(*) FROM interceptions WHERE started_at >= ?", (self._since,)
        ).fetchone()[0]
        return count

    def _complete(self, row: sqlite3.Row) -> Recorded:
        tokens = self._of("token_usages", row["id"])
        tools = self._of("tool_usages", row["id"])
        prompts = self._of("user_prompts", row["id"])
        error = ": ".join(filter(None, (row["error_type"], row["error_message"])))
        columns = ("input", "output", "cache_read_input", "cache_write_input")
        return Recorded(
            id=row["id"],
            username=row["username"],
            client=row["client"],
            session_id=row["client_session_id"],
            answers=row["correlating_tool_call_id"],
            provider=row["provider_name"],
            model=row["model"],
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            error=error or None,
            usage=Usage(*(sum(record[f"{name}_tokens"] for record in tokens) for name in columns)),
            prompts=tuple(record["prompt"] for record in prompts),
            tools=tuple(
                RecordedCall(record["tool"], record["input"], record["tool_call_id"])
                for record in tools
            ),
            thoughts=tuple(record["content"] for record in self._of("model_thoughts", row["id"])),
            message_ids=frozenset(record["msg_id"] for record in (*tokens, *tools, *prompts)),
        )

    def _of(self, table: str, interception_id: str) -> list[sqlite3.Row]:
        query = f"SELECT * FROM {table} WHERE interception_id = ? ORDER BY created_at, rowid"
        return self._connection.execute(query, (interception_id,)).fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.close()
