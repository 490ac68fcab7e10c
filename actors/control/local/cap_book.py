"""Reservations in the database: made with the starts of interceptions, settled with their ends.

All is done in the transaction that stores the records: an interception is never stored without its
reservation, and an end never leaves one behind.  In PostgreSQL, where somebody asks, tills are
locked in one order before anything else, and what only settles changes them in that order at its
end, so that gateways wait for each other and never for ever.  SQLite has one writer, and tills are
read only where they say more than that there is room.

A reservation is known by its interception: one that is made again is there already.  What is
settled is the sum of the costs that are stored, so records that come again change nothing.

Whose process is gone has its reservations lapse (:mod:`.cap_holders`); what they have cost is
counted all the same, and what their records tell later is added.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import define, field

from aigateway.actors.control.local.caps import (
    NOTABLE,
    Begun,
    CapTill,
    CapTills,
    Full,
    Till,
    TillKey,
    Verdict,
    Wait,
    begin,
)
from aigateway.actors.control.local.costs import StoredRecord
from aigateway.actors.control.local.schema import Database, batches, like, marks
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import InterceptionEnded, timestamp

__all__ = ["AT_ONCE", "Ask", "Money", "OwnHolds", "TillBook"]

_TILL = "scope, scope_id, period, starts_at"
_KEY = "scope = ? AND scope_id = ? AND period = ? AND starts_at = ?"
_HOLD = f"""
    interception_id, {_TILL}, nano_usd, counted_nano_usd, state,
    (SELECT coalesce(sum(t.cost_nano_usd), 0) FROM token_usages t
     WHERE t.interception_id = cap_holds.interception_id)
"""
_HOLDS_SQL = f"SELECT {_HOLD} FROM cap_holds WHERE interception_id IN ({{}})"
_DELETE_HOLDS_SQL = "DELETE FROM cap_holds WHERE interception_id IN ({})"
_TAKE_HOLDS_SQL = f"{_DELETE_HOLDS_SQL} RETURNING {_HOLD}"
_NEW_TILL_SQL = f"""
    INSERT INTO cap_tills ({_TILL}, ends_at, name, cap_nano_usd, spent_nano_usd,
                           reserved_nano_usd, running, next_id, next_until)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, '', 0) ON CONFLICT ({_TILL}) DO NOTHING
"""
_TILLS_SQL = f"""
    SELECT {_TILL}, name, cap_nano_usd, spent_nano_usd, reserved_nano_usd, running, next_id,
           next_until
    FROM cap_tills WHERE {{}}
"""
_LOCK_SQL = f" ORDER BY {_TILL} FOR UPDATE"
_SHOWN_SQL = f"UPDATE cap_tills SET name = ?, cap_nano_usd = ? WHERE {_KEY}"
_SPENT_SQL = """
    SELECT coalesce(sum(t.cost_nano_usd), 0) FROM interceptions i
    JOIN token_usages t ON t.interception_id = i.id
    WHERE {} AND i.started_at >= ? AND i.started_at < ? AND i.credential_kind <> 'byok'
"""
_WHOSE = {
    "user": "i.initiator_id = ?",
    "key": "i.api_key_id = ?",
    "project": "i.project = ?",
    "group": "', ' || i.group_names || ', ' LIKE ? ESCAPE '!'",
}
_CHANGE_TILL_SQL = f"""
    UPDATE cap_tills SET spent_nano_usd = ?, reserved_nano_usd = ?, running = ?, next_id = ?,
                         next_until = ?
    WHERE {_KEY}
"""
_FREE_SQL = f"""
    UPDATE cap_tills SET spent_nano_usd = spent_nano_usd + ?,
                         reserved_nano_usd = reserved_nano_usd + ?, running = running + ?
    WHERE {_KEY}
"""
_RESERVE_SQL = f"""
    UPDATE cap_tills SET reserved_nano_usd = reserved_nano_usd + ?, running = running + ?
    WHERE {_KEY} AND name = ? AND cap_nano_usd = ? AND next_until <= ? AND spent_nano_usd < ?
      AND spent_nano_usd + reserved_nano_usd + ? <= cap_nano_usd
"""
"""Where nobody waits and all that is asked for fits, each of those who ask begins."""
_TAKE_OWN_SQL = """
    DELETE FROM cap_holds
    WHERE interception_id = ? AND nano_usd = ? AND counted_nano_usd = 0 AND state = 'running'
"""
_SETTLE_SQL = f"""
    UPDATE cap_tills SET spent_nano_usd = spent_nano_usd +
        (SELECT coalesce(sum(cost_nano_usd), 0) FROM token_usages WHERE interception_id = ?),
        reserved_nano_usd = reserved_nano_usd - ?, running = running - 1
    WHERE {_KEY}
"""
_NEW_HOLD_SQL = f"""
    INSERT INTO cap_holds (interception_id, {_TILL}, nano_usd, counted_nano_usd, state, holder,
                           held_at)
    VALUES (?, ?, ?, ?, ?, ?, 0, 'running', ?, ?)
"""
_CHANGE_HOLD_SQL = f"""
    UPDATE cap_holds SET nano_usd = ?, counted_nano_usd = ?, state = ?
    WHERE interception_id = ? AND {_KEY}
"""
_BEGUN = Begun()
AT_ONCE = 500
"""Interceptions, or tills, of one statement."""
_OWN_AT_MOST = 10_000
"""Reservations at once; those of more are read."""


_Shown: TypeAlias = tuple[str, int]
"""Whose a till is, and the amount of its cap."""


@frozen
class Ask:
    """May this call begin?"""

    id: str
    """The interception's."""
    worst: int
    """Nano-dollars that it costs at most."""
    caps: CapTills
    username: str = ""
    so_far: int | None = None
    """Of a later round: what those before have cost.  None: it is the first."""
    again: bool = False
    """It may have been asked before, and the answer was lost."""


@frozen
class Money:
    """What a transaction does about caps besides settling those whose end it stores."""

    asks: tuple[Ask, ...] = ()
    released: tuple[str, ...] = ()
    """Interceptions that will never have an end: nobody waited for their start."""
    holder: str = ""
    now: float = 0.0
    """Unix seconds."""

    @property
    def asked(self) -> frozenset[str]:
        """The interceptions that begin only if they may."""
        return frozenset(ask.id for ask in self.asks)


@define
class _Held:
    """A row of ``cap_holds``."""

    id: str
    key: TillKey
    nano_usd: int
    counted: int
    state: str
    cost: int
    """What its records say that was spent."""


@define
class OwnHolds:
    """What was reserved by one connection to a SQLite file and is as it was made: how much, in
    which tills, by the interception.

    PERF: what it ends with is settled without being read, which takes half the time.  What is not
    here, or was changed by somebody else meanwhile, is read.
    """

    _made: dict[str, tuple[int, tuple[TillKey, ...]]] = field(factory=dict)

    def find(self, id: str) -> tuple[int, tuple[TillKey, ...]] | None:
        return self._made.get(id)

    def keep(self, book: TillBook) -> None:
        """A transaction has happened."""
        for id in book.touched:
            self._made.pop(id, None)
        self._made.update(book.made)
        while len(self._made) > _OWN_AT_MOST:
            del self._made[next(iter(self._made))]


class TillBook:
    """The tills of one transaction.  Raises what the database raises.

    Made at its begin, before anything else is locked; :meth:`work` when the records are stored.
    """

    @classmethod
    def of(
        cls,
        database: Database,
        money: Money,
        records: Iterable[StoredRecord],
        own: OwnHolds | None = None,
    ) -> TillBook:
        """For a transaction that stores ``records``; ``own`` is what is known of a SQLite file's
        reservations, and learns of this after the commit."""
        ended = [each.id for each in records if isinstance(each, InterceptionEnded)]
        if money.released:
            ended += money.released
        return cls(database, money.asks, ended, money.now, money.holder, own=own)

    def __init__(
        self,
        database: Database,
        asks: Sequence[Ask],
        ended: Sequence[str],
        now: float,
        holder: str = "",
        *,
        own: OwnHolds | None = None,
        lock: bool = False,
    ) -> None:
        """``lock``: tills are locked where nobody asks, too."""
        self.verdicts: dict[str, Verdict] = {}
        self.settled = 0
        """How many interceptions had something reserved."""
        self.made: dict[str, tuple[int, tuple[TillKey, ...]]] = {}
        """What was reserved, by the interception: how much, and in which tills."""
        self.touched: list[str] = []
        """Interceptions whose reservation was taken or changed."""
        self._asks, self._ended, self._holder, self._own = asks, ended, holder, own
        self._database = database
        self._now = now
        self._wanted = {ask.id: ask.caps.at(now) for ask in asks}
        self._tills: dict[TillKey, Till] = {}
        self._before: dict[TillKey, tuple[Any, ...]] = {}
        self._held: dict[str, list[_Held]] = {}
        self._freed: dict[TillKey, list[int]] = {}
        """Of tills that are not locked: what is spent, reserved and running more than before."""
        self._alone = isinstance(database, sqlite3.Connection)
        """Nobody else writes now."""
        self._locked = False
        self.idle = not (asks or ended)
        """There is nothing to settle and nothing was asked."""
        if lock or (asks and not self._alone):
            self._look(asks, ended)

    def _look(self, asks: Sequence[Ask], ended: Sequence[str]) -> None:
        """Read the tills of all that ask and have ended, and lock them."""
        self._locked = True
        # PERF: of most that ask it is known that they have not asked before.
        doubtful = [ask.id for ask in asks if ask.again or ask.so_far is not None]
        ids = [*dict.fromkeys((*ended, *doubtful))]
        held = _holds(self._database, ids)
        new = self._new(asks)
        self._lock(sorted({each.key for each in held} | new.keys()), new)
        if not self._alone:
            # Another gateway may have changed them before the lock was there.
            held = _holds(self._database, ids)
        for each in held:
            if each.key in self._tills:
                self._held.setdefault(each.id, []).append(each)

    def _new(self, asks: Sequence[Ask]) -> dict[TillKey, tuple[str, _Shown]]:
        """The tills of all that ask, as they are made: their windows' ends, and what is shown."""
        new: dict[TillKey, tuple[str, _Shown]] = {}
        for ask in asks:
            for key, (cap, _key, window) in self._wanted[ask.id].felt.items():
                name = ask.username if cap.subject.per == "user" else ""
                before = new.get(key)
                if before is None or cap.cap.nano_usd < before[1][1]:
                    new[key] = window.ends_at, (name or cap.subject.id, cap.cap.nano_usd)
        return new

    def _lock(self, keys: Sequence[TillKey], new: Mapping[TillKey, tuple[str, _Shown]]) -> None:
        # First all that are there, then those that are made, each in their order: nobody who has
        # made one waits for one that was there.
        found = _locked(self._database, keys)
        if missing := sorted(new.keys() - found.keys()):
            rows = []
            for key in missing:
                ends_at, shown = new[key]
                rows.append((*key, ends_at, *shown, _spent(self._database, key, ends_at)))
            self._database.executemany(_NEW_TILL_SQL, rows)
            found |= _locked(self._database, missing)
        for key, (_ends_at, shown) in new.items():
            if found[key][1] != shown:
                self._database.execute(_SHOWN_SQL, (*shown, *key))
        for key, (till, _shown) in found.items():
            self._tills[key], self._before[key] = till, till.row

    def work(self, without: Collection[str] = ()) -> None:
        """Settle what has ended, then answer those who ask, but for ``without``."""
        if self.idle:
            return
        if self._ended:
            self._settle(self._ended)
        asks = [ask for ask in self._asks if ask.id not in without]
        if asks and not self._locked:
            self._close()
            if self._have_room(asks):
                return
            self._look(asks, ())
        for ask in asks:
            self.verdicts[ask.id] = self._ask(ask)
        self._close()

    def may_begin(self, id: str) -> bool:
        """Whether caps let this interception begin, or have nothing to say of it."""
        return not isinstance(self.verdicts.get(id), Wait | Full)

    def _settle(self, ids: Sequence[str]) -> None:
        """Make reservations of these interceptions what their records say was spent."""
        if self._own is not None:
            ids = self._settle_own(self._own, ids)
            if not ids:
                return
        if self._locked:
            ids = [id for id in dict.fromkeys(ids) if id in self._held]
        taken = _taken(self._database, ids, alone=self._alone)
        for held in taken:
            self._held.pop(held.id, None)
            self._free(held)
        self.settled += len({held.id for held in taken})

    def _settle_own(self, own: OwnHolds, ids: Iterable[str]) -> list[str]:
        """The same for those that ``own`` knows; the others."""
        others, rows = [], []
        for id in ids:
            found = own.find(id)
            if found is None:
                others.append(id)
                continue
            self.touched.append(id)
            worst, keys = found
            if self._database.execute(_TAKE_OWN_SQL, (id, worst)).rowcount == len(keys):
                self.settled += 1
                rows += [(id, worst, *key) for key in keys]
            else:
                # It has lapsed, or it is twice among these.
                others.append(id)
        if rows:
            self._database.executemany(_SETTLE_SQL, rows)
        return others

    def lapse(self, ended: Collection[str]) -> None:
        """Let the reservations go of interceptions whose worker is gone; those that have ``ended``
        are settled."""
        ids = self._ended
        self._settle([id for id in ids if id in ended])
        for id in ids:
            for held in self._held.get(id, ()):
                if held.state != "lapsed":
                    self._free(held)
                    self._change(held, 0, held.cost, "lapsed")
        self._close()

    def _free(self, held: _Held) -> None:
        spent, running = held.cost - held.counted, held.state == "running"
        till = self._tills.get(held.key)
        if till is not None:
            till.spent += spent
            till.reserved -= held.nano_usd
            till.open -= running
        else:
            freed = self._freed.setdefault(held.key, [0, 0, 0])
            for place, change in enumerate((spent, -held.nano_usd, -int(running))):
                freed[place] += change

    def _change(self, held: _Held, nano_usd: int, counted: int, state: str) -> None:
        held.nano_usd, held.counted, held.state = nano_usd, counted, state
        self._database.execute(_CHANGE_HOLD_SQL, (nano_usd, counted, state, held.id, *held.key))

    def _have_room(self, asks: Sequence[Ask]) -> bool:
        """Make the reservations of all that ask, if all of them fit into their tills together and
        there is nothing to tell.

        PERF: so it is nearly always, and one statement for each till takes half the time of
        reading it, deciding and writing it back.
        """
        if any(ask.again or ask.so_far is not None for ask in asks):
            return False
        rows, sums, held_at = [], dict[TillKey, list[int]](), timestamp(self._now)
        for ask in asks:
            keys = tuple(self._wanted[ask.id].felt)
            self.made[ask.id] = ask.worst, keys
            for key in keys:
                rows.append((ask.id, *key, ask.worst, self._holder, held_at))
                total = sums.setdefault(key, [0, 0])
                total[0] += ask.worst
                total[1] += 1
        undo: list[tuple[object, ...]] = []
        for key, (_ends_at, (name, cap)) in self._new(asks).items():
            worst, calls = sums[key]
            row = (worst, calls, *key, name, cap, self._now, int(cap * NOTABLE), worst)
            if not self._database.execute(_RESERVE_SQL, row).rowcount:
                self._database.executemany(_FREE_SQL, undo)
                self.made = {}
                return False
            undo.append((0, -worst, -calls, *key))
        self._database.executemany(_NEW_HOLD_SQL, rows)
        self.verdicts = dict.fromkeys(self.made, _BEGUN)
        return True

    def _ask(self, ask: Ask) -> Verdict:
        """Whether a call may begin; then its reservation is made."""
        caps: Sequence[CapTill] = self._wanted[ask.id].all
        running = dict[TillKey, _Held]()
        if held := self._held.get(ask.id):
            if ask.so_far is None:
                # Its answer was lost, the reservation was not.
                return _BEGUN
            self.touched.append(ask.id)
            # All rounds are of the windows in which the first one began.
            first = {each.key[:3]: each.key for each in held}
            caps = [(cap, first.get(key[:3], key), window) for cap, key, window in caps]
            running = {each.key: each for each in held if each.state != "lapsed"}
            for each in running.values():
                # Between rounds it has cost what it has cost.
                till = self._tills[each.key]
                till.reserved += ask.so_far - each.nano_usd
                till.open -= each.state == "running"
                self._change(each, ask.so_far, each.counted, "paused")
        verdict = begin(ask.id, ask.worst, caps, self._tills, self._now)
        if isinstance(verdict, Begun):
            rows = []
            for key in {key: None for _cap, key, _window in caps}:
                if paused := running.get(key):
                    self._change(paused, paused.nano_usd + ask.worst, paused.counted, "running")
                else:
                    rows.append((ask.id, *key, ask.worst, self._holder, timestamp(self._now)))
            if rows:
                self._database.executemany(_NEW_HOLD_SQL, rows)
        return verdict

    def _close(self) -> None:
        """Write the tills that have changed."""
        changed = [
            (*till.row, *key) for key, till in self._tills.items() if till.row != self._before[key]
        ]
        if changed:
            self._database.executemany(_CHANGE_TILL_SQL, changed)
        if self._freed:
            # In one order, or two gateways could wait for each other.
            rows = [(*freed, *key) for key, freed in sorted(self._freed.items())]
            self._freed = {}
            self._database.executemany(_FREE_SQL, rows)


def _spent(database: Database, key: TillKey, ends_at: str) -> int:
    """What was spent in a window before there was a cap."""
    scope, id, _period, starts_at = key
    if scope == "group":
        id = f"%, {like(id)}, %"
    statement = _SPENT_SQL.format(_WHOSE[scope])
    row = database.execute(statement, (id, starts_at, ends_at)).fetchone()
    return int(row[0]) if row is not None else 0


def _locked(
    database: Database, keys: Sequence[TillKey]
) -> dict[TillKey, tuple[Till, tuple[str, int]]]:
    """Those that there are, each with its name and the amount of its cap."""
    found: dict[TillKey, tuple[Till, tuple[str, int]]] = {}
    lock = "" if isinstance(database, sqlite3.Connection) else _LOCK_SQL
    for some in batches(keys, AT_ONCE):
        # PERF: SQLite takes half the time of (…) IN (VALUES …) where there is one.
        statement = _TILLS_SQL.format(" OR ".join([_KEY] * len(some))) + lock
        values = [each for key in some for each in key]
        for row in database.execute(statement, values).fetchall():
            scope, id, period, starts_at, name, cap, *till = row
            found[scope, id, period, starts_at] = Till(*till), (name, cap)
    return found


def _holds(database: Database, ids: Sequence[str], sql: str = _HOLDS_SQL) -> list[_Held]:
    found: list[_Held] = []
    for some in _pieces(ids):
        rows = database.execute(sql.format(marks(some)), some).fetchall()
        for id, scope, scope_id, period, starts_at, nano_usd, counted, state, cost in rows:
            # PostgreSQL's sums are decimals.
            key = scope, scope_id, period, starts_at
            found.append(_Held(id, key, nano_usd, counted, state, int(cost)))
    return found


def _taken(database: Database, ids: Sequence[str], *, alone: bool) -> list[_Held]:
    """What was reserved by these, and is not any more."""
    if not alone:
        return _holds(database, ids, _TAKE_HOLDS_SQL)
    # PERF: with RETURNING SQLite takes half as long again.
    found = _holds(database, ids)
    for some in _pieces([*{each.id for each in found}]):
        database.execute(_DELETE_HOLDS_SQL.format(marks(some)), some)
    return found


def _pieces(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    # What no text of a database can hold was never reserved for.
    known = [id for id in ids if id.isascii() and "\0" not in id]
    return batches(known, AT_ONCE)
