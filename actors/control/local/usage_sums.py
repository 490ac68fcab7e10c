"""Sums of usage over any time: from what was summed up before, where it still holds, and from the
records of all other times.

The housekeeper sums up each hour of the day, and each day that is over (:mod:`.usage_rolling`).
Such a *bucket* counts only while no record of its time has come, changed or gone since it was
summed up: triggers note in ``usage_changes`` what does.  So the sums are always those of the
records, no matter who writes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import frozen

from aigateway.actors.control.local.schema import Database, marks
from aigateway.actors.values.records import timestamp

__all__ = ["COLUMNS", "COUNTS", "Cover", "Span", "beginning", "cover", "end_of", "summed"]

COLUMNS: Final[Mapping[str, str]] = {
    "username": "username",
    "group_names": "group_names",
    "project": "project",
    "api_key_id": "api_key_id",
    "provider_name": "provider_name",
    "model": "model",
    "client": "client",
    "repository": "coalesce(repository, '')",
    "branch": "coalesce(branch, '')",
}
"""The names that sums are kept for, and the SQL for them in ``interceptions``."""

COUNTS: Final = (
    "interceptions",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read",
    "cache_write",
    "prompts",
    "tool_calls",
    "cost",
    "priced",
    "unpriced",
    "unpriced_tokens",
)
"""What is summed up, as the columns of ``usage_sums``."""

_DAY: Final = len("2026-03-01")
_HOUR: Final = len("2026-03-01T12")

_MOST_SPANS: Final = 100
"""Times between buckets that one query looks at; where there are more, the records of all the time
are faster, and SQLite takes at most a thousand terms in a condition."""


@frozen
class Span:
    """A time from ``since`` on and before ``until``, as in the records; None: without an end."""

    since: str | None = None
    until: str | None = None


@frozen
class Cover:
    """What a time is summed up from: all of these together, and nothing twice."""

    buckets: Sequence[str]
    spans: Sequence[Span]
    """Of which the records are looked at."""


def beginning(bucket: str) -> str:
    """When a bucket begins, as in the records."""
    return f"{bucket}:00:00.000000Z" if len(bucket) == _HOUR else f"{bucket}T00:00:00.000000Z"


def end_of(bucket: str) -> str:
    """When the next bucket begins, as in the records."""
    hours = 1 if len(bucket) == _HOUR else 24
    begins = datetime.fromisoformat(f"{bucket}:00" if hours == 1 else bucket).replace(tzinfo=UTC)
    return timestamp((begins + timedelta(hours=hours)).timestamp())


def cover(connection: Database, span: Span) -> Cover:
    """What to sum up a time from: the largest buckets within it that hold."""
    rows = connection.execute(
        "SELECT bucket FROM usage_buckets WHERE rolled = 1"
        " AND bucket NOT IN (SELECT bucket FROM usage_changes)"
    ).fetchall()
    good = [bucket for (bucket,) in rows if _within(bucket, span)]
    days = {bucket for bucket in good if len(bucket) == _DAY}
    buckets = sorted(bucket for bucket in good if bucket in days or bucket[:_DAY] not in days)
    spans: list[Span] = []
    since = span.since
    for bucket in buckets:
        begins = beginning(bucket)
        if since is None or since < begins:
            spans.append(Span(since, begins))
        since = end_of(bucket)
    if since is None or span.until is None or since < span.until:
        spans.append(Span(since, span.until))
    if len(spans) > _MOST_SPANS:
        return Cover((), (span,))
    return Cover(buckets, spans)


def _within(bucket: str, span: Span) -> bool:
    return (span.since is None or span.since <= beginning(bucket)) and (
        span.until is None or end_of(bucket) <= span.until
    )


def summed(
    connection: Database,
    by: Sequence[str],
    span: Span,
    only: Mapping[str, str] | None = None,
    *,
    records_only: bool = False,
    owner: str | None = None,
) -> list[tuple[Any, ...]]:
    """The sums of :data:`COUNTS` behind the values of ``by``, which are names of :data:`COLUMNS` or
    ``day``; without any, one row of sums, or none where there was nothing.

    ``only`` are values that columns must have, ``records_only`` looks at no bucket.  ``owner``
    is the id of the user whose requests these must be, which no bucket knows.  Raises what the
    database raises.
    """
    with _one_moment(connection):
        from_records = records_only or owner is not None
        parts = Cover((), (span,)) if from_records else cover(connection, span)
        statement, values = _statement(by, parts, only or {}, owner)
        return connection.execute(statement, values).fetchall()


def _statement(
    by: Sequence[str], parts: Cover, only: Mapping[str, str], owner: str | None
) -> tuple[str, Sequence[str]]:
    """The tables are put below each other, not joined with each other: a join of several would
    count every row as often as the others have rows."""
    # The names come from COLUMNS, never from a user.
    within = "".join(f" AND {COLUMNS[column]} = ?" for column in only)
    whose, owners = ("", []) if owner is None else (" AND initiator_id = ?", [owner])
    names = ", ".join(by) or "everything"
    values: list[str] = []
    chosen, sources = "", []
    if parts.spans:
        told = {**COLUMNS, "day": f"substr(started_at, 1, {_DAY})"}
        terms = []
        for span in parts.spans:
            bounds = [("started_at >= ?", span.since), ("started_at < ?", span.until)]
            terms.append(" AND ".join(sql for sql, bound in bounds if bound is not None) or "1 = 1")
            values += [bound for _sql, bound in bounds if bound is not None]
        chosen = (
            f"WITH chosen AS (SELECT id, error_type, {_named(by, told)} FROM interceptions"
            f" WHERE ({' OR '.join(terms)}){within}{whose})"
        )
        values += [*only.values(), *owners]
        sources.append(_FROM_RECORDS.format(names=names))
    if parts.buckets:
        told = {column: column for column in COLUMNS} | {"day": f"substr(bucket, 1, {_DAY})"}
        sources.append(
            f"SELECT {_named(by, told)}, {', '.join(COUNTS)} FROM usage_sums"
            f" WHERE bucket IN ({marks(parts.buckets)}){within}"
        )
        values += [*parts.buckets, *only.values()]
    if not sources:
        return "SELECT 1 WHERE 1 = 0", ()
    # PostgreSQL adds whole numbers up to a numeric, which is no int in Python.
    sums = ", ".join(f"CAST(sum({count}) AS BIGINT)" for count in COUNTS)
    shown = f"{names}, {sums}" if by else sums
    union = " UNION ALL ".join(sources)
    return f"{chosen} SELECT {shown} FROM ({union}) AS spent GROUP BY {names}", values


def _named(by: Sequence[str], told: Mapping[str, str]) -> str:
    """The columns that are summed up by, from the SQL that tells each."""
    return ", ".join(f"{told[name]} AS {name}" for name in by) or "CAST('' AS TEXT) AS everything"


_FROM_RECORDS: Final = """
    SELECT {names}, 0 AS interceptions, 0 AS errors,
           input_tokens, output_tokens,
           cache_read_input_tokens AS cache_read, cache_write_input_tokens AS cache_write,
           0 AS prompts, 0 AS tool_calls,
           coalesce(cost_nano_usd, 0) AS cost,
           CASE WHEN cost_nano_usd IS NULL THEN 0 ELSE 1 END AS priced,
           CASE WHEN cost_nano_usd IS NULL THEN 1 ELSE 0 END AS unpriced,
           CASE WHEN cost_nano_usd IS NULL THEN input_tokens + output_tokens
               + cache_read_input_tokens + cache_write_input_tokens ELSE 0 END AS unpriced_tokens
    FROM chosen JOIN token_usages ON interception_id = id
    UNION ALL
    SELECT {names}, 1, CASE WHEN error_type IS NULL THEN 0 ELSE 1 END,
           0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    FROM chosen
    UNION ALL
    SELECT {names}, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0
    FROM chosen JOIN user_prompts ON interception_id = id
    UNION ALL
    SELECT {names}, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0
    FROM chosen JOIN tool_usages ON interception_id = id
"""


@contextmanager
def _one_moment(connection: Database) -> Iterator[None]:
    """Have all that is read in the block be of one moment."""
    if isinstance(connection, sqlite3.Connection):
        if connection.in_transaction:
            yield
            return
        connection.execute("BEGIN")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
        return
    # A connection for reading only is in such a transaction already.
    if not connection.connection.autocommit:
        yield
        return
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield
