"""The embedded control plane's database in use: look a key up, write records.

Never waits for a lock: SQLite's own waiting would hold up every greenlet of the process.
What is locked raises :class:`DatabaseBusy`, and the caller tries again.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from attrs import field

from aigateway.actors.control.local._rows import (
    END_SQL,
    START_SQL,
    Row,
    end_row,
    end_updates,
    grouped,
    insertions,
    start_row,
    without_surrogates,
)
from aigateway.actors.control.local.address import LocalDatabaseError
from aigateway.actors.control.local.api_keys import Uses, find_callers, note_uses
from aigateway.actors.control.local.cache_turns import PENDING_SQL, pending_rows, prompt_key
from aigateway.actors.control.local.cap_book import Money, OwnHolds, TillBook
from aigateway.actors.control.local.cap_holders import AnyHolds, CapRow, Holders
from aigateway.actors.control.local.caps import Full, Verdict, Wait
from aigateway.actors.control.local.costs import (
    Asked,
    StoredRecord,
    asked_in,
    count_costs,
    price_records,
)
from aigateway.actors.control.local.policies import BadStoredPolicy, PolicyInForce
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.schema import (
    is_busy,
    may_pass,
    open_database,
    touch,
    transaction,
)
from aigateway.actors.control.local.session_parts import PART_SQL, PartNotes, part_rows
from aigateway.actors.control.local.stored_ids import foreign_id, remember
from aigateway.actors.control.messages import Caller, Denied
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import InterceptionBegun, InterceptionEnded, UsageRecord

__all__ = ["DatabaseBusy", "DatabaseTrouble", "Store", "Written"]

_BAD_VALUES = (
    ValueError,
    TypeError,
    OverflowError,
    OSError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a value raises that cannot be stored: in time and JSON conversion, or in SQLite."""


class DatabaseBusy(Exception):
    """Another process holds the lock; nothing was changed."""


class DatabaseTrouble(Exception):
    """The database cannot be read or written now (disk full, file gone, …); nothing was changed."""


@frozen
class Written:
    """What a write refused, by position, with the reason; all the rest is stored."""

    starts: Mapping[int, str] = field(factory=dict)
    records: Mapping[int, str] = field(factory=dict)
    verdicts: Mapping[str, Verdict] = field(factory=dict)
    """What caps have said, by interception.  One that may not begin yet is not stored."""
    settled: int = 0
    """How many reservations became what was spent."""

    def has_begun(self, id: str) -> bool:
        """Whether caps have let this interception begin, or have nothing to say of it."""
        return not isinstance(self.verdicts.get(id), Wait | Full)


_ALL = Written()
_SETTLE = Money()

_ASKED_AT_MOST = 10_000
"""Interceptions that run at once; what is asked for by more is looked up again."""


class Store:
    """One connection.  Opened again after trouble, since the file may have been replaced.

    Raises :class:`~.address.LocalDatabaseError` when the file is none that can be used, and has
    ``trouble`` when it cannot be opened now; ``patience`` is how many seconds that may take.
    Token records get costs by ``pricing``.
    """

    def __init__(
        self, path: str | os.PathLike[str], patience: float, pricing: Pricing | None = None
    ) -> None:
        self._path = path
        self._pricing = pricing
        self._policy = PolicyInForce()
        self.uses = Uses()
        self.unpriced: Counter[str] = Counter()
        """Token records that were stored without a cost, by the reason."""
        self.costs: Counter[str] = Counter()
        """In nano-dollars by the price's name, of what this process has stored."""
        self._asked: dict[str, Asked] = {}
        """What was asked for by interceptions that began here and have not ended."""
        self._parts = PartNotes.empty()
        self._connection: sqlite3.Connection | None = None
        self.trouble: str | None = None
        """Why it could not be opened at first."""
        self.prompt_key = b""
        """What checksums of prompts' parts are keyed with; empty before it was opened."""
        try:
            self._connection = open_database(path, patience=patience)
            self._connection.execute("PRAGMA busy_timeout = 0")
            self.prompt_key = prompt_key(self._connection)
        except LocalDatabaseError as ex:
            if not may_pass(ex):
                raise
            self.trouble = str(ex)
        self._file = _identity(path)
        self._holds = AnyHolds()
        self._own = OwnHolds()
        self._holders = Holders()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def find_caller(self, token: str, now: float) -> Caller | Denied:
        """Whose key is this, and what may its holder?  ``now`` in Unix seconds.

        Raises :class:`DatabaseBusy` and :class:`DatabaseTrouble`.
        """
        try:
            connection = self._opened()
            self._policy.look(connection)
            asked = find_callers(connection, (token,), now, groups=self._policy.has_groups)
            found = asked[token]
            if isinstance(found, Denied):
                return found
            self.uses.note(found.caller.api_key_id, found.last_used_at, now)
            return self._policy.admitted(found)
        except BadStoredPolicy as ex:
            raise DatabaseTrouble(str(ex)) from ex
        except (sqlite3.Error, LocalDatabaseError, OSError) as ex:
            raise self._failed(ex) from ex

    def write(
        self,
        starts: Sequence[InterceptionBegun],
        records: Sequence[UsageRecord | InterceptionEnded],
        money: Money | None = None,
    ) -> Written:
        """Store all in one transaction, ``starts`` first; those that ``money`` asks for, only if
        their caps let them begin.

        Raises :class:`DatabaseBusy` and :class:`DatabaseTrouble`: then nothing was stored.
        """
        try:
            connection = self._opened_for_writing()
            if money is None and self._holds.any(connection):
                money = _SETTLE
            rows: Sequence[StoredRecord] = records
            if self._pricing is not None:
                rows = price_records(
                    starts, records, self._pricing, partial(self._asked_for, connection)
                )
            unnoted = self._parts.unwritten(starts)
            turns = pending_rows(records)
            try:
                written = _write_together(
                    connection, starts, rows, money, unnoted, turns, self._own
                )
            except _BAD_VALUES:
                unnoted = []
                written = _write_singly(connection, starts, rows, money, turns, self._own)
            self._parts.written(start for start in unnoted if written.has_begun(start.id))
        except (sqlite3.Error, LocalDatabaseError, OSError) as ex:
            raise self._failed(ex) from ex
        if written.verdicts:
            self._holds.made()
        count_costs(rows, self.costs, self.unpriced)
        self._note_asked(starts, records)
        return written

    def note_uses(self) -> None:
        """Write down which keys were used since the last time.

        Raises :class:`DatabaseBusy` and :class:`DatabaseTrouble`; then it is done the next time.
        """
        try:
            self.uses.written(partial(note_uses, self._opened_for_writing()))
        except (sqlite3.Error, LocalDatabaseError, OSError) as ex:
            raise self._failed(ex) from ex

    def _asked_for(
        self, connection: sqlite3.Connection, ids: Sequence[str]
    ) -> Iterator[tuple[str, Asked]]:
        unknown = []
        for each in ids:
            if (asked := self._asked.get(each)) is not None:
                yield each, asked
            else:
                unknown.append(each)
        if unknown:
            yield from asked_in(connection, unknown)

    def _note_asked(
        self,
        starts: Sequence[InterceptionBegun],
        records: Sequence[UsageRecord | InterceptionEnded],
    ) -> None:
        # PERF: asking the database costs 10 us for each request.  What an interception asked
        # for never changes.
        for start in starts:
            self._asked[start.id] = Asked.by(start)
        for record in records:
            if isinstance(record, InterceptionEnded):
                self._asked.pop(record.id, None)
        while len(self._asked) > _ASKED_AT_MOST:
            del self._asked[next(iter(self._asked))]

    def remember_ids(self, claims: Sequence[tuple[str, Sequence[str]]], now: float) -> None:
        """Note ids as those of users; see :mod:`.stored_ids`.

        Raises :class:`DatabaseBusy` and :class:`DatabaseTrouble`.
        """
        try:
            remember(self._opened_for_writing(), claims, now)
        except (sqlite3.Error, LocalDatabaseError, OSError) as ex:
            raise self._failed(ex) from ex

    def foreign_id(
        self, user_id: str, ids: Sequence[str], now: float
    ) -> tuple[str | None, tuple[str, ...]]:
        """The first of ``ids`` that is another user's, and those whose use is to be noted.

        Raises :class:`DatabaseBusy` and :class:`DatabaseTrouble`.
        """
        try:
            return foreign_id(self._opened(), user_id, ids, now)
        except (sqlite3.Error, LocalDatabaseError, OSError) as ex:
            raise self._failed(ex) from ex

    def look_after_holds(
        self, holder: str, now: float, monotonic: float
    ) -> tuple[int, list[CapRow]]:
        """Show that ``holder`` is there, and let the reservations lapse of those that are not;
        how many interceptions had some, and how full caps are.

        Raises :class:`DatabaseBusy` and :class:`DatabaseTrouble`.
        """
        try:
            connection = self._opened_for_writing()
            with transaction(connection):
                return self._holders.look_after(connection, holder, now, monotonic)
        except (sqlite3.Error, LocalDatabaseError, OSError) as ex:
            raise self._failed(ex) from ex

    def probe(self) -> None:
        """Write without changing anything.

        Raises :class:`DatabaseBusy` and :class:`DatabaseTrouble`.
        """
        try:
            touch(self._opened_for_writing())
        except (sqlite3.Error, LocalDatabaseError, OSError) as ex:
            raise self._failed(ex) from ex

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            # Not created again: an empty database would refuse every key for good.
            self._connection = open_database(self._path, create=False, patience=0)
            self._file = _identity(self._path)
            self._parts = PartNotes.empty()
            self.prompt_key = prompt_key(self._connection)
        return self._connection

    def _opened_for_writing(self) -> sqlite3.Connection:
        # SQLite goes on writing to a file that was deleted or replaced, where nobody reads it.
        if self._connection is not None and _identity(self._path) != self._file:
            self.close()
        return self._opened()

    def _failed(self, ex: Exception) -> DatabaseBusy | DatabaseTrouble:
        cause = ex.__cause__ if isinstance(ex, LocalDatabaseError) else ex
        if isinstance(cause, sqlite3.Error) and is_busy(cause):
            return DatabaseBusy(str(ex))
        self.close()
        return DatabaseTrouble(str(ex))


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _write_together(
    connection: sqlite3.Connection,
    starts: Sequence[InterceptionBegun],
    records: Sequence[StoredRecord],
    money: Money | None,
    unnoted: Sequence[InterceptionBegun],
    turns: Sequence[Row],
    own: OwnHolds,
) -> Written:
    # The lock is taken late: rows are made before.
    start_rows = [start_row(record) for record in starts]
    tables, ends = grouped(records)
    bad: Mapping[int, str] = {}
    asked = frozenset[str]() if money is None else money.asked
    with transaction(connection):
        book = None if money is None else TillBook.of(connection, money, records, own)
        if free := [row for row in start_rows if row[0] not in asked] if asked else start_rows:
            connection.executemany(START_SQL, free)
        for statement, rows in tables.items():
            connection.executemany(statement, rows)
        changed = [connection.executemany(*update).rowcount for update in end_updates(ends)]
        if sum(changed) != len(ends):
            bad = _ends_of_nothing(connection, records)
        if turns:
            connection.executemany(PENDING_SQL, turns)
        if book is None:
            if parts := part_rows(unnoted):
                connection.executemany(PART_SQL, parts)
            return Written(records=bad) if bad else _ALL
        book.work()
        if begun := [row for row in start_rows if row[0] in asked and book.may_begin(str(row[0]))]:
            connection.executemany(START_SQL, begun)
        if parts := part_rows(start for start in unnoted if book.may_begin(start.id)):
            connection.executemany(PART_SQL, parts)
    own.keep(book)
    return Written({}, bad, book.verdicts, book.settled)


def _write_singly(
    connection: sqlite3.Connection,
    starts: Sequence[InterceptionBegun],
    records: Sequence[StoredRecord],
    money: Money | None,
    turns: Sequence[Row],
    own: OwnHolds,
) -> Written:
    """Like :func:`_write_together`, but finds out which records are at fault."""
    bad_starts: dict[int, str] = {}
    bad_records: dict[int, str] = {}
    with transaction(connection):
        book = TillBook.of(connection, money or _SETTLE, records, own)
        for position, start in enumerate(starts):
            try:
                _execute(connection, START_SQL, start_row(start))
            except _BAD_VALUES as ex:
                bad_starts[position] = f"invalid record: {ex}"
        for position, record in enumerate(records):
            try:
                if isinstance(record, InterceptionEnded):
                    _execute(connection, END_SQL, end_row(record))
                else:
                    for statement, row in insertions(record):
                        _execute(connection, statement, row)
            except _BAD_VALUES as ex:
                bad_records[position] = f"invalid record: {ex}"
        for turn in turns:
            _execute(connection, PENDING_SQL, turn)
        bad_records = _ends_of_nothing(connection, records) | bad_records
        book.work(without={starts[position].id for position in bad_starts})
        for start in starts:
            if not book.may_begin(start.id):
                connection.execute("DELETE FROM interceptions WHERE id = ?", (start.id,))
        for part in part_rows(
            start
            for position, start in enumerate(starts)
            if position not in bad_starts and book.may_begin(start.id)
        ):
            _execute(connection, PART_SQL, part)
    own.keep(book)
    return Written(bad_starts, bad_records, book.verdicts, book.settled)


def _execute(connection: sqlite3.Connection, statement: str, row: Row) -> None:
    try:
        connection.execute(statement, row)
    except UnicodeEncodeError:
        connection.execute(statement, without_surrogates(row))


def _ends_of_nothing(
    connection: sqlite3.Connection, records: Sequence[StoredRecord]
) -> dict[int, str]:
    unknown: dict[int, str] = {}
    for position, record in enumerate(records):
        if isinstance(record, InterceptionEnded):
            found = connection.execute("SELECT 1 FROM interceptions WHERE id = ?", (record.id,))
            if found.fetchone() is None:
                unknown[position] = f'unknown interception "{record.id}"'
    return unknown
