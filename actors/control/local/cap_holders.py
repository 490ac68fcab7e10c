"""The processes that hold reservations, and what is looked at while they do: who is gone, whether
anything is reserved, how full caps are.

A process that holds reservations counts on (:class:`Holders`).  Who sees another stand still for
:data:`LAPSE` seconds lets its reservations lapse.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence

from attrs import define, field, frozen

from aigateway.actors.control.local.cap_book import AT_ONCE, TillBook
from aigateway.actors.control.local.schema import Database, marks
from aigateway.actors.values.records import timestamp

__all__ = ["LAPSE", "AnyHolds", "CapRow", "Holder", "Holders", "tills_in"]

LAPSE = 20.0
"""Seconds without a sign of life after which a process's reservations lapse."""
FORGOTTEN = 24 * 3600.0
"""Seconds after which a reservation lapses though its process is there."""
_KEPT = 62 * 24 * 3600.0
"""Seconds for which the tills of windows that are over are kept."""

_CLEAN_EVERY = 3600.0
_SHOWN = 100
"""How many caps are told to metrics, the fullest."""
_LOOK_EVERY = 1.0
"""Seconds for which nothing is looked for that others may have reserved.  An end that is stored
meanwhile is counted when its reservation lapses."""


@define
class Holder:
    """This process, for those who have to know whether it is still there.

    It lasts longer than a control plane's actor, whose successor goes on with its reservations.
    """

    used: bool = False
    """It has asked for a reservation."""
    _id: str = ""
    _process: int = 0

    @property
    def id(self) -> str:
        # After a fork it is another process.
        if self._process != os.getpid():
            self._process, self._id = os.getpid(), secrets.token_hex(8)
        return self._id


def _beat(database: Database, holder: str) -> None:
    """Show that this process is there.  Raises what the database raises."""
    database.execute(
        "INSERT INTO cap_holders (id, beats) VALUES (?, 1)"
        " ON CONFLICT (id) DO UPDATE SET beats = cap_holders.beats + 1",
        (holder,),
    )


@define
class Holders:
    """Which other processes hold reservations, and which of them stand still."""

    _seen: dict[str, tuple[int, float]] = field(factory=dict)
    """How far each has counted, and since when it has not gone on."""
    _looked: float = 0.0
    _cleaned: float = 0.0

    def look(self, database: Database, now: float) -> list[str]:
        """Those that are gone, ``now`` in monotonic seconds.  Raises what the database raises.

        How long is measured here: clocks of other machines say nothing, and after an outage of
        the database everybody is given time to come back.
        """
        if now - self._looked > LAPSE / 2:
            # The database was away, and others could not reach it either.
            self._seen = {}
        self._looked = now
        beats = dict(database.execute("SELECT id, beats FROM cap_holders").fetchall())
        holding = database.execute("SELECT DISTINCT holder FROM cap_holds WHERE state <> 'lapsed'")
        counts = {**dict.fromkeys((holder for (holder,) in holding.fetchall()), 0), **beats}
        seen = {}
        for holder, count in counts.items():
            before = self._seen.get(holder)
            seen[holder] = before if before is not None and before[0] == count else (count, now)
        self._seen = seen
        return [holder for holder, (_count, since) in seen.items() if now - since >= LAPSE]

    def look_after(
        self, database: Database, holder: str, now: float, monotonic: float
    ) -> tuple[int, list[CapRow]]:
        """Show that ``holder`` is there, and let the reservations lapse of those that are gone;
        how many interceptions had some, and how full caps are.  In a transaction.

        ``now`` in Unix seconds.  Raises what the database raises.
        """
        _beat(database, holder)
        gone = [each for each in self.look(database, monotonic) if each != holder]
        lapsed = _lapse(database, gone, now)
        if monotonic - self._cleaned >= _CLEAN_EVERY:
            self._cleaned = monotonic
            _clean_up(database, now)
        return lapsed, tills_in(database, now)[:_SHOWN]


@define
class AnyHolds:
    """Whether anything is reserved by anybody, looked at once in a while."""

    _until: float = 0.0
    _found: bool = False

    def any(self, database: Database) -> bool:
        """Raises what the database raises."""
        now = time.monotonic()
        if now >= self._until:
            found = database.execute("SELECT 1 FROM cap_holds LIMIT 1").fetchone()
            self._found, self._until = found is not None, now + _LOOK_EVERY
        return self._found

    def made(self) -> None:
        """There is something now."""
        self._found, self._until = True, time.monotonic() + _LOOK_EVERY


def _lapse(database: Database, gone: Sequence[str], now: float) -> int:
    """Let the reservations lapse of processes that are gone, and those that were forgotten; how
    many interceptions had some.  ``now`` in Unix seconds.  To be called in a transaction.  Raises
    what the database raises.
    """
    rows = database.execute(
        f"SELECT DISTINCT interception_id FROM cap_holds WHERE state <> 'lapsed'"
        f" AND (holder IN ({marks(gone) or 'NULL'}) OR held_at < ?) ORDER BY 1 LIMIT {AT_ONCE}",
        [*gone, timestamp(now - FORGOTTEN)],
    ).fetchall()
    ids = [id for (id,) in rows]
    if ids:
        book = TillBook(database, (), ids, now, lock=True)
        ended = database.execute(
            f"SELECT id FROM interceptions WHERE ended_at IS NOT NULL AND id IN ({marks(ids)})",
            ids,
        ).fetchall()
        book.lapse({id for (id,) in ended})
    if gone and len(ids) < AT_ONCE:
        database.execute(f"DELETE FROM cap_holders WHERE id IN ({marks(gone)})", gone)
    return len(ids)


def _clean_up(database: Database, now: float) -> None:
    """Delete what is about windows that are long over.  Raises what the database raises."""
    for table, column in (("cap_holds", "held_at"), ("cap_tills", "ends_at")):
        database.execute(f"DELETE FROM {table} WHERE {column} < ?", (timestamp(now - _KEPT),))


@frozen
class CapRow:
    """How full a cap is, for those who look.  Nano-dollars; times as the database has them."""

    scope: str
    id: str
    name: str
    every: str
    starts_at: str
    resets_at: str
    cap: int
    spent: int
    reserved: int
    running: int

    @property
    def part(self) -> float:
        """1.0 is full; it may be more."""
        return self.spent / self.cap if self.cap else 1.0


def tills_in(database: Database, now: float, owner: str | None = None) -> list[CapRow]:
    """The caps whose windows are not over, the fullest first; with ``owner``, a user's id, those
    of that user and the user's keys alone.  Raises what the database raises."""
    rows = database.execute(
        "SELECT scope, scope_id, name, period, starts_at, ends_at, cap_nano_usd, spent_nano_usd,"
        " reserved_nano_usd, running FROM cap_tills WHERE ends_at > ? AND starts_at <= ?",
        (timestamp(now), timestamp(now)),
    ).fetchall()
    found = [CapRow(*row) for row in rows]
    if owner is not None:
        keys = database.execute("SELECT id FROM api_keys WHERE user_id = ?", (owner,)).fetchall()
        theirs = {("user", owner), *(("key", id) for (id,) in keys)}
        found = [each for each in found if (each.scope, each.id) in theirs]
    return sorted(found, key=lambda each: (-each.part, each.scope, each.name))
