"""Open the database that ``--local-db`` names, whichever kind it is."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Mapping
from types import ModuleType

from attrs import frozen

from aigateway.actors.control.local.address import LocalDatabaseError, is_postgresql, shown
from aigateway.actors.control.local.schema import (
    Database,
    open_database,
    read_database,
    version_of,
)

__all__ = [
    "DatabaseState",
    "database_errors",
    "open_address",
    "postgresql",
    "read_address",
    "rows_in",
    "state_of",
    "tables_of",
]


@frozen
class DatabaseState:
    """What is in a database."""

    version: int
    """Of its schema; 0 when there is none yet."""
    rows: Mapping[str, int]
    """How many each table has; empty when the schema is not that of this aigateway."""


def open_address(address: str, *, create: bool = True) -> Database:
    """Open for writing, with the schema brought up to date.  Raises LocalDatabaseError.

    ``create``: a file that is not there is made.
    """
    if is_postgresql(address):
        database: Database = postgresql(address).open_postgresql(address)
        return database
    return open_database(address, create=create)


def read_address(address: str) -> Database:
    """Open for reading only.  Raises LocalDatabaseError."""
    if is_postgresql(address):
        database: Database = postgresql(address).read_postgresql(address)
        return database
    return read_database(address)


def state_of(address: str) -> DatabaseState:
    """Look at a database as it is.  Raises LocalDatabaseError."""
    if is_postgresql(address):
        database: Database
        with postgresql(address).looking_at(address) as (database, version):
            return DatabaseState(version, rows_in(database) if version else {})
    connection, version = version_of(address)
    try:
        return DatabaseState(version, rows_in(connection) if version else {})
    except sqlite3.Error as ex:
        raise LocalDatabaseError(f"--local-db {address}: {ex}") from ex
    finally:
        connection.close()


_NOTES = (
    "'housekeeping', 'installation', 'gateway_workers', 'gateway_reports', 'console_looks',"
    " 'console_commands'"
)


def rows_in(database: Database) -> dict[str, int]:
    """How many rows each of our tables has."""
    counts = {}
    for table in tables_of(database):
        row = database.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        counts[table] = int(row[0])
    return counts


def tables_of(database: Database) -> list[str]:
    """The names of the tables that hold what is kept, sorted: not those of notes (of migrations,
    of housekeeping, of this installation, between gateways and consoles), and not what is made of
    other tables: the indexes of prompts and answers, sums of usage."""
    if isinstance(database, sqlite3.Connection):
        statement = (
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            " AND name NOT LIKE 'prompt_search%' AND name NOT LIKE 'answer_search%'"
            " AND name NOT LIKE 'usage_%'"
            f" AND name NOT IN ({_NOTES})"
        )
    else:
        statement = (
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
            " AND tablename NOT LIKE 'usage_%'"
            f" AND tablename NOT IN ('aigateway_migrations', {_NOTES})"
        )
    return sorted(name for (name,) in database.execute(statement).fetchall())


def database_errors() -> tuple[type[Exception], ...]:
    """What a connection raises that :func:`open_address` or :func:`read_address` gave."""
    psycopg = sys.modules.get("psycopg")
    return (sqlite3.Error,) if psycopg is None else (sqlite3.Error, psycopg.Error)


def postgresql(address: str | os.PathLike[str]) -> ModuleType:
    """The module that talks to PostgreSQL.  Raises LocalDatabaseError without the extra."""
    try:
        from aigateway.actors.control.local import postgres
    except ImportError as ex:
        raise LocalDatabaseError(
            f"--local-db {shown(address)}: PostgreSQL needs the extra postgres:"
            f" pip install 'aigateway[postgres]' ({ex})"
        ) from ex
    return postgres
