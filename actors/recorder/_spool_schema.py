"""A spool file's tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

__all__ = [
    "DiskState",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolForeign",
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


def spool_error(path: Path, ex: sqlite3.Error) -> SpoolError:
    """The error of SQLite as one of ours."""
    code = getattr(ex, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _BROKEN:
        return SpoolCorrupt(path, ex)
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


_TRIES = 3
"""How often a file is opened that is busy.  It is ours, so it hardly ever is: SQLite was once seen
to refuse the commit that makes the tables, because of statements that had ended."""


def open_spool(path: Path) -> sqlite3.Connection:
    """Open or make a spool file, readable by its owner alone.

    Raises SpoolError, SpoolCorrupt and SpoolForeign.
    """
    try:
        # SQLite gives its files beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as ex:
        text = f"cannot open the spool {path}: {ex.strerror}; set --state-dir"
        raise folder_error(text, ex) from ex
    with reporting(path):
        for _ in range(_TRIES - 1):
            with contextlib.suppress(_Busy):
                return _opened(path)
        return _opened(path)


class _Busy(sqlite3.OperationalError):
    """The file, or SQLite itself, was busy with something else."""


def _opened(path: Path) -> sqlite3.Connection:
    """Raises _Busy, and whatever else SQLite has to say."""
    # No waiting for a lock: the file is ours, and all greenlets would wait too.
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except sqlite3.OperationalError as ex:
        db.close()
        if ex.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        busy = _Busy(*ex.args)
        busy.sqlite_errorcode = ex.sqlite_errorcode
        raise busy from ex
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
