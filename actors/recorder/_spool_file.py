"""A spool as a file: its tables, how it is opened, transactions, size, and its end."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any

from attrs import define, frozen

from aigateway.actors.actor.sqlite import Connection, commit
from aigateway.actors.control.marks import Marks

__all__ = [
    "DiskState",
    "SpoolBusy",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolFile",
    "SpoolForeign",
    "SpoolStats",
    "folder_error",
    "open_spool",
    "reporting",
    "spool_error",
]

VERSION = 1
"""Of the tables below, in the file's ``user_version``."""
CHECKPOINT_PAGES = 4000
"""Size of the write-ahead log after which it is written back, which makes the disk sync."""
_LEAST_PAGES, _LOG_PART = 16, 16
"""On a small disk it is written back when it takes this part of the free room, not before so many
pages: the pages that it is written back to need room too."""

_TABLES = """
CREATE TABLE parcels (
    number INTEGER PRIMARY KEY,
    interception_id TEXT NOT NULL,
    made_at REAL NOT NULL,
    count INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE held (
    number INTEGER PRIMARY KEY,
    interception_id TEXT NOT NULL,
    made_at REAL NOT NULL,
    count INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX held_by_interception ON held (interception_id, number);
CREATE TABLE refusals (
    interception_id TEXT PRIMARY KEY,
    next_at REAL NOT NULL,
    since REAL NOT NULL,
    attempts INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    interception_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    made_at REAL NOT NULL,
    set_aside_at REAL NOT NULL,
    reason TEXT NOT NULL
);
-- Counted here, since counting a million rows takes seconds.
CREATE TABLE totals (depth INTEGER NOT NULL, dead_letters INTEGER NOT NULL);
INSERT INTO totals VALUES (0, 0);
"""
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LITTLE = 64 * 1024
"""Bytes free on a disk that count as none: less than one transaction may need."""


class DiskState(StrEnum):
    """How the disk with the state folder is; the names are those that an operator sees."""

    OK = "ok"
    SLOW = "slow"
    FULL = "full"
    READ_ONLY = "read-only"
    FAILING = "failing"


class SpoolError(Exception):
    """The spool cannot be opened, read or written; the text names the file and the way out."""

    def __init__(self, text: str, state: DiskState = DiskState.FAILING) -> None:
        super().__init__(text)
        self.state = state


class SpoolCorrupt(SpoolError):
    """The file is damaged; it must be set aside."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"the spool {path} is damaged: {reason}")
        self.path = path


class SpoolForeign(SpoolError):
    """The file is none of this version's."""


class SpoolBusy(SpoolError):
    """Somebody else has the file locked: a process that is ending, or a program that looks into
    it."""


def spool_error(path: Path, ex: sqlite3.Error) -> SpoolError:
    """The error of SQLite as one of ours."""
    code = getattr(ex, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _BROKEN:
        return SpoolCorrupt(path, ex)
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return SpoolBusy(f"the spool {path} is in use by another program: {ex}")
    state = _state(path, None if code is None else code & 0xFF)
    text = f"cannot use the spool {path}: {ex}; check --state-dir and its free space"
    return SpoolError(text, state)


def _state(path: Path, code: int | None) -> DiskState:
    """What is wrong with the disk: SQLite says "disk I/O error" or "unable to open" for much."""
    if code == sqlite3.SQLITE_FULL:
        return DiskState.FULL
    if code == sqlite3.SQLITE_READONLY:
        return DiskState.READ_ONLY
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return DiskState.FAILING
    if found.f_flag & os.ST_RDONLY:
        return DiskState.READ_ONLY
    return DiskState.FULL if found.f_bavail * found.f_frsize < _LITTLE else DiskState.FAILING


def folder_error(text: str, ex: OSError) -> SpoolError:
    """The error of the system as one of ours."""
    states = {
        errno.ENOSPC: DiskState.FULL,
        errno.EDQUOT: DiskState.FULL,
        errno.EROFS: DiskState.READ_ONLY,
    }
    return SpoolError(text, states.get(ex.errno or 0, DiskState.FAILING))


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as ex:
        raise spool_error(path, ex) from ex


def open_spool(path: Path) -> sqlite3.Connection:
    """Open or make a spool file, readable by its owner alone.

    Raises SpoolError, SpoolBusy, SpoolCorrupt and SpoolForeign.
    """
    try:
        # SQLite gives its files beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as ex:
        text = f"cannot open the spool {path}: {ex.strerror}; set --state-dir"
        raise folder_error(text, ex) from ex
    with reporting(path):
        # No waiting for a lock: the file is ours, and all greenlets would wait too.
        db = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False, factory=Connection
        )
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _log_pages(path: Path) -> int:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return CHECKPOINT_PAGES
    free = found.f_bavail * found.f_frsize // 4096
    return max(_LEAST_PAGES, min(CHECKPOINT_PAGES, free // _LOG_PART))


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    # Before anything is written, or it has no effect.
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    # A killed process loses nothing; a power cut may lose the last commits. A sync for each
    # batch would cost more than all the rest of a request.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_log_pages(path)}")
    db.execute("PRAGMA journal_size_limit = 4194304")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version or tables:
        raise SpoolForeign(
            f"the spool {path} was made by another version of the gateway (format {version}, this"
            f" one writes {VERSION}); let that version deliver it, or move it away"
        )
    db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")


VACUUM_STEP = 256
"""Pages given back to the file system in one step: some milliseconds."""
RESERVE = 96 * 1024
"""Bytes on the disk that are kept back for deleting what was delivered: a transaction that
deletes takes some ten pages of the log."""


@frozen
class SpoolStats:
    """What waits in a spool."""

    depth: int
    oldest: float | None
    """When the oldest waiting record was made (Unix seconds)."""
    dead_letters: int
    size: int
    """Bytes on disk that hold data."""
    state: DiskState = DiskState.OK
    refusing: bool = False
    """Whether new interceptions are refused, because of the disk or of the spool's limit."""


@define
class _Tally:
    """What a transaction adds to the totals."""

    records: int = 0
    dead: int = 0


class SpoolFile:
    """One spool file, held by its lock (``lock_fd``) until :meth:`close`.

    ``marks`` are those of an earlier owner in this process, who may still have records in the
    air; else they are read from the file beside it.  Each method raises SpoolError when the disk
    refuses, and SpoolCorrupt when the file is no longer a database; nothing has been changed
    then.
    """

    def __init__(self, path: Path, lock_fd: int, marks: Marks | None = None) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._reserve = path.with_suffix(".reserve")
        self.reserved = False
        """Whether there is room for deleting."""
        try:
            self._db = open_spool(path)
        except SpoolError as ex:
            if ex.state is not DiskState.FULL:
                raise
            # SQLite's own files beside it take a little too.
            self.release_reserve()
            self._db = open_spool(path)
        try:
            with reporting(path):
                self.depth: int
                self.dead_letters: int
                self.depth, self.dead_letters = self._db.execute(
                    "SELECT depth, dead_letters FROM totals"
                ).fetchone()
                self._page_size: int = self._scalar("PRAGMA page_size")
                highest = self._scalar(
                    "SELECT max(coalesce((SELECT max(number) FROM parcels), 0),"
                    " coalesce((SELECT max(number) FROM held), 0))"
                )
            self._file = os.stat(path).st_ino
        except BaseException:
            self._db.close()
            raise
        self.marks = marks or Marks(path.with_suffix(".marks"))
        marked = max(self.marks.parcels(), default=0)
        # Microseconds since 1970: a number is not used again, whatever was deleted.
        self._numbers = count(max(highest + 1, marked + 1, time.time_ns() // 1000))
        self.keep_reserve()

    def stats(self) -> SpoolStats:
        with reporting(self.path):
            first = [
                row[0]
                for table in ("parcels", "held")
                for row in self._db.execute(f"SELECT made_at FROM {table} ORDER BY number LIMIT 1")
            ]
        return SpoolStats(self.depth, min(first) if first else None, self.dead_letters, self.size())

    def size(self) -> int:
        """Bytes in use: the file without its free pages."""
        with reporting(self.path):
            pages = self._scalar("PRAGMA page_count") - self._scalar("PRAGMA freelist_count")
        return int(pages * self._page_size)

    def shrink(self) -> bool:
        """Give a part of the free pages back to the file system; False when there are few."""
        with reporting(self.path):
            if self._scalar("PRAGMA freelist_count") < 2 * VACUUM_STEP:
                return False
            self._db.execute(f"PRAGMA incremental_vacuum({VACUUM_STEP})").fetchall()
        return True

    def keep_reserve(self) -> None:
        """Keep room back on the disk, if there is any: then :attr:`reserved` is True."""
        with contextlib.suppress(OSError):
            file = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, RESERVE)
                self.reserved = True
            finally:
                os.close(file)

    def release_reserve(self) -> None:
        """Let this spool have the room that was kept back."""
        self.reserved = False
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def give_back(self) -> None:
        """Give free pages and the log back to the disk, as far as that is possible."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self._db.execute(f"PRAGMA incremental_vacuum({16 * VACUUM_STEP})").fetchall()
            wanted = self._scalar("PRAGMA page_count") * self._page_size
            grows = max(0, wanted - os.stat(self.path).st_size)
            disk = os.statvfs(self.path.parent)
            # With less room it would take what there is, and fail.
            if grows + RESERVE <= disk.f_bavail * disk.f_frsize:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def skip_to(self, number: int) -> None:
        """Give only higher numbers from now on."""
        self._numbers = count(max(number + 1, next(self._numbers)))

    def probe(self) -> None:
        """Write without changing anything."""
        with self._transaction():
            self._db.execute("UPDATE totals SET depth = depth")

    def is_there(self) -> bool:
        """Whether the file is still where it was made: nobody deleted or replaced it."""
        try:
            return os.stat(self.path).st_ino == self._file
        except OSError:
            return False

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; with ``remove`` delete it when nothing is left in it."""
        empty = self.depth == 0 and self.dead_letters == 0
        lock = self.close_database()
        try:
            gone = remove and empty and self.is_there()
            self.marks.close(remove=gone)
            if gone:
                self.release_reserve()
                for suffix in ("-wal", "-shm", ""):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        finally:
            os.close(lock)

    def close_database(self) -> int:
        """Let go of the database but not of the lock, which is returned."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        return self._lock_fd

    # -- for the subclass

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[_Tally]:
        db, tally = self._db, _Tally()
        try:
            db.execute("BEGIN IMMEDIATE")
            yield tally
            if tally.records or tally.dead:
                db.execute(
                    "UPDATE totals SET depth = depth + ?, dead_letters = dead_letters + ?",
                    (tally.records, tally.dead),
                )
            commit(db)
        except BaseException as ex:
            # Some errors SQLite has rolled back by itself.
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            if isinstance(ex, sqlite3.Error):
                raise spool_error(self.path, ex) from ex
            raise
        self.depth += tally.records
        self.dead_letters += tally.dead

    def _scalar(self, sql: str) -> Any:
        return self._db.execute(sql).fetchone()[0]
