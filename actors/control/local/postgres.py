"""PostgreSQL as the embedded control plane's database: connections, a pool of them, the schema.

Needs the extra ``postgres``; code that may have to do without imports this module late.

A connection answers within :data:`ANSWER_PATIENCE` or is given up: a server that was frozen, or
cut off by a firewall, says nothing for ever.  psycopg waits for sockets as Python does, so under
gevent other greenlets go on, and it resolves names the same way.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict

from aigateway.actors.control.local.address import (
    LocalDatabaseAway,
    LocalDatabaseError,
    address_problem,
    shown,
)
from aigateway.actors.control.local.migrations import VERSION, Migration, bring_forward

__all__ = [
    "ANSWER_PATIENCE",
    "ConnectionPool",
    "PostgresDatabase",
    "looking_at",
    "one_line",
    "open_postgresql",
    "postgresql_version",
    "read_postgresql",
    "settle",
    "touch",
]

CONNECT_PATIENCE: Final = 5
"""Seconds for a connection to be made."""
ANSWER_PATIENCE: Final = 15.0
"""Seconds for the answer to one statement while the gateway serves."""
LOCK_PATIENCE: Final = 10
"""Seconds to wait for another gateway that brings the schema up to date."""

_MIGRATION_LOCK: Final = int.from_bytes(b"aigw", "big")
"""The number of the advisory lock, which is any number that all of us use."""

_NETWORK: Final = {
    "connect_timeout": CONNECT_PATIENCE,
    "application_name": "aigateway",
    "client_encoding": "UTF8",
    # A machine that is gone sends no farewell.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

_NOTES: Final = "aigateway_migrations"

# The borrower hears of it, and says it once instead of at each try.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


@functools.lru_cache(maxsize=256)
def _translated(statement: str) -> str:
    """The statement with psycopg's marks for values.  Ours have no question mark in a text."""
    return statement.replace("%", "%%").replace("?", "%s")


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """Gives a server up that does not answer; then the connection is closed."""

    answer_patience: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg waits, but not for ever."""
        if timeout is not None or self.answer_patience is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_patience)
        except psycopg.errors._WaitTimeout:
            self.close()
            raise psycopg.OperationalError(
                f"the server did not answer within {self.answer_patience:g} s"
            ) from None


class PostgresDatabase:
    """One connection, in autocommit mode, that takes SQL with ``?`` for values as SQLite's does.

    All its methods raise psycopg.Error.
    """

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.connection = connection

    def execute(
        self, statement: str, values: Sequence[Any] = ()
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run one statement; its rows are in the cursor that is returned."""
        # Without values psycopg leaves percent signs alone.
        if not values:
            return self.connection.execute(statement)
        return self.connection.execute(_translated(statement), values)

    def executemany(
        self, statement: str, rows: Iterable[Sequence[Any]]
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run one statement for each of ``rows``, sent together."""
        cursor = self.connection.cursor()
        cursor.executemany(_translated(statement), rows)
        return cursor

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction, or inside of one as a part that can be undone alone."""
        with self.connection.transaction():
            yield

    def close(self) -> None:
        self.connection.close()


class ConnectionPool:
    """A few connections that are made when they are needed and made again when they broke.

    To be made after the fork: it has threads.  The reason why none could be made is kept, since
    who waits for one is told only that there was none.
    """

    def __init__(self, address: str, size: int) -> None:
        pool = self
        self.trouble = ""

        class Pooled(_Connection):
            answer_patience = ANSWER_PATIENCE

            @classmethod
            def connect(cls, *args: Any, **options: Any) -> Self:
                try:
                    made = super().connect(*args, **options)
                except psycopg.Error as ex:
                    pool.trouble = one_line(ex)
                    raise
                pool.trouble = ""
                return made

        self._pool = psycopg_pool.ConnectionPool(
            address,
            connection_class=Pooled,
            kwargs=_options(address),
            check=_still_there,
            min_size=0,
            max_size=size,
            open=False,
            name="local-db",
            # It tries again by itself for so long, with longer and longer pauses between; then
            # the next to ask lets it begin again, with short ones.
            reconnect_timeout=2.0,
        )
        self._pool.open()

    @contextmanager
    def connection(self, patience: float) -> Iterator[PostgresDatabase]:
        """Lend a connection.  One that breaks meanwhile is not lent again.

        Raises psycopg.OperationalError when there is none within ``patience`` seconds.
        """
        try:
            lent = self._pool.getconn(patience)
        except psycopg_pool.PoolTimeout as ex:
            raise psycopg.OperationalError(
                self.trouble or f"no connection within {patience:g} s"
            ) from ex
        try:
            yield PostgresDatabase(lent)
        finally:
            self._pool.putconn(lent)

    def close(self) -> None:
        self._pool.close(timeout=1.0)


def open_postgresql(address: str) -> PostgresDatabase:
    """Connect, with the schema brought up to date.  Raises LocalDatabaseError."""
    database = _connected(address)
    try:
        with _named_errors(address):
            settle(database, address)
    except BaseException:
        database.close()
        raise
    return database


def read_postgresql(address: str) -> PostgresDatabase:
    """Connect for reading only, in one transaction.  Raises LocalDatabaseError."""
    database = _connected(address)
    try:
        with _named_errors(address):
            version = postgresql_version(database, address)
            # What sums up must see one moment.
            database.connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            database.connection.read_only = True
            database.connection.autocommit = False
        if version < VERSION:
            raise LocalDatabaseError(
                f"--local-db {shown(address)}: the database has version {version}, this"
                f" aigateway needs version {VERSION}; `aigateway db migrate` brings it there"
            )
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def looking_at(address: str) -> Iterator[tuple[PostgresDatabase, int]]:
    """Connect, whatever version of the schema there is, and say which.  The block's errors too
    are raised as LocalDatabaseError."""
    database = _connected(address)
    try:
        with _named_errors(address):
            yield database, postgresql_version(database, address)
    finally:
        database.close()


def settle(database: PostgresDatabase, address: str) -> None:
    """Bring the schema up to date, one gateway at a time.

    Raises LocalDatabaseError for a database that is newer or another program's, and psycopg.Error.
    """
    if postgresql_version(database, address) == VERSION:
        return
    # A step may take as long as the tables are large.
    with _unhurried(database), database.transaction():
        database.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}s'")
        database.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        # Another gateway may have done it while this one waited for the lock.
        version = postgresql_version(database, address)
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {_NOTES} ("
            "version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL,"
            " taken_at TIMESTAMPTZ NOT NULL DEFAULT now())"
        )

        def note(step: Migration) -> None:
            database.execute(
                f"INSERT INTO {_NOTES} (version, name) VALUES (?, ?)", (step.number, step.name)
            )

        bring_forward("postgresql", version, database.execute, note)


def postgresql_version(database: PostgresDatabase, address: str) -> int:
    """The version of the schema; 0 before there is any.

    Raises LocalDatabaseError for a database that is newer or another program's, and psycopg.Error.
    """
    # One look at the catalog's rows: to_regclass may not see yet what was committed a moment ago.
    found = database.execute(
        "SELECT relname FROM pg_catalog.pg_class WHERE relname IN (?, ?, ?) AND relnamespace ="
        " (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())",
        (_NOTES, "interceptions", "api_keys"),
    )
    tables = {name for (name,) in found.fetchall()}
    if _NOTES not in tables:
        if tables:
            raise LocalDatabaseError(
                f"--local-db {shown(address)}: this database has another program's tables;"
                " name one of its own for aigateway"
            )
        return 0
    (version,) = _one(database, f"SELECT coalesce(max(version), 0) FROM {_NOTES}")
    if version > VERSION:
        raise LocalDatabaseError(
            f"--local-db {shown(address)}: the database has version {version}, this aigateway"
            f" knows versions up to {VERSION}; use a newer aigateway or another database"
        )
    return int(version)


def touch(database: PostgresDatabase) -> None:
    """Write without changing anything.  Raises psycopg.Error when that does not work."""
    # A server that only reads refuses it though there is nothing to change.
    database.execute(f"UPDATE {_NOTES} SET name = name WHERE version = 0")


def one_line(ex: Exception) -> str:
    """What PostgreSQL or libpq says, in one line."""
    return " ".join(str(ex).split()) or type(ex).__name__


@contextmanager
def _unhurried(database: PostgresDatabase) -> Iterator[None]:
    connection = database.connection
    if not isinstance(connection, _Connection):
        yield
        return
    patience, connection.answer_patience = connection.answer_patience, None
    try:
        yield
    finally:
        connection.answer_patience = patience


def _one(database: PostgresDatabase, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    row = database.execute(statement, values).fetchone()
    assert row is not None
    return row


def _still_there(connection: psycopg.Connection[Any]) -> None:
    """Raise psycopg.OperationalError when the server has closed it, which costs no round trip."""
    connection.pgconn.consume_input()


def _options(address: str) -> dict[str, Any]:
    given = conninfo_to_dict(address)
    return {
        **{name: value for name, value in _NETWORK.items() if name not in given},
        "autocommit": True,
        # A pooler between us and the server may give each transaction another session, in which
        # a statement that was prepared before is not known.
        "prepare_threshold": None,
    }


def _connected(address: str) -> PostgresDatabase:
    problem = address_problem(address)
    if problem:
        raise LocalDatabaseError(f"--local-db: {problem}")
    with _named_errors(address):
        try:
            conninfo_to_dict(address)
        except psycopg.ProgrammingError as ex:
            # libpq repeats what it does not understand, which may be a part of the password.
            raise LocalDatabaseError(
                f"--local-db {shown(address)}: libpq cannot read this address"
            ) from ex
        return PostgresDatabase(_Connection.connect(address, **_options(address)))


@contextmanager
def _named_errors(address: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as ex:
        # What the server answers has a state, but for a connection that it refuses.
        kind = LocalDatabaseAway if isinstance(ex, psycopg.OperationalError) else LocalDatabaseError
        raise kind(f"--local-db {shown(address)}: {one_line(ex)}") from ex
