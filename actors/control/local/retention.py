"""Forgetting what is old: content after some days, whole records after some more.

All of it goes in small steps, each a short transaction of its own, so that nobody waits for the
lock; and a SQLite file gives its space back bit by bit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from attrs import frozen

from aigateway.actors.control.local.content import forget_chains
from aigateway.actors.control.local.schema import Database, marks, transaction
from aigateway.actors.control.local.usage_rolling import forget_buckets
from aigateway.actors.values.records import INVALID_ARGUMENTS, timestamp

__all__ = [
    "KINDS",
    "Due",
    "Forgetting",
    "Kind",
    "Retention",
    "can_shrink",
    "due",
    "give_back",
]

Kind: TypeAlias = Literal["content", "records"]

KINDS: Final[tuple[Kind, ...]] = ("content", "records")
"""``content`` is what users and models said: prompts, thoughts, answers, what was sent, inputs of
tools, texts of errors;
``records`` is everything about a request."""

DAY: Final = 86_400.0

INTERCEPTIONS_AT_ONCE: Final = 30
"""Requests of one step: some milliseconds."""
PAGES_AT_ONCE: Final = 256
"""Pages that are given back to the file system in one step: the same."""

LATE: Final = 7 * DAY
"""Seconds for which a request without an end is kept longer: it may still be on its way."""

_CONTENT: Final = ("user_prompts", "model_thoughts", "model_answers", "cache_pending")
_CHAINS: Final = "content_turns"
"""Those of what was sent; with them parts go that no other request has sent."""
_RECORDS: Final = (
    "token_usages",
    "user_prompts",
    "tool_usages",
    "model_thoughts",
    "model_answers",
    "cache_turns",
    "cache_pending",
)


@frozen
class Retention:
    """After how many days each kind goes; None: never."""

    content: int | None = None
    records: int | None = None

    def days(self, kind: Kind) -> int | None:
        return self.content if kind == "content" else self.records


@frozen
class Due:
    """What would go now."""

    kind: Kind
    before: str
    """RFC 3339 in UTC: what began before then."""
    interceptions: int
    rows: int
    """Of all tables; of content those that would be deleted or emptied."""
    usage_sums: int
    """Hours and days whose sums of usage go as well, since they count these requests too.  What
    is left of such a time is read from the records, and summed up again."""


def due(connection: Database, retention: Retention, now: float) -> list[Due]:
    """Count what is to go, and change nothing.  ``now`` in Unix seconds."""
    found = []
    for kind in KINDS:
        days = retention.days(kind)
        if days is None:
            continue
        before = timestamp(now - days * DAY)
        where, values = _old(kind, before, now, days)
        counts = []
        for table in (*(_CONTENT if kind == "content" else _RECORDS), _CHAINS):
            counts.append(_count(connection, f"{table} r JOIN interceptions i ON"
                                 " i.id = r.interception_id", where, values))  # fmt: skip
        if kind == "content":
            tools = "tool_usages r JOIN interceptions i ON i.id = r.interception_id"
            counts.append(_count(connection, tools, f"{where} AND {_HAS_INPUT}", values))
            interceptions = _count(connection, "interceptions i", f"{where} AND {_HAS_CONTENT}",
                                   values)  # fmt: skip
        else:
            interceptions = _count(connection, "interceptions i", where, values)
            counts.append(interceptions)
        sums = _sums(connection, where, values) if kind == "records" else 0
        found.append(Due(kind, before, interceptions, sum(counts), sums))
    return found


_HAS_INPUT: Final = "(r.input <> '{}' OR r.invocation_error <> 'failed')"
_HAS_CONTENT: Final = f"""(
    i.error_message IS NOT NULL
    OR EXISTS (SELECT 1 FROM user_prompts r WHERE r.interception_id = i.id)
    OR EXISTS (SELECT 1 FROM model_thoughts r WHERE r.interception_id = i.id)
    OR EXISTS (SELECT 1 FROM model_answers r WHERE r.interception_id = i.id)
    OR EXISTS (SELECT 1 FROM content_turns r WHERE r.interception_id = i.id)
    OR EXISTS (SELECT 1 FROM tool_usages r WHERE r.interception_id = i.id AND {_HAS_INPUT})
)"""


def _count(connection: Database, tables: str, where: str, values: Sequence[str]) -> int:
    row = connection.execute(f"SELECT count(*) FROM {tables} WHERE {where}", values).fetchone()
    assert row is not None
    return int(row[0])


def _sums(connection: Database, where: str, values: Sequence[str]) -> int:
    """How many hours and days that are summed up have such requests."""
    buckets = " UNION ".join(
        f"SELECT substr(i.started_at, 1, {length}) FROM interceptions i WHERE {where}"
        for length in (10, 13)
    )
    return _count(connection, "usage_buckets", f"bucket IN ({buckets})", (*values, *values))


def _old(kind: Kind, before: str, now: float, days: int) -> tuple[str, list[str]]:
    """What must hold of an interception ``i`` that is to be forgotten."""
    if kind == "content":
        return "i.started_at < ?", [before]
    lost = timestamp(now - days * DAY - LATE)
    return "i.started_at < ? AND (i.ended_at IS NOT NULL OR i.started_at < ?)", [before, lost]


class Forgetting:
    """Goes through what is old, from the oldest on, a step at a time.

    Content that arrives later than others of its time is found by the next one that begins: it
    begins at the beginning.
    """

    def __init__(self, retention: Retention) -> None:
        self.retention = retention
        self.deleted: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        """Interceptions that were gone through."""
        self._after = ("", "")
        """Started and id of the last one whose content was forgotten."""

    def step(self, connection: Database, now: float) -> bool:
        """Forget a little; says whether there may be more.  Raises what the database raises; then
        nothing was changed."""
        for kind in reversed(KINDS):
            days = self.retention.days(kind)
            if days is None:
                continue
            if kind == "records":
                count = self._records(connection, now, days)
            else:
                count = self._content(connection, timestamp(now - days * DAY))
            if count:
                self.deleted[kind] += count
                return True
        return False

    def _records(self, connection: Database, now: float, days: int) -> int:
        before = timestamp(now - days * DAY)
        where, values = _old("records", before, now, days)
        with transaction(connection):
            found = connection.execute(
                f"SELECT i.id, i.started_at FROM interceptions i WHERE {where}"
                f" ORDER BY i.started_at LIMIT {INTERCEPTIONS_AT_ONCE}",
                values,
            ).fetchall()
            ids = [id for id, _started in found]
            if ids:
                # First: nothing is noted as changed of sums that are gone.
                forget_buckets(connection, [started for _id, started in found])
                forget_chains(connection, ids)
                for table in _RECORDS:
                    connection.execute(
                        f"DELETE FROM {table} WHERE interception_id IN ({marks(ids)})", ids
                    )
                connection.execute(f"DELETE FROM interceptions WHERE id IN ({marks(ids)})", ids)
            parts = connection.execute(
                "DELETE FROM session_parts WHERE id IN (SELECT id FROM session_parts"
                f" WHERE last_at < ? ORDER BY last_at LIMIT {INTERCEPTIONS_AT_ONCE})",
                (timestamp(now - days * DAY - LATE),),
            ).rowcount
        return len(ids) or parts

    def _content(self, connection: Database, before: str) -> int:
        with transaction(connection):
            found = connection.execute(
                "SELECT started_at, id FROM interceptions WHERE started_at < ?"
                " AND started_at >= ? AND (started_at > ? OR id > ?)"
                f" ORDER BY started_at, id LIMIT {INTERCEPTIONS_AT_ONCE}",
                (before, self._after[0], *self._after),
            ).fetchall()
            if not found:
                return 0
            ids = [id for _started, id in found]
            there = f"interception_id IN ({marks(ids)})"
            forget_chains(connection, ids)
            for table in _CONTENT:
                connection.execute(f"DELETE FROM {table} WHERE {there}", ids)
            connection.execute(
                "UPDATE tool_usages SET input = '{}', invocation_error ="
                " CASE WHEN invocation_error IS NULL THEN NULL ELSE 'failed' END"
                f" WHERE {there} AND (input <> '{{}}' OR invocation_error <> 'failed')",
                ids,
            )
            _forget_arguments(connection, there, ids)
            connection.execute(
                f"UPDATE cache_turns SET parts = NULL WHERE {there} AND parts IS NOT NULL", ids
            )
            connection.execute(
                "UPDATE interceptions SET error_message = NULL"
                f" WHERE id IN ({marks(ids)}) AND error_message IS NOT NULL",
                ids,
            )
        self._after = found[-1]
        return len(ids)


def _forget_arguments(connection: Database, there: str, ids: Sequence[str]) -> None:
    """Take arguments that are not JSON out of the metadata of tools."""
    found = connection.execute(
        f"SELECT DISTINCT metadata FROM tool_usages WHERE {there} AND metadata LIKE ?",
        (*ids, f'%"{INVALID_ARGUMENTS}"%'),
    ).fetchall()
    for (metadata,) in found:
        kept = {k: v for k, v in json.loads(metadata).items() if k != INVALID_ARGUMENTS}
        connection.execute(
            f"UPDATE tool_usages SET metadata = ? WHERE {there} AND metadata = ?",
            (json.dumps(kept, separators=(",", ":")), *ids, metadata),
        )


# -- space


def can_shrink(connection: Database) -> bool:
    """Whether the database gives space back as rows go: a file that an older version made does
    not, until it is rewritten once (``VACUUM`` after ``PRAGMA auto_vacuum = INCREMENTAL``)."""
    if not isinstance(connection, sqlite3.Connection):
        return True
    return bool(connection.execute("PRAGMA auto_vacuum").fetchone()[0])


def give_back(connection: Database) -> bool:
    """Give some free pages of a file back to the file system; says whether there are more."""
    if not isinstance(connection, sqlite3.Connection) or not can_shrink(connection):
        return False
    if connection.execute("PRAGMA freelist_count").fetchone()[0] < 2 * PAGES_AT_ONCE:
        return False
    connection.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()
    return True
