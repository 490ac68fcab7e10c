"""The durable spool: records wait here, on disk, until the control plane has them.

One SQLite file per gateway worker, in WAL mode, so that a killed process loses nothing that
was committed.  What is written goes out as *parcels* (see
:mod:`~aigateway.actors.recorder.parcels`): one row for all that an interception handed over
at once, since a row costs more than what is in it.

Not thread safe: the recorder actor alone touches it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import structlog
from attrs import evolve, frozen

from aigateway.actors.recorder._encoding import (
    Kept,
    Unreadable,
    decode,
    encode,
    encode_left,
    kind_of,
    made_at,
    owner_of,
    storable,
)
from aigateway.actors.recorder._spool_file import SpoolFile
from aigateway.actors.recorder._spool_schema import reporting
from aigateway.actors.recorder.parcels import (
    PARCEL_BITS,
    PARCEL_SIZE,
    Changes,
    Parcel,
    Refusal,
    number_all,
    position,
)

__all__ = ["DeadLetter", "Spool"]

_DEAD = "interception_id, kind, payload, attempts, made_at, set_aside_at, reason"
_INSERT_DEAD = f"INSERT INTO dead_letters ({_DEAD}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_UNREADABLE = "unreadable"
_SELECT = "SELECT number, interception_id, made_at, payload FROM"

log = structlog.get_logger("ai-gateway.recorder")


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
        self, new: Sequence[Kept] = (), changes: Changes | None = None, now: float = 0.0
    ) -> list[Parcel]:
        """Add records and apply changes, in one transaction; return what was added.

        ``now`` is the Unix time at which records are set aside.
        """
        packed = [parcel for records in _by_owner(new) for parcel in self._pack(records)]
        with self._transaction() as tally:
            if changes:
                tally.records, tally.dead = -changes.gone, len(changes.dead)
                self._apply(changes, now)
            for parcel, payload in packed:
                self._insert(parcel, payload)
                tally.records += len(parcel.records)
        return [parcel for parcel, _ in packed]

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
            spooled = number_all(number, some)
            yield Parcel(number, owner, spooled, len(payload), made_at(some[0])), payload

    def _insert(self, parcel: Parcel, payload: bytes, table: str = "parcels") -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO {table} (number, interception_id, made_at, count, payload)"
            " VALUES (?, ?, ?, ?, ?)",
            (parcel.number, parcel.owner, parcel.made_at, len(parcel.records), payload),
        )

    def _apply(self, changes: Changes, now: float) -> None:
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
            reason = _text(refusal.reason)
            db.execute(
                "INSERT OR REPLACE INTO refusals (interception_id, next_at, since, attempts,"
                " counted, reason) VALUES (?, ?, ?, ?, ?, ?)",
                (owner, refusal.next_at, refusal.since, refusal.attempts, refusal.counted, reason),
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
        """Which interceptions are held, and why."""
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

    def take_over(self, other: Spool, limit: int) -> list[Parcel]:
        """Move the oldest parcels of another spool here; nothing when it has none.

        Its dead letters come along at the end.  A crash in the middle leaves some in both
        files: they are sent twice, and carry the same record id both times.
        """
        for table in ("held", "parcels"):
            parcels: list[Parcel] = []
            while not parcels:
                with reporting(other.path):
                    rows = other._db.execute(
                        f"{_SELECT} {table} ORDER BY number LIMIT ?", (limit,)
                    ).fetchall()
                if not rows:
                    break
                parcels = [p for row in rows if (p := other._decoded(table, row)) is not None]
            if parcels:
                return self._move(other, table, parcels)
        with reporting(other.path):
            dead = other._db.execute(f"SELECT {_DEAD} FROM dead_letters").fetchall()
        with self._transaction() as tally:
            self._db.executemany(_INSERT_DEAD, dead)
            tally.dead = len(dead)
        with other._transaction() as tally:
            other._db.execute("DELETE FROM dead_letters")
            tally.dead = -len(dead)
        return []

    def _move(self, other: Spool, table: str, parcels: list[Parcel]) -> list[Parcel]:
        moved = []
        with self._transaction() as tally:
            for old in parcels:
                number = next(self._numbers)
                # In their old positions: a part of the parcel may be gone.
                records = tuple(
                    evolve(s, seq=(number << PARCEL_BITS) + position(s.seq)) for s in old.records
                )
                parcel = Parcel(number, old.owner, records, old.size, old.made_at)
                self._insert(parcel, encode_left(records))
                tally.records += len(records)
                moved.append(parcel)
        with other._transaction() as tally:
            numbers = [(old.number,) for old in parcels]
            other._db.executemany(f"DELETE FROM {table} WHERE number = ?", numbers)
            tally.records = -sum(len(old.records) for old in parcels)
        return moved


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


def _text(text: str) -> str:
    """What SQLite can store, and a person wants to read."""
    return text[:1000].encode("utf-8", "replace").decode("utf-8")
