"""The durable spool: records wait here, on disk, until the control plane has them.

One SQLite file per gateway worker (WAL, so that a killed process loses nothing that was
committed).  A file belongs to whoever holds the lock on it (``flock``, which the kernel
drops when the process dies), so a worker that replaces a killed one takes up its file, and
any worker may adopt a file that nobody holds.

Not thread safe: the recorder actor alone touches it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from attrs import frozen

from aigateway.actors.coderd.messages import Spooled
from aigateway.actors.recorder.records import (
    InterceptionEnded,
    ModelThought,
    PromptUsage,
    TokenUsage,
    ToolUsage,
    UsageRecord,
)

__all__ = ["DeadLetter", "Spool", "SpoolError", "SpoolStats", "claim_spool"]

Kept = UsageRecord | InterceptionEnded

_KINDS: dict[type, str] = {
    TokenUsage: "token",
    PromptUsage: "prompt",
    ToolUsage: "tool",
    ModelThought: "thought",
    InterceptionEnded: "ended",
}
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(cls) for cls, kind in _KINDS.items()
}
_encode = msgspec.msgpack.Encoder().encode

# next_at is 0 for a record that was never refused; only refused ones are in the index.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    interception_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    next_at REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS records_refused ON records (next_at) WHERE next_at > 0;
CREATE TABLE IF NOT EXISTS dead_letters (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    interception_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    created_at REAL NOT NULL,
    set_aside_at REAL NOT NULL,
    reason TEXT NOT NULL
);
"""

_SELECT = "SELECT seq, kind, payload FROM records"


class SpoolError(Exception):
    """The spool cannot be opened or written; the text names the file and the way out."""


@frozen
class SpoolStats:
    """What waits in a spool."""

    depth: int
    oldest: float | None
    """When the oldest waiting record was made (Unix seconds)."""
    dead_letters: int
    size: int
    """Bytes on disk that hold data."""


@frozen
class DeadLetter:
    """A record that was set aside, and why."""

    seq: int
    interception_id: str
    kind: str
    attempts: int
    created_at: float
    set_aside_at: float
    reason: str


class Spool:
    """One spool file, held by its lock until :meth:`close`."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing; a power cut may lose the last commits. A sync
            # for each batch would cost more than all the rest of a request.
            self._db.execute("PRAGMA synchronous=NORMAL")
            # Freed pages return to the file system in small steps, so that the size after
            # an outage tells how much is waiting, not how much once was.
            self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as ex:
            os.close(lock_fd)
            raise SpoolError(
                f"cannot open the spool {path}: {ex}; check --state-dir and its free space"
            ) from ex
        self.depth: int = self._scalar("SELECT count(*) FROM records")
        self.dead_letters: int = self._scalar("SELECT count(*) FROM dead_letters")

    # -- writing

    def write(self, new: Sequence[Kept], done: Sequence[int]) -> list[Spooled]:
        """Add records and delete delivered ones, in one transaction.

        Returns the new ones with their places.  Raises SpoolError when the disk refuses.
        """
        spooled = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                insert = self._db.execute
                for record in new:
                    row = insert(
                        "INSERT INTO records (interception_id, kind, payload, created_at)"
                        " VALUES (?, ?, ?, ?)",
                        _row(record),
                    )
                    spooled.append(Spooled(row.lastrowid or 0, record))
                if done:
                    self._db.executemany("DELETE FROM records WHERE seq = ?", _params(done))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as ex:
            raise SpoolError(f"cannot write the spool {self.path}: {ex}") from ex
        self.depth += len(spooled) - len(done)
        return spooled

    def postpone(self, refused: Sequence[tuple[int, str, str]], next_at: float) -> None:
        """Note a failed attempt for each (seq, interception id, reason).

        All records of the same interceptions wait until ``next_at`` too: they keep their order.
        """
        with self._transaction():
            for seq, interception_id, reason in refused:
                self._db.execute(
                    "UPDATE records SET attempts = attempts + 1, reason = ? WHERE seq = ?",
                    (reason, seq),
                )
                self._db.execute(
                    "UPDATE records SET next_at = ? WHERE interception_id = ?",
                    (next_at, interception_id),
                )

    def hold(self, seqs: Iterable[int], next_at: float) -> None:
        """Let these wait until ``next_at`` without counting an attempt."""
        with self._transaction():
            self._db.executemany(
                "UPDATE records SET next_at = ? WHERE seq = ?", [(next_at, seq) for seq in seqs]
            )

    def set_aside(self, refused: Sequence[tuple[int, str]], now: float) -> None:
        """Move each (seq, reason) to the dead letters."""
        with self._transaction():
            for seq, reason in refused:
                moved = self._db.execute(
                    "INSERT INTO dead_letters (interception_id, kind, payload, attempts,"
                    " created_at, set_aside_at, reason) SELECT interception_id, kind, payload,"
                    " attempts + 1, created_at, ?, ? FROM records WHERE seq = ?",
                    (now, reason, seq),
                ).rowcount
                self._db.execute("DELETE FROM records WHERE seq = ?", (seq,))
                self.depth -= moved
                self.dead_letters += moved

    def revive(self) -> int:
        """Put all dead letters back at the end of the spool; return how many."""
        with self._transaction():
            count = self._db.execute(
                "INSERT INTO records (interception_id, kind, payload, created_at)"
                " SELECT interception_id, kind, payload, created_at FROM dead_letters ORDER BY seq"
            ).rowcount
            self._db.execute("DELETE FROM dead_letters")
        self.depth += count
        self.dead_letters = 0
        return count

    def adopt(self, other: Spool) -> int:
        """Take over everything of another spool (whose lock is held); return how many records.

        A crash in the middle may leave records in both files: they are then sent twice, and
        carry the same record id both times.
        """
        names = "interception_id, kind, payload, attempts, created_at"
        count = self._move(other, "records", names)
        dead = self._move(other, "dead_letters", f"{names}, set_aside_at, reason")
        self.depth += count
        self.dead_letters += dead
        other.depth = other.dead_letters = 0
        return count

    def _move(self, other: Spool, table: str, names: str) -> int:
        marks = ", ".join("?" * len(names.split(",")))
        total = 0
        while rows := other._db.execute(
            f"SELECT seq, {names} FROM {table} ORDER BY seq LIMIT 500"
        ).fetchall():
            with self._transaction():
                self._db.executemany(
                    f"INSERT INTO {table} ({names}) VALUES ({marks})",
                    [row[1:] for row in rows],
                )
            with other._transaction():
                other._db.execute(f"DELETE FROM {table} WHERE seq <= ?", (rows[-1][0],))
            total += len(rows)
        return total

    # -- reading

    def fresh(self, after: int, limit: int) -> list[Spooled]:
        """Records behind ``after`` that were never refused, in order."""
        return self._load(f"{_SELECT} WHERE seq > ? AND next_at = 0 ORDER BY seq", after, limit)

    def due(self, now: float, limit: int) -> list[Spooled]:
        """Refused records whose time has come, in order."""
        return self._load(f"{_SELECT} WHERE next_at > 0 AND next_at <= ? ORDER BY seq", now, limit)

    def next_due(self) -> float | None:
        """When the next refused record may be tried again."""
        found: float | None = self._scalar("SELECT min(next_at) FROM records WHERE next_at > 0")
        return found

    def attempts(self, seq: int) -> tuple[int, float]:
        """How often this one was refused, and when it was made."""
        row = self._db.execute(
            "SELECT attempts, created_at FROM records WHERE seq = ?", (seq,)
        ).fetchone()
        return (row[0], row[1]) if row else (0, 0.0)

    def list_dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters."""
        rows = self._db.execute(
            "SELECT seq, interception_id, kind, attempts, created_at, set_aside_at, reason"
            " FROM dead_letters ORDER BY seq LIMIT ?",
            (limit,),
        )
        return [DeadLetter(*row) for row in rows]

    def stats(self) -> SpoolStats:
        oldest = self._scalar("SELECT min(created_at) FROM records")
        return SpoolStats(self.depth, oldest, self.dead_letters, self.size())

    def size(self) -> int:
        """Bytes in use: the file without its free pages."""
        pages = self._scalar("PRAGMA page_count") - self._scalar("PRAGMA freelist_count")
        return int(pages * self._scalar("PRAGMA page_size"))

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; with ``remove`` delete it when nothing is left in it."""
        try:
            empty = self.depth == 0 and self.dead_letters == 0
            self._db.close()
            if remove and empty:
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        finally:
            os.close(self._lock_fd)

    # -- inside

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db, self.path)

    def _load(self, sql: str, bound: float, limit: int) -> list[Spooled]:
        rows = self._db.execute(f"{sql} LIMIT ?", (bound, limit))
        return [Spooled(seq, _DECODERS[kind].decode(payload)) for seq, kind, payload in rows]

    def _scalar(self, sql: str) -> Any:
        return self._db.execute(sql).fetchone()[0]


class _Transaction:
    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as ex:
            raise SpoolError(f"cannot write the spool {self._path}: {ex}") from ex

    def __exit__(self, kind: type[BaseException] | None, ex: BaseException | None, _: Any) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
        if isinstance(ex, sqlite3.Error):
            raise SpoolError(f"cannot write the spool {self._path}: {ex}") from ex


def _row(record: Kept) -> tuple[str, str, bytes, float]:
    if isinstance(record, InterceptionEnded):
        return record.id, "ended", _encode(record), record.ended_at
    return record.interception_id, _KINDS[type(record)], _encode(record), record.created_at


def _params(seqs: Iterable[int]) -> list[tuple[int]]:
    return [(seq,) for seq in seqs]


def claim_spool(folder: Path, *, own: bool = True) -> Spool | None:
    """Open the first spool file of ``folder`` that nobody holds.

    With ``own`` a new file is made when all are held.  Without it only files that somebody
    left behind are considered, and None is the answer when there is none.
    Raises SpoolError when the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        taken = sorted(folder.glob("spool-*.sqlite"))
    except OSError as ex:
        raise SpoolError(f"cannot use the state folder {folder}: {ex}; set --state-dir") from ex
    # The way in is a lock file of its own: SQLite locks the database file itself, and
    # closing any descriptor of it would drop those locks.
    for path in taken:
        fd = _lock(path)
        if fd is not None:
            if path.exists():
                return Spool(path, fd)
            os.close(fd)
    number = 0
    while own:
        path = folder / f"spool-{number}.sqlite"
        if path not in taken:
            fd = _lock(path)
            if fd is not None:
                return Spool(path, fd)
        number += 1
    return None


def _lock(path: Path) -> int | None:
    lock = path.with_suffix(".lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as ex:
        raise SpoolError(
            f"cannot use the state folder {path.parent}: {ex}; set --state-dir"
        ) from ex
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
