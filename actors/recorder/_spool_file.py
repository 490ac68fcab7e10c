"""A spool as a file: transactions, totals, size, and its end."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from attrs import define, frozen

from aigateway.actors.control.marks import Marks
from aigateway.actors.recorder._spool_schema import (
    DiskState,
    SpoolError,
    open_spool,
    reporting,
    spool_error,
)

__all__ = ["SpoolFile", "SpoolStats"]

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
            db.execute("COMMIT")
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
