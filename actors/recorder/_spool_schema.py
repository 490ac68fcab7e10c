"""A spool file's tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "SpoolCorrupt",
    "SpoolError",
    "SpoolForeign",
    "open_spool",
    "reporting",
    "spool_error",
]

VERSION = 1
"""Of the tables below, in the file's ``user_version``."""
CHECKPOINT_PAGES = 4000
"""Size of the write-ahead log after which it is written back, which makes the disk sync."""

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


class SpoolError(Exception):
    """The spool cannot be opened, read or written; the text names the file and the way out."""


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
    return SpoolError(f"cannot use the spool {path}: {ex}; check --state-dir and its free space")


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as ex:
        raise spool_error(path, ex) from ex


def open_spool(path: Path) -> sqlite3.Connection:
    """Open or make a spool file, readable by its owner alone.

    Raises SpoolError, SpoolCorrupt and SpoolForeign.
    """
    try:
        # SQLite gives its files beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as ex:
        raise SpoolError(f"cannot open the spool {path}: {ex.strerror}; set --state-dir") from ex
    with reporting(path):
        # No waiting for a lock: the file is ours, and all greenlets would wait too.
        db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    # Before anything is written, or it has no effect.
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    # A killed process loses nothing; a power cut may lose the last commits. A sync for each
    # batch would cost more than all the rest of a request.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
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
