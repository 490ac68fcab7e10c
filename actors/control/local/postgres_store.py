"""PostgreSQL in use: look keys up, write records, as :mod:`.store` does with a file.

Each call borrows a connection for one transaction.  What may have been committed although the
connection broke can be done again: starts and records that are there are left as they are, and
an end says the same twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from aigateway.actors.control.local._rows import (
    START_SQL,
    Row,
    end_row,
    grouped,
    insertions,
    merged,
    start_row,
    without_nul,
    without_surrogates,
)
from aigateway.actors.control.local.api_keys import Uses, find_callers, note_uses
from aigateway.actors.control.local.cache_turns import PENDING_SQL, pending_rows, prompt_key
from aigateway.actors.control.local.cap_book import Money, TillBook
from aigateway.actors.control.local.cap_holders import AnyHolds, CapRow, Holders
from aigateway.actors.control.local.costs import (
    StoredRecord,
    asked_in,
    count_costs,
    price_records,
)
from aigateway.actors.control.local.policies import BadStoredPolicy, PolicyInForce
from aigateway.actors.control.local.postgres import (
    ConnectionPool,
    PostgresDatabase,
    one_line,
    settle,
    touch,
)
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.schema import marks
from aigateway.actors.control.local.session_parts import PART_SQL, PartNotes, part_rows
from aigateway.actors.control.local.store import DatabaseTrouble, Written
from aigateway.actors.control.local.stored_ids import foreign_id, remember
from aigateway.actors.control.messages import Caller, Denied
from aigateway.actors.values.records import InterceptionBegun, InterceptionEnded, UsageRecord

__all__ = ["PostgresStore"]

_END_SQL = """
    UPDATE interceptions
    SET ended_at = ?, error_type = ?, error_message = ?,
        credential_hint = coalesce(nullif(?, ''), credential_hint),
        provider_name = coalesce(?, provider_name),
        metadata = coalesce(?, metadata)
    WHERE id = ?
"""

_BAD_VALUES = (
    ValueError,
    TypeError,
    OverflowError,
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
)
"""What a value raises that cannot be stored: in time and JSON conversion, or in PostgreSQL."""


def _is_bad_value(ex: Exception) -> bool:
    # What psycopg cannot even send has no state of the server's; a missing table has one.
    unsendable = isinstance(ex, psycopg.ProgrammingError) and ex.sqlstate is None
    return unsendable or isinstance(ex, _BAD_VALUES)


class PostgresStore:
    """The database at ``address`` by at most ``size`` connections.

    Nothing is tried before it is asked for something, and the schema is looked at once.  All but
    :meth:`close` raise :class:`~.store.DatabaseTrouble` when the database cannot be reached or
    does not do it, and :class:`~.address.LocalDatabaseError` for one that it never will.
    ``patience`` is how many seconds they wait for a connection.  Token records get costs by
    ``pricing``.
    """

    def __init__(
        self, address: str, size: int, patience: float, pricing: Pricing | None = None
    ) -> None:
        self._address = address
        self._pricing = pricing
        self._policy = PolicyInForce()
        self.uses = Uses()
        self.unpriced: Counter[str] = Counter()
        self.costs: Counter[str] = Counter()
        """In nano-dollars by the price's name, of what this process has stored."""
        """Token records that were stored without a cost, by the reason."""
        self._parts = PartNotes.empty()
        self._patience = patience
        self._settled = False
        self.prompt_key = b""
        """What checksums of prompts' parts are keyed with; empty until that is known."""
        self._pool = ConnectionPool(address, size)
        self._holds = AnyHolds()
        self._holders = Holders()

    @property
    def trouble(self) -> str:
        """Why the last try to connect failed; empty when it did not."""
        return self._pool.trouble

    def close(self) -> None:
        self._pool.close()

    def probe(self, *, writing: bool = False) -> None:
        """Read or write without changing anything."""
        with self._lent() as database:
            if writing:
                touch(database)
            else:
                database.execute("SELECT 1")

    def look_up(
        self,
        tokens: Sequence[str],
        claims: Sequence[tuple[str, Sequence[str]]],
        now: float,
    ) -> tuple[dict[str, Caller | Denied], list[tuple[str | None, tuple[str, ...]]]]:
        """Whose keys are ``tokens``, and what may their holders; and for each of ``claims`` (a
        user id, with ids that user named) what :func:`~.stored_ids.foreign_id` says.  ``now`` in
        Unix seconds.

        For one thread at a time.
        """
        with self._lent() as database:
            callers = self._callers(database, tokens, now) if tokens else {}
            return callers, [foreign_id(database, user, ids, now) for user, ids in claims]

    def _callers(
        self, database: PostgresDatabase, tokens: Sequence[str], now: float
    ) -> dict[str, Caller | Denied]:
        callers: dict[str, Caller | Denied] = {}
        try:
            self._policy.look(database)
            groups = self._policy.has_groups
            for token, found in find_callers(database, tokens, now, groups=groups).items():
                if isinstance(found, Denied):
                    callers[token] = found
                    continue
                self.uses.note(found.caller.api_key_id, found.last_used_at, now)
                callers[token] = self._policy.admitted(found)
        except BadStoredPolicy as ex:
            raise DatabaseTrouble(str(ex)) from ex
        return callers

    def note_uses(self) -> None:
        """Write down which keys were used since the last time; after trouble it is done the next
        time."""
        with self._lent() as database:
            self.uses.written(partial(note_uses, database))

    def remember_ids(self, claims: Sequence[tuple[str, Sequence[str]]], now: float) -> None:
        """Note ids as those of users; see :mod:`.stored_ids`."""
        with self._lent() as database:
            remember(database, claims, now)

    def write(
        self,
        starts: Sequence[InterceptionBegun],
        records: Sequence[UsageRecord | InterceptionEnded],
        money: Money | None = None,
    ) -> Written:
        """Store all in one transaction, ``starts`` first; those that ``money`` asks for, only if
        their caps let them begin.  After trouble nothing is stored, or all is and nobody knows."""
        with self._lent() as database:
            if money is None and self._holds.any(database):
                money = Money()
            rows: Sequence[StoredRecord] = records
            if self._pricing is not None:
                rows = price_records(starts, records, self._pricing, partial(asked_in, database))
            unnoted = self._parts.unwritten(starts)
            turns = pending_rows(records)
            try:
                written = _write_together(database, starts, rows, money, unnoted, turns)
            except Exception as ex:
                if not _is_bad_value(ex):
                    raise
                unnoted = []
                written = _write_singly(database, starts, rows, money, turns)
        self._parts.written(start for start in unnoted if written.has_begun(start.id))
        if written.verdicts:
            self._holds.made()
        count_costs(rows, self.costs, self.unpriced)
        return written

    def look_after_holds(
        self, holder: str, now: float, monotonic: float
    ) -> tuple[int, list[CapRow]]:
        """Show that ``holder`` is there, and let the reservations lapse of those that are not;
        how many interceptions had some, and how full caps are."""
        with self._lent() as database, database.transaction():
            return self._holders.look_after(database, holder, now, monotonic)

    @contextmanager
    def _lent(self) -> Iterator[PostgresDatabase]:
        try:
            with self._pool.connection(self._patience) as database:
                if not self._settled:
                    settle(database, self._address)
                    self.prompt_key = prompt_key(database)
                    self._settled = True
                yield database
        except psycopg.Error as ex:
            raise DatabaseTrouble(one_line(ex)) from ex


def _write_together(
    database: PostgresDatabase,
    starts: Sequence[InterceptionBegun],
    records: Sequence[StoredRecord],
    money: Money | None,
    unnoted: Sequence[InterceptionBegun],
    turns: Sequence[Row],
) -> Written:
    start_rows = [start_row(record) for record in starts]
    tables, ends = grouped(records)
    if money is None:
        # PERF: in a pipeline all of it costs one round trip.
        with database.connection.pipeline(), database.transaction():
            ended = _insert(database, start_rows, tables, ends)
            _note_parts(database, unnoted)
            _note_turns(database, turns)
        return Written(records=_bad_ends(database, ended, ends, records))
    asked = money.asked
    with database.transaction():
        book = TillBook.of(database, money, records)
        with database.connection.pipeline():
            free = [row for row in start_rows if row[0] not in asked]
            ended = _insert(database, free, tables, ends)
        book.work()
        if begun := [row for row in start_rows if row[0] in asked and book.may_begin(str(row[0]))]:
            database.executemany(START_SQL, begun)
        _note_parts(database, [start for start in unnoted if book.may_begin(start.id)])
        _note_turns(database, turns)
    bad = _bad_ends(database, ended, ends, records)
    return Written({}, bad, book.verdicts, book.settled)


def _insert(
    database: PostgresDatabase,
    starts: Sequence[Row],
    tables: Mapping[str, Sequence[Row]],
    ends: Sequence[Row],
) -> psycopg.Cursor[tuple[Any, ...]] | None:
    """What came of the ends, once the pipeline is over."""
    if starts:
        database.executemany(START_SQL, starts)
    for statement, rows in tables.items():
        database.executemany(statement, rows)
    return database.executemany(_END_SQL, _with_metadata(database, ends)) if ends else None


def _note_parts(database: PostgresDatabase, starts: Sequence[InterceptionBegun]) -> None:
    if parts := part_rows(starts):
        database.executemany(PART_SQL, parts)


def _note_turns(database: PostgresDatabase, turns: Sequence[Row]) -> None:
    if turns:
        database.executemany(PENDING_SQL, turns)


def _bad_ends(
    database: PostgresDatabase,
    ended: psycopg.Cursor[tuple[Any, ...]] | None,
    ends: Sequence[Row],
    records: Sequence[StoredRecord],
) -> dict[int, str]:
    if ended is None or ended.rowcount == len(ends):
        return {}
    return _ends_of_nothing(database, records)


def _write_singly(
    database: PostgresDatabase,
    starts: Sequence[InterceptionBegun],
    records: Sequence[StoredRecord],
    money: Money | None,
    turns: Sequence[Row],
) -> Written:
    """Like :func:`_write_together`, but finds out which records are at fault."""
    bad_starts: dict[int, str] = {}
    bad_records: dict[int, str] = {}
    with database.transaction():
        book = TillBook.of(database, money or Money(), records)
        for position, start in enumerate(starts):
            try:
                _execute(database, START_SQL, start_row(start))
            except Exception as ex:
                if not _is_bad_value(ex):
                    raise
                bad_starts[position] = _invalid(ex)
        for position, record in enumerate(records):
            try:
                if isinstance(record, InterceptionEnded):
                    (row,) = _with_metadata(database, [end_row(record)])
                    _execute(database, _END_SQL, row)
                else:
                    for statement, row in insertions(record):
                        _execute(database, statement, row)
            except Exception as ex:
                if not _is_bad_value(ex):
                    raise
                bad_records[position] = _invalid(ex)
        book.work(without={starts[position].id for position in bad_starts})
        for start in starts:
            if not book.may_begin(start.id):
                database.execute("DELETE FROM interceptions WHERE id = ?", (start.id,))
        for part in part_rows(
            start
            for position, start in enumerate(starts)
            if position not in bad_starts and book.may_begin(start.id)
        ):
            _execute(database, PART_SQL, part)
        for turn in turns:
            _execute(database, PENDING_SQL, turn)
    bad_records = _ends_of_nothing(database, records) | bad_records
    return Written(bad_starts, bad_records, book.verdicts, book.settled)


def _with_metadata(database: PostgresDatabase, ends: Sequence[Row]) -> list[Row]:
    """The rows of ends with all of the interception's metadata, None for no change.

    PostgreSQL's own JSON does not take every JSON text, and says so only when it is too late.
    """
    adding = [row[6] for row in ends if row[5] != "{}"]
    stored: dict[str, str] = {}
    if adding:
        found = database.execute(
            f"SELECT id, metadata FROM interceptions WHERE id IN ({marks(adding)})", adding
        )
        stored = dict(found.fetchall())
    rows: list[Row] = []
    for row in ends:
        *before, metadata, id = row
        if metadata != "{}":
            rows.append((*before, merged(stored.get(str(id), "{}"), str(metadata)), id))
        else:
            rows.append((*before, None, id))
    return rows


def _execute(database: PostgresDatabase, statement: str, row: Row) -> None:
    # A part of its own, so that what fails does not undo what went well.
    with database.transaction():
        database.execute(statement, without_nul(without_surrogates(row)))


def _invalid(ex: Exception) -> str:
    return f"invalid record: {one_line(ex)}"


def _ends_of_nothing(database: PostgresDatabase, records: Sequence[StoredRecord]) -> dict[int, str]:
    ends = {
        position: record.id
        for position, record in enumerate(records)
        if isinstance(record, InterceptionEnded)
    }
    if not ends:
        return {}
    found: Any = database.execute(
        f"SELECT id FROM interceptions WHERE id IN ({marks(ends)})",
        [without_nul(without_surrogates((id,)))[0] for id in ends.values()],
    )
    known = {id for (id,) in found.fetchall()}
    return {
        position: f'unknown interception "{id}"' for position, id in ends.items() if id not in known
    }
