"""The durable spool: records wait here, on disk, until the control plane has them.

One SQLite file per gateway worker, in WAL mode, so that a killed process loses nothing that
was committed.  A file belongs to the holder of the lock on it (``flock`` on a file of its own
beside it, which the kernel drops when the process dies).  So a worker that replaces a killed one
takes up its file, and any worker may adopt a file that nobody holds.  The recorders of one process
hand the lock on (:mod:`~aigateway.actors.recorder.custody`).

What is written goes out as *parcels* (see
:mod:`~aigateway.actors.recorder.parcels`): one row for all that an interception handed over
at once, since a row costs more than what is in it.

Not thread safe: the recorder actor alone touches it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence, Set
from itertools import count
from pathlib import Path

import structlog
from attrs import evolve, frozen

from aigateway.actors.control.marks import Marks
from aigateway.actors.recorder._encoding import (
    Kept,
    Unreadable,
    decode,
    encode,
    encode_left,
    kind_of,
    made_at,
    owner_of,
    size_of,
    storable,
)
from aigateway.actors.recorder._spool_file import (
    DiskState,
    SpoolBusy,
    SpoolCorrupt,
    SpoolError,
    SpoolFile,
    SpoolForeign,
    SpoolStats,
    folder_error,
    reporting,
)
from aigateway.actors.recorder.parcels import (
    PARCEL_SIZE,
    Changes,
    Parcel,
    Refusal,
    number_all,
)
from aigateway.actors.values.records import InterceptionEnded

__all__ = [
    "DeadLetter",
    "DiskState",
    "Spool",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolStats",
    "adopt_spool",
    "claim_spool",
    "renew",
    "replace_damaged",
]

log = structlog.get_logger("ai-gateway.recorder")

_DEAD = "interception_id, kind, payload, attempts, made_at, set_aside_at, reason"
_INSERT_DEAD = f"INSERT INTO dead_letters ({_DEAD}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_UNREADABLE = "unreadable"
_SELECT = "SELECT number, interception_id, made_at, payload FROM"


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


class Spool(SpoolFile):
    """What waits in one spool file.

    Each method raises SpoolError when the disk refuses, and SpoolCorrupt when the file is no
    longer a database; nothing has been changed then.
    """

    # -- writing

    def write(
        self,
        new: Sequence[Kept] = (),
        changes: Changes | None = None,
        now: float = 0.0,
        ahead: float = 0.0,
        kept: Sequence[Parcel] = (),
    ) -> list[Parcel]:
        """Add records and apply changes, in one transaction; return what was added.

        ``now`` is the Unix time at which records are set aside; ``ahead`` is how far the clock
        on the wall is ahead of that of the changes, in seconds.  ``kept`` are parcels that were
        in memory alone.  The marks of what is no longer here are dropped.
        """
        packed = [parcel for records in _by_owner(new) for parcel in self._pack(records)]
        with self._transaction() as tally:
            if changes:
                tally.records, tally.dead = -changes.gone, len(changes.dead)
                tally.records += sum(len(p.records) for p in changes.held if not p.on_disk)
                self._apply(changes, now, ahead)
            for parcel in kept:
                self._insert(parcel, encode_left(parcel.records))
                tally.records += len(parcel.records)
            for parcel, payload in packed:
                self._insert(parcel, payload)
                tally.records += len(parcel.records)
        for parcel in kept:
            parcel.on_disk = True
        if changes:
            self._forget_marks(changes)
        return [parcel for parcel, _ in packed]

    def number(self, new: Sequence[Kept]) -> list[Parcel]:
        """Records as parcels that a later :meth:`write` will put on the disk."""
        if (parcel := self._numbered(new)) is not None:
            return [parcel]
        parcels = [parcel for some in _by_owner(new) for parcel, _ in self._pack(some)]
        for parcel in parcels:
            parcel.on_disk = False
        return parcels

    def delete_some(self, changes: Changes, limit: int) -> bool:
        """Do a part of the changes: delete some of the parcels that are done with; False when
        there are none."""
        for table, numbers in (("parcels", changes.done), ("held", changes.done_held)):
            if numbers:
                some = numbers[:limit]
                marks = ",".join("?" * len(some))
                with self._transaction() as tally:
                    count = self._db.execute(
                        f"SELECT coalesce(sum(count), 0) FROM {table} WHERE number IN ({marks})",
                        some,
                    ).fetchone()[0]
                    self._db.execute(f"DELETE FROM {table} WHERE number IN ({marks})", some)
                    tally.records = -count
                changes.gone -= count
                del numbers[: len(some)]
                self.marks.forget(some)
                return True
        return False

    def forget_strangers(self, known: Set[int] = frozenset()) -> None:
        """Drop the marks of parcels that are neither here nor among ``known``."""
        with reporting(self.path):
            self.marks.forget(
                number
                for number in self.marks.parcels()
                if number not in known
                and not self._scalar(
                    f"SELECT exists (SELECT 1 FROM parcels WHERE number = {number})"
                    f" OR exists (SELECT 1 FROM held WHERE number = {number})"
                )
            )

    def _forget_marks(self, changes: Changes) -> None:
        marks = self.marks
        marks.forget(changes.done)
        marks.forget(changes.done_held)
        for number in changes.rewritten:
            marks.forget_stored(number)
        for parcel in changes.held:
            parcel.on_disk = True
            marks.forget_stored(parcel.number)

    def _numbered(self, records: Sequence[Kept]) -> Parcel | None:
        """Records as one parcel, if they are all of one interception, and as they should be.

        PERF: as nearly all are; what :meth:`_pack` does takes 3 us more.
        """
        if not 0 < len(records) <= PARCEL_SIZE:
            return None
        owner = owner_of(records[0])
        for record in records:
            if isinstance(record, InterceptionEnded):
                if record.id != owner:
                    return None
            elif record.interception_id != owner or not record.record_id:
                return None
        size = size_of(records)
        if size is None:
            return None
        number = next(self._numbers)
        made = made_at(records[0])
        return Parcel(number, owner, number_all(number, records), size, made, on_disk=False)

    def _pack(self, records: Sequence[Kept]) -> Iterator[tuple[Parcel, bytes]]:
        for first in range(0, len(records), PARCEL_SIZE):
            some: Sequence[Kept] = records[first : first + PARCEL_SIZE]
            try:
                payload = encode(some)
            except (TypeError, ValueError, OverflowError):
                some = _storable(some)
                if not some:
                    continue
                payload = encode(some)
            number, owner = next(self._numbers), owner_of(some[0])
            if not all(map(_recognisable, some)):
                some = [_named(record, f"{number}.{at}") for at, record in enumerate(some)]
                payload = encode(some)
            spooled = number_all(number, some)
            yield Parcel(number, owner, spooled, len(payload), made_at(some[0])), payload

    def _insert(self, parcel: Parcel, payload: bytes, table: str = "parcels") -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO {table} (number, interception_id, made_at, count, payload)"
            " VALUES (?, ?, ?, ?, ?)",
            (parcel.number, parcel.owner, parcel.made_at, len(parcel.records), payload),
        )

    def _apply(self, changes: Changes, now: float, ahead: float) -> None:
        db = self._db
        for number, parcel in changes.rewritten.items():
            db.execute(
                f"UPDATE {'held' if parcel.held else 'parcels'} SET payload = ?, count = ?"
                " WHERE number = ?",
                (encode_left(parcel.records), len(parcel.records), number),
            )
        for parcel in changes.held:
            db.execute("DELETE FROM parcels WHERE number = ?", (parcel.number,))
            self._insert(parcel, encode_left(parcel.records), "held")
        for table, numbers in (("parcels", changes.done), ("held", changes.done_held)):
            if numbers:
                db.executemany(f"DELETE FROM {table} WHERE number = ?", [(n,) for n in numbers])
        for owner, refusal in changes.refusals.items():
            if refusal is None:
                db.execute("DELETE FROM refusals WHERE interception_id = ?", (owner,))
                continue
            next_at, since = refusal.next_at + ahead, refusal.since + ahead
            reason = _text(refusal.reason)
            db.execute(
                "INSERT OR REPLACE INTO refusals (interception_id, next_at, since, attempts,"
                " counted, reason) VALUES (?, ?, ?, ?, ?, ?)",
                (owner, next_at, since, refusal.attempts, refusal.counted, reason),
            )
        for dead in changes.dead:
            record, reason = dead.spooled.record, _text(dead.reason)
            letter = (owner_of(record), kind_of(record), encode([record]), dead.attempts)
            db.execute(_INSERT_DEAD, (*letter, made_at(record), now, reason))

    # -- reading

    def read(self, after: int, limit: int, size: int) -> tuple[list[Parcel], bool]:
        """Fresh parcels behind ``after``, in order: so many, and no more of ``size`` bytes than
        the last one needs.  Also returns whether there are more."""
        found: list[Parcel] = []
        with reporting(self.path):
            rows = self._db.execute(
                f"{_SELECT} parcels WHERE number > ? ORDER BY number LIMIT ?", (after, limit + 1)
            )
            for row in rows:
                if len(found) == limit or size <= 0:
                    return found, True
                parcel = self._decoded("parcels", row)
                if parcel is not None:
                    found.append(parcel)
                    size -= parcel.size
        return found, False

    def first_held(self, owner: str) -> Parcel | None:
        """The first held parcel of an interception."""
        while True:
            with reporting(self.path):
                row = self._db.execute(
                    f"{_SELECT} held WHERE interception_id = ? ORDER BY number LIMIT 1", (owner,)
                ).fetchone()
            if row is None:
                return None
            parcel = self._decoded("held", row)
            if parcel is not None:
                return parcel

    def refusals(self) -> list[tuple[str, Refusal]]:
        """Which interceptions are held, and why, with times of the clock on the wall."""
        with reporting(self.path):
            rows = self._db.execute(
                "SELECT interception_id, next_at, since, attempts, counted, reason,"
                " (SELECT count(*) FROM held WHERE held.interception_id = refusals.interception_id)"
                " FROM refusals"
            ).fetchall()
        return [(owner, Refusal(*rest)) for owner, *rest in rows]

    def _decoded(self, table: str, row: tuple[int, str, float, bytes]) -> Parcel | None:
        """A row as a parcel; one that cannot be read is set aside."""
        number, owner, made, payload = row
        try:
            return Parcel(number, owner, decode(number, payload), len(payload), made)
        except Unreadable as ex:
            log.error("records on disk cannot be read", interception_id=owner, error=str(ex))
            with self._transaction() as tally:
                tally.records = -self._scalar(f"SELECT count FROM {table} WHERE number = {number}")
                tally.dead = 1
                self._db.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
                self._db.execute(
                    _INSERT_DEAD, (owner, _UNREADABLE, payload, 0, made, time.time(), str(ex))
                )
            return None

    # -- dead letters

    def list_dead_letters(self, after: int = 0, limit: int = 1000) -> list[DeadLetter]:
        """Dead letters behind number ``after``, the oldest first."""
        with reporting(self.path):
            rows = self._db.execute(
                "SELECT number, interception_id, kind, attempts, made_at, set_aside_at, reason"
                " FROM dead_letters WHERE number > ? ORDER BY number LIMIT ?",
                (after, limit),
            )
            return [DeadLetter(*row) for row in rows]

    def last_dead_letter(self) -> int:
        """The highest number of a dead letter."""
        with reporting(self.path):
            return int(self._scalar("SELECT coalesce(max(number), 0) FROM dead_letters"))

    def revive(self, up_to: int, limit: int = 500) -> list[Parcel]:
        """Put the oldest dead letters back, behind all that waits; nothing when none is left."""
        parcels = []
        with self._transaction() as tally:
            rows = self._db.execute(
                "SELECT number, interception_id, made_at, payload FROM dead_letters"
                f" WHERE number <= ? AND kind <> '{_UNREADABLE}' ORDER BY number LIMIT ?",
                (up_to, limit),
            ).fetchall()
            for old, owner, made, payload in rows:
                number = next(self._numbers)
                parcel = Parcel(number, owner, decode(number, payload), len(payload), made)
                self._insert(parcel, payload)
                self._db.execute("DELETE FROM dead_letters WHERE number = ?", (old,))
                parcels.append(parcel)
            tally.records, tally.dead = len(rows), -len(rows)
        return parcels

    def discard_dead_letters(self, up_to: int, limit: int = 5000) -> int:
        """Delete the oldest dead letters for good; return how many."""
        with self._transaction() as tally:
            deleted = self._db.execute(
                "DELETE FROM dead_letters WHERE number IN (SELECT number FROM dead_letters"
                " WHERE number <= ? ORDER BY number LIMIT ?)",
                (up_to, limit),
            ).rowcount
            tally.dead = -deleted
        return deleted

    # -- another spool

    def take_dead_letters(self, other: Spool) -> None:
        """Move all dead letters of another spool here.

        A kill in the middle leaves some in both files; the next one to do it sees that.
        """
        with reporting(other.path):
            dead = other._db.execute(f"SELECT {_DEAD} FROM dead_letters").fetchall()
        with self._transaction() as tally:
            for letter in dead:
                tally.dead += self._db.execute(
                    f"INSERT INTO dead_letters ({_DEAD}) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE"
                    " NOT EXISTS (SELECT 1 FROM dead_letters WHERE interception_id = ?1"
                    " AND kind = ?2 AND payload = ?3 AND set_aside_at = ?6)",
                    letter,
                ).rowcount
        with other._transaction() as tally:
            other._db.execute("DELETE FROM dead_letters")
            tally.dead = -len(dead)


def _by_owner(records: Sequence[Kept]) -> Iterator[Sequence[Kept]]:
    """Records that stand together and are of one interception."""
    first, owner = 0, ""
    for index, record in enumerate(records):
        its_owner = owner_of(record)
        if its_owner != owner:
            if index:
                yield records[first:index]
            first, owner = index, its_owner
    if records:
        yield records[first:]


def _storable(records: Sequence[Kept]) -> list[Kept]:
    """Those records that can be stored, repaired where they must be."""
    kept: list[Kept] = []
    for record in records:
        try:
            encode([record])
        except (TypeError, ValueError, OverflowError):
            try:
                kept.append(storable(record))
            except ValueError as ex:
                log.error("a record cannot be kept, it is lost", error=str(ex))
        else:
            kept.append(record)
    return kept


def _recognisable(record: Kept) -> bool:
    """Whether a store that has it would know it again."""
    return isinstance(record, InterceptionEnded) or bool(record.record_id)


def _named(record: Kept, name: str) -> Kept:
    if isinstance(record, InterceptionEnded) or record.record_id:
        return record
    return evolve(record, record_id=name)


def _text(text: str) -> str:
    """What SQLite can store, and a person wants to read."""
    return text[:1000].encode("utf-8", "replace").decode("utf-8")


_BUSY_TRIES = 3
"""How many new files may be busy in a row.  On a file system that cannot lock, all are."""


def claim_spool(folder: Path) -> Spool:
    """A spool of one's own: the first that nobody holds, or a new one.

    A file that another program has locked is left alone; it is adopted when that is over.
    Raises SpoolError when the folder cannot be used.
    """
    left = adopt_spool(folder, warn=True)
    if left is not None:
        return left
    number, busy = 0, 0
    while True:
        path = folder / f"spool-{number}.sqlite"
        number += 1
        # A file that is there now was made a moment ago, or cannot be used.
        if path.exists():
            continue
        try:
            spool = _open(path)
        except SpoolBusy as ex:
            busy += 1
            if busy == _BUSY_TRIES:
                raise
            log.warning("a new spool file is busy, another one is begun", error=str(ex))
            continue
        if spool is not None:
            return spool


def adopt_spool(folder: Path, *, warn: bool = False) -> Spool | None:
    """The first spool file that nobody holds, if there is one.

    A damaged one is set aside; one of another version, or that another program has locked, is
    left alone (and logged with ``warn``).  Raises SpoolError when the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths = sorted(folder.glob("spool-*.sqlite"))
    except OSError as ex:
        text = f"cannot use the state folder {folder}: {ex}; set --state-dir"
        raise folder_error(text, ex) from ex
    for path in paths:
        try:
            spool = _open(path, only_old=True)
        except SpoolForeign as ex:
            if warn:
                log.error("a spool file is left alone", error=str(ex))
            continue
        except SpoolBusy as ex:
            # Nobody of ours has it: a process that is just ending, a backup, a shell.
            if warn:
                log.warning("a spool file is busy, its records wait until it is not", error=str(ex))
            continue
        if spool is not None:
            return spool
    return None


def replace_damaged(spool: Spool, reason: str) -> Spool:
    """Set a damaged spool aside and begin a new one in its place, with the same lock and marks.

    Raises SpoolError; then the lock is still held, and it may be called again.
    """
    lock = spool.close_database()
    if spool.is_there():
        _set_aside(spool.path, reason)
    else:
        log.critical("the spool file is gone, a new one is begun", error=reason)
    return _open_locked(spool.path, lock, spool.marks)


def renew(spool: Spool) -> Spool:
    """Delete a spool of which all is delivered, and begin a new one in its place, with the same
    lock and marks: that needs no room on a full disk.

    Raises SpoolError; then the lock is still held, and it may be called again.
    """
    lock = spool.close_database()
    try:
        for suffix in ("-wal", "-shm", ""):
            Path(f"{spool.path}{suffix}").unlink(missing_ok=True)
    except OSError as ex:
        text = f"cannot delete the spool {spool.path}: {ex.strerror}"
        raise folder_error(text, ex) from ex
    return _open_locked(spool.path, lock, spool.marks)


def _set_aside(path: Path, reason: str) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.stem}.damaged-{stamp}-{number}") for number in count())
    aside = next(name for name in names if not name.exists())
    try:
        for suffix in ("-wal", "-shm", ""):
            source = Path(f"{path}{suffix}")
            if source.exists():
                source.rename(f"{aside}{suffix}")
    except OSError as ex:
        raise SpoolError(f"cannot rename the damaged spool {path}: {ex.strerror}") from ex
    log.critical(
        "a spool file is damaged and was set aside: its records are not delivered",
        renamed_to=str(aside),
        error=reason,
        way_out=f"sqlite3 {aside} .recover",
    )


def _open(path: Path, *, only_old: bool = False) -> Spool | None:
    """Lock and open a file; None when somebody holds it (or it is not there any more)."""
    lock = _lock(path)
    if lock is None:
        return None
    try:
        if only_old and not path.exists():
            os.close(lock)
            return None
        return _open_locked(path, lock)
    except BaseException:
        os.close(lock)
        raise


def _open_locked(path: Path, lock: int, marks: Marks | None = None) -> Spool:
    try:
        spool = Spool(path, lock, marks)
    except SpoolCorrupt as ex:
        _set_aside(path, str(ex))
        spool = Spool(path, lock, marks)
    return spool


def _lock(path: Path) -> int | None:
    # Not the database file: closing any descriptor of that would drop SQLite's own locks.
    name = path.with_suffix(".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as ex:
        text = f"cannot use the state folder {path.parent}: {ex.strerror}; set --state-dir"
        raise folder_error(text, ex) from ex
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError as ex:
        os.close(lock)
        raise SpoolError(
            f"cannot lock {name}: {ex.strerror}; set --state-dir to a folder on a local disk"
        ) from ex
    return lock
