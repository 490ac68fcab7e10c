"""The embedded control plane's database in a file: how it is opened and brought up to date.

The table and column names (:mod:`.migrations`) are public: users query them.  ``record_id`` is
ours, it lets a record that is sent twice be stored once.

Several worker processes share the file.  It is in WAL mode, where readers never wait for
a writer, and it is synced at checkpoints only: a killed process loses nothing that was
committed, a power cut may lose the last commits but never damages the file.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from aigateway.actors.actor.sqlite import Connection, commit
from aigateway.actors.control.local.address import LocalDatabaseError
from aigateway.actors.control.local.migrations import VERSION, bring_forward

if TYPE_CHECKING:
    from aigateway.actors.control.local.postgres import PostgresDatabase

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "Database",
    "LocalDatabaseError",
    "batches",
    "is_busy",
    "like",
    "marks",
    "may_pass",
    "moment_of",
    "open_database",
    "read_database",
    "touch",
    "transaction",
    "version_of",
]

APPLICATION_ID = int.from_bytes(b"aigw", "big")
"""``PRAGMA application_id``: tells our files from any other SQLite database."""

OPENING_PATIENCE = 5.0
"""Seconds to wait for a lock while a database is opened or managed (not while it serves)."""

CACHE_KIB = 8192
"""SQLite's page cache per connection.  Its default of 2 MiB is too small for the index pages
of a database with millions of records."""

WAL_BYTES_KEPT = 64 * 1024 * 1024
"""What the WAL file is cut back to after a long reader made it grow."""


T = TypeVar("T")

Database: TypeAlias = "sqlite3.Connection | PostgresDatabase"
"""A connection to either kind of database.  Both execute the same SQL with ``?`` for values."""


def marks(values: Sized) -> str:
    """A mark for each of ``values``, as between the parentheses of ``IN (…)``."""
    return ", ".join("?" * len(values))


def batches(values: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """The values in their order, at most so many at a time, as for one statement each."""
    for first in range(0, len(values), most):
        yield values[first : first + most]


def like(text: str) -> str:
    """A text that stands for itself in a pattern of ``LIKE ... ESCAPE '!'``."""
    return text.translate(_PATTERNS)


_PATTERNS = str.maketrans({"!": "!!", "%": "!%", "_": "!_"})


def moment_of(text: str) -> float:
    """Unix seconds of what :func:`~aigateway.actors.values.records.timestamp` wrote.

    Raises ValueError.
    """
    return datetime.fromisoformat(text).timestamp()


def open_database(
    path: str | os.PathLike[str], *, create: bool = True, patience: float = OPENING_PATIENCE
) -> sqlite3.Connection:
    """Open the database for reading and writing, with its schema brought up to date.

    A new file is readable by its owner only: it holds prompts.  Waits up to ``patience``
    seconds for other processes that bring it up to date.  The connection is in autocommit
    mode.  Raises :class:`LocalDatabaseError`.
    """
    file = Path(path)
    with _named_errors(file):
        if create:
            _create_private(file)
        elif not file.exists():
            raise LocalDatabaseError(f"--local-db {file}: there is no such file")
        connection = _connect(file, "rw", patience)
        try:
            _settle(connection, file, patience)
        except BaseException:
            connection.close()
            raise
    return connection


def read_database(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """Open an existing database for reading only.  Raises :class:`LocalDatabaseError`."""
    connection, version = version_of(path)
    if version == VERSION:
        return connection
    connection.close()
    if version == 0:
        raise LocalDatabaseError(
            f"--local-db {path}: the file is empty; `aigateway keys create` prepares it"
        )
    raise LocalDatabaseError(
        f"--local-db {path}: the database has version {version}, this aigateway needs version"
        f" {VERSION}; `aigateway db migrate` brings it there"
    )


def version_of(path: str | os.PathLike[str]) -> tuple[sqlite3.Connection, int]:
    """Open for reading whatever version of the schema there is, and say which.

    Raises :class:`LocalDatabaseError`.
    """
    file = Path(path)
    with _named_errors(file):
        if not file.exists():
            raise LocalDatabaseError(f"--local-db {file}: there is no such file")
        connection = _connect(file, "ro", OPENING_PATIENCE)
        try:
            return connection, _version(connection, file)
        except BaseException:
            connection.close()
            raise


@contextmanager
def transaction(connection: Database) -> Iterator[None]:
    """Run a block as one writing transaction; an exception undoes it."""
    if not isinstance(connection, sqlite3.Connection):
        with connection.transaction():
            yield
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        commit(connection)
    except BaseException:
        # Disk full and the like have rolled back already, and say so if asked again.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def touch(connection: sqlite3.Connection) -> None:
    """Write without changing anything.  Raises sqlite3.Error when that does not work."""
    # An empty transaction would not do: SQLite begins it on a read-only file too.
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")


def _connect(file: Path, mode: str, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=patience,
        check_same_thread=False,
        factory=Connection,
    )


def _create_private(file: Path) -> None:
    # Before SQLite does: it would create the file readable by all, and WAL follows suit.  A file
    # that is there is not opened: closing any descriptor of it drops the locks of this process'
    # other connections.  Then another process takes itself for the last one, and deletes the
    # log into which they go on writing.
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(file, os.R_OK | os.W_OK, effective_ids=True):
        read_only = os.statvfs(file).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code))


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as ex:
        raise LocalDatabaseError(
            f"--local-db {file}: {_reason(ex)}; give a file in a folder that the gateway may write"
        ) from ex
    except sqlite3.Error as ex:
        raise LocalDatabaseError(f"--local-db {file}: {ex}") from ex


def _reason(ex: OSError) -> str:
    return (ex.strerror or str(ex)).lower()


def _settle(connection: sqlite3.Connection, file: Path, patience: float) -> None:
    version = _version(connection, file)
    if version == 0:
        # Only an empty file takes it: then what is deleted makes it smaller.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _enter_wal(connection, patience)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    if version < VERSION:
        _migrate(connection, file)
    else:
        _check_writable(connection, patience)


def _migrate(connection: sqlite3.Connection, file: Path) -> None:
    with transaction(connection):
        # Another process may have done it while this one waited for the lock.
        version = _version(connection, file)
        bring_forward(
            "sqlite",
            version,
            connection.execute,
            lambda step: connection.execute(f"PRAGMA user_version = {step.number}"),
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _check_writable(connection: sqlite3.Connection, patience: float) -> None:
    # The holder of the lock proves that the file can be written: no need to wait.
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        touch(connection)
    except sqlite3.OperationalError as ex:
        if not is_busy(ex):
            raise
    connection.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")


def _enter_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to WAL, which SQLite refuses without waiting while another process does it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as ex:
            if not is_busy(ex) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def may_pass(ex: LocalDatabaseError) -> bool:
    """Whether it is about the disk, or somebody's lock, and not about what the file is."""
    cause = ex.__cause__
    if isinstance(cause, OSError):
        return cause.errno in _PASSING
    return isinstance(cause, sqlite3.OperationalError)


_PASSING = frozenset(
    {errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EROFS}
)


def is_busy(ex: sqlite3.Error) -> bool:
    """Whether another connection's lock was in the way, and nothing else."""
    # The low byte of an extended code is the plain code.
    code = getattr(ex, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _version(connection: sqlite3.Connection, file: Path) -> int:
    # One statement: between two of them another process may have made the schema.
    version: int
    version, application, tables = connection.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application != APPLICATION_ID and (tables or version or application):
        raise LocalDatabaseError(
            f"--local-db {file}: this is another program's database; name another file"
        )
    if version > VERSION:
        raise LocalDatabaseError(
            f"--local-db {file}: the database has version {version}, this aigateway knows"
            f" versions up to {VERSION}; use a newer aigateway or another file"
        )
    return version
