"""Summing usage up, a bucket after the other, in small steps beside gateways that go on writing.

Theory of operation.  A bucket, an hour or a day, goes through three states of its row in
``usage_buckets``:

1. *Watched*: the row is there and ``rolled`` is 0.  From now on triggers note each record of its
   time that comes, changes or goes, in ``usage_changes``.  On PostgreSQL a transaction that is
   under way may not have seen the row: nothing is read until all that were have ended.
2. The records are read, some hundred requests at once, each time in a transaction of its own.
3. *Rolled*: in one short transaction the sums are written, if nothing was noted since it was
   watched and nobody else has begun with it.  Else it is left as it is, and begun with again
   later.

A note that comes later makes the sums useless until the bucket was rolled again.  Who does it
may die at any point: the row's ``holder`` is another's from the moment when another begins.
Two may do it at once: the one who was not the last to begin gives up at the end.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable
from typing import Final

from attrs import define, field

from aigateway.actors.control.local.schema import Database, batches, marks, transaction
from aigateway.actors.control.local.usage_sums import (
    COLUMNS,
    COUNTS,
    Span,
    beginning,
    end_of,
    summed,
)
from aigateway.actors.values.records import timestamp

__all__ = ["SETTLED", "Rolling", "forget_buckets"]

SETTLED: Final = 600.0
"""Seconds after its end when a bucket is summed up: most of its requests have ended by then."""

AGAIN: Final = 60.0
"""Seconds between two looks for buckets that have changed: many records may be late."""

_REQUESTS_AT_ONCE: Final = 300
"""What is read in one step: some milliseconds."""

_ROWS_AT_ONCE: Final = 500


@define
class _Work:
    """A bucket in hand."""

    bucket: str
    since: str
    """Up to where it was read."""
    horizon: int | None
    """PostgreSQL's transactions before this one must have ended first."""
    sums: dict[tuple[str, ...], list[int]] = field(factory=dict)


class Rolling:
    """Sums up what can be, the newest first, a step at a time.

    ``kept_days``: after how many days records are deleted.  The day in which that happens just now
    is left alone, since each minute takes something of it.  ``again``: see :data:`AGAIN`.
    """

    def __init__(self, kept_days: int | None = None, again: float = AGAIN) -> None:
        self._kept_days, self._again = kept_days, again
        self._holder = uuid.uuid4().hex
        self._work: _Work | None = None
        self._changed: list[str] = []
        self._next_changes = 0.0
        self._looked_at: str | None = None
        """The hour in which all was looked through."""
        self._before: str | None = None
        """So far it was looked through: back to here."""

    def due(self, connection: Database, now: float) -> bool:
        """Whether there may be something to do.  ``now`` in Unix seconds."""
        if self._work is not None or self._looked_at != _hour(now - SETTLED):
            return True
        if self._changed or now < self._next_changes:
            return bool(self._changed)
        found = connection.execute("SELECT 1 FROM usage_changes LIMIT 1").fetchone()
        return found is not None

    def step(self, connection: Database, now: float) -> bool:
        """Do a little; says whether there may be more.  Raises what the database raises; the step
        can be done again."""
        if self._work is None:
            bucket = self._next(connection, now)
            if bucket is None:
                return False
            if bucket:
                self._work = self._watch(connection, bucket)
            return True
        work = self._work
        if work.horizon is not None:
            if not _passed(connection, work.horizon):
                return False
            work.horizon = None
        until = end_of(work.bucket)
        if work.since < until:
            self._read(connection, work, until)
            return True
        self._finish(connection, work)
        return True

    # -- what to do next

    def _next(self, connection: Database, now: float) -> str | None:
        """The next bucket; an empty text where one was looked at that needs nothing, None when
        there is none."""
        settled = now - SETTLED
        today, hour = _day(settled), _hour(settled)
        oldest = self._oldest(now)
        if not self._changed and now >= self._next_changes:
            rows = connection.execute(
                "SELECT bucket FROM usage_changes UNION"
                " SELECT bucket FROM usage_buckets WHERE rolled = 0 ORDER BY bucket"
            ).fetchall()
            self._changed = [bucket for (bucket,) in rows]
            self._next_changes = now + self._again
        if self._changed:
            bucket = self._changed.pop()
            if bucket >= oldest and _is_known(connection, bucket):
                return bucket
            with transaction(connection):
                _forget(connection, [bucket])
            return ""
        if self._looked_at == hour:
            return None
        if self._before is None:
            found = connection.execute(
                "SELECT bucket FROM usage_buckets WHERE bucket > ? AND bucket < ?", (today, hour)
            ).fetchall()
            done = {bucket for (bucket,) in found}
            # A clock that is ahead of ours may have had it as over.
            hours = 0 if _is_known(connection, today) else int(hour[-2:])
            for number in range(hours - 1, -1, -1):
                if (bucket := f"{today}T{number:02}") not in done and bucket >= oldest:
                    return bucket
            self._before = beginning(today)
        row = connection.execute(
            "SELECT started_at FROM interceptions WHERE started_at < ? AND started_at >= ?"
            " ORDER BY started_at DESC LIMIT 1",
            (self._before, beginning(oldest)),
        ).fetchone()
        if row is None:
            self._looked_at, self._before = hour, None
            return None
        bucket = str(row[0])[: len(today)]
        self._before = beginning(bucket)
        return "" if _is_known(connection, bucket) else bucket

    def _oldest(self, now: float) -> str:
        """The first day of which nothing is deleted yet."""
        if self._kept_days is None:
            return "0001-01-01"
        return _day(now - (self._kept_days - 1) * 86_400.0)

    # -- one bucket

    def _watch(self, connection: Database, bucket: str) -> _Work | None:
        with transaction(connection):
            # A day is never there beside its hours: the triggers rely on it.
            if "T" not in bucket:
                hours = connection.execute(
                    "SELECT bucket FROM usage_buckets WHERE bucket > ? AND bucket < ?",
                    (bucket, end_of(bucket)[: len(bucket)]),
                ).fetchall()
                if hours:
                    _forget(connection, [hour for (hour,) in hours])
            elif _is_known(connection, bucket[:10]):
                return None
            connection.execute(
                "INSERT INTO usage_buckets (bucket, rolled, holder) VALUES (?, 0, ?)"
                " ON CONFLICT (bucket) DO UPDATE SET rolled = 0, holder = excluded.holder",
                (bucket, self._holder),
            )
            connection.execute("DELETE FROM usage_changes WHERE bucket = ?", (bucket,))
        return _Work(bucket, beginning(bucket), _horizon(connection))

    def _read(self, connection: Database, work: _Work, until: str) -> None:
        row = connection.execute(
            "SELECT started_at FROM interceptions WHERE started_at > ? AND started_at < ?"
            f" ORDER BY started_at LIMIT 1 OFFSET {_REQUESTS_AT_ONCE}",
            (work.since, until),
        ).fetchone()
        upto = until if row is None else str(row[0])
        columns = list(COLUMNS)
        found = summed(connection, columns, Span(work.since, upto), records_only=True)
        for each in found:
            key, counts = tuple(each[: len(columns)]), each[len(columns) :]
            sums = work.sums.setdefault(key, [0] * len(COUNTS))
            for place, count in enumerate(counts):
                sums[place] += count
        work.since = upto

    def _finish(self, connection: Database, work: _Work) -> None:
        bucket = work.bucket
        with transaction(connection):
            # First, so that nobody else begins with it meanwhile.
            mine = connection.execute(
                "UPDATE usage_buckets SET rolled = 1 WHERE bucket = ? AND holder = ?",
                (bucket, self._holder),
            ).rowcount
            changed = connection.execute(
                "SELECT 1 FROM usage_changes WHERE bucket = ? LIMIT 1", (bucket,)
            ).fetchone()
            if mine and changed is None:
                connection.execute("DELETE FROM usage_sums WHERE bucket = ?", (bucket,))
                _insert(connection, bucket, work.sums)
            elif mine:
                connection.execute(
                    "UPDATE usage_buckets SET rolled = 0 WHERE bucket = ?", (bucket,)
                )
        self._work = None


def forget_buckets(connection: Database, moments: Iterable[str]) -> None:
    """Delete the sums of the hours and days in which these times are (as in the records), within
    the caller's transaction.  The records of these times are looked at instead."""
    buckets = {moment[:length] for moment in moments for length in (10, 13)}
    if buckets:
        _forget(connection, sorted(buckets))


def _forget(connection: Database, buckets: list[str]) -> None:
    for table in ("usage_buckets", "usage_sums", "usage_changes"):
        connection.execute(f"DELETE FROM {table} WHERE bucket IN ({marks(buckets)})", buckets)


def _insert(connection: Database, bucket: str, sums: dict[tuple[str, ...], list[int]]) -> None:
    columns = ("bucket", *COLUMNS, *COUNTS)
    rows = [(bucket, *key, *counts) for key, counts in sums.items()]
    statement = f"INSERT INTO usage_sums ({', '.join(columns)}) VALUES ({marks(columns)})"
    for some in batches(rows, _ROWS_AT_ONCE):
        connection.executemany(statement, some)


def _is_known(connection: Database, bucket: str) -> bool:
    found = connection.execute("SELECT 1 FROM usage_buckets WHERE bucket = ?", (bucket,))
    return found.fetchone() is not None


def _horizon(connection: Database) -> int | None:
    """PostgreSQL: the transaction before which all others may not see what was committed just
    now."""
    if isinstance(connection, sqlite3.Connection):
        return None
    return _number(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")


def _passed(connection: Database, horizon: int) -> bool:
    return _number(connection, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text") >= horizon


def _number(connection: Database, statement: str) -> int:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


def _hour(seconds: float) -> str:
    return timestamp(seconds)[:13]


def _day(seconds: float) -> str:
    return timestamp(seconds)[:10]
