"""Take the records and keys of a SQLite file to PostgreSQL, all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from psycopg import sql

from aigateway.actors.control.local._rows import Row, without_nul, without_surrogates
from aigateway.actors.control.local.address import LocalDatabaseError
from aigateway.actors.control.local.opening import rows_in, tables_of
from aigateway.actors.control.local.postgres import PostgresDatabase

__all__ = ["copy_all"]

_ROWS_AT_ONCE = 1000


def copy_all(source: sqlite3.Connection, target: PostgresDatabase) -> dict[str, int]:
    """Copy all tables in one transaction, and say how many rows each has now.

    Both have the same schema.  Both are read as they are at one moment: what a gateway writes to
    ``source`` meanwhile is left behind.  NUL, which PostgreSQL cannot store, becomes U+FFFD.

    Raises LocalDatabaseError when ``target`` has rows already or the counts differ afterwards,
    sqlite3.Error and psycopg.Error; then nothing was copied.
    """
    source.execute("BEGIN")
    try:
        expected = rows_in(source)
        with target.transaction():
            tables = tables_of(target)
            # Gateways that are running wait with what they write.
            names = sql.SQL(", ").join(map(sql.Identifier, tables))
            target.connection.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(names))
            full = [f"{count} in {table}" for table, count in rows_in(target).items() if count]
            if full:
                raise LocalDatabaseError(
                    f"the target has rows already ({', '.join(full)}); copy into an empty database"
                )
            for table in expected:
                _copy(source, target, table)
            found = rows_in(target)
            wrong = [
                f"{table} {found.get(table, 0)} of {count}"
                for table, count in expected.items()
                if found.get(table, 0) != count
            ]
            if wrong:
                raise LocalDatabaseError(f"rows are missing after the copy: {', '.join(wrong)}")
        return found
    finally:
        source.execute("ROLLBACK")


def _copy(source: sqlite3.Connection, target: PostgresDatabase, table: str) -> None:
    columns = [row[1] for row in source.execute(f"PRAGMA table_info({table})")]
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with target.connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in _rows(source, table, columns):
            copy.write_row(row)


def _rows(source: sqlite3.Connection, table: str, columns: list[str]) -> Iterator[Row]:
    found = source.execute(f"SELECT {', '.join(columns)} FROM {table}")
    while rows := found.fetchmany(_ROWS_AT_ONCE):
        for row in rows:
            yield without_nul(without_surrogates(row))
