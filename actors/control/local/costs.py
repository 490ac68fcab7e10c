"""The cost of token records: where rows are written, and again for rows that are stored.

A token record names its interception, and that one says which model of whom was asked.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from attrs import field, frozen

from aigateway.actors.control.local.prices.cost import Cost, Pricing, Used
from aigateway.actors.control.local.schema import moment_of, timestamp, transaction
from aigateway.actors.values.records import (
    Interception,
    InterceptionEnded,
    TokenUsage,
    UsageRecord,
)

__all__ = [
    "Asked",
    "PricedTokens",
    "Recosted",
    "Unpriced",
    "asked_in",
    "price_records",
    "recost",
    "unpriced",
]

_IDS_AT_ONCE = 500
_ROWS_AT_ONCE = 1000
"""How many rows one transaction changes, so that a gateway that writes waits for some ms."""

_ROWS_SQL = """
    SELECT token.rowid, asked.provider, asked.provider_name, asked.model,
           token.input_tokens, token.output_tokens, token.cache_read_input_tokens,
           token.cache_write_input_tokens, token.metadata, token.created_at,
           token.cost_nano_usd, token.price, token.price_table
    FROM interceptions AS asked JOIN token_usages AS token ON token.interception_id = asked.id
    WHERE asked.started_at >= ? AND token.rowid > ?
    ORDER BY token.rowid LIMIT ?
"""


@frozen
class Asked:
    """What was asked for, by an interception."""

    provider: str
    provider_name: str
    model: str


@frozen
class PricedTokens:
    """A token record with its cost, for a row."""

    record: TokenUsage
    cost: Cost


@frozen
class Recosted:
    """What working costs out again has come to.  Sums are nano-dollars."""

    rows: int = 0
    changed: int = 0
    before: int = 0
    after: int = 0
    unpriced_before: int = 0
    unpriced_after: int = 0


@frozen
class Unpriced:
    """Token records of one kind that have no price."""

    provider_name: str
    model: str
    reason: str
    """One of :data:`~.prices.cost.REASONS`."""
    detail: str
    records: int
    tokens: int


def price_records(
    starts: Sequence[Interception],
    records: Sequence[UsageRecord | InterceptionEnded],
    pricing: Pricing,
    asked: Callable[[Sequence[str]], Iterable[tuple[str, Asked]]],
) -> list[UsageRecord | InterceptionEnded | PricedTokens]:
    """The same records in their order, token records with their costs.

    ``asked`` looks up what was asked for by interceptions that are not among ``starts``, by their
    ids; see :func:`asked_in`.  A record whose interception is unknown, or whose values no row
    could hold, stays as it is.
    """
    wanted = {each.interception_id for each in records if isinstance(each, TokenUsage)}
    if not wanted:
        return list(records)
    known = {
        each.id: Asked(each.provider, each.provider_name or each.provider, each.model)
        for each in starts
    }
    known.update(asked(sorted(wanted - known.keys())))
    return [_priced(each, known, pricing) for each in records]


def _priced(
    record: UsageRecord | InterceptionEnded, known: Mapping[str, Asked], pricing: Pricing
) -> UsageRecord | InterceptionEnded | PricedTokens:
    if not isinstance(record, TokenUsage):
        return record
    asked = known.get(record.interception_id)
    if asked is None:
        return record
    try:
        cost = pricing.cost(
            Used.of(record),
            asked.model,
            provider=asked.provider,
            provider_name=asked.provider_name,
            moment=record.created_at,
        )
    except (TypeError, ValueError, OverflowError, OSError):
        # The row says what is wrong with such values.
        return record
    return PricedTokens(record, cost)


def asked_in(connection: sqlite3.Connection, ids: Sequence[str]) -> Iterator[tuple[str, Asked]]:
    """What was asked for by the interceptions of a SQLite database.  Raises sqlite3.Error."""
    for first in range(0, len(ids), _IDS_AT_ONCE):
        some = [
            each.encode(errors="replace").decode() for each in ids[first : first + _IDS_AT_ONCE]
        ]
        marks = ",".join("?" * len(some))
        found = connection.execute(
            f"SELECT id, provider, provider_name, model FROM interceptions WHERE id IN ({marks})",
            some,
        )
        for interception_id, *values in found:
            yield interception_id, Asked(*values)


@frozen
class _Row:
    """A token record as it is stored, and what it costs today."""

    rowid: int
    asked: Asked
    used: Used
    was: tuple[int | None, str | None, str | None]
    cost: Cost
    tokens: int = field(default=0)

    @property
    def now(self) -> tuple[int | None, str | None, str | None]:
        return self.cost.nano_usd, self.cost.price, self.cost.table


def _stored(
    connection: sqlite3.Connection, pricing: Pricing, since: float, behind: int
) -> list[_Row]:
    rows = []
    for (
        rowid, provider, provider_name, model, given, made, read, written, metadata, created_at,
        *was,
    ) in connection.execute(_ROWS_SQL, (timestamp(since), behind, _ROWS_AT_ONCE)):  # fmt: skip
        asked = Asked(provider, provider_name, model)
        used = Used(given, made, read, written, json.loads(metadata))
        cost = pricing.cost(
            used,
            model,
            provider=provider,
            provider_name=provider_name,
            moment=moment_of(created_at),
        )
        tokens = given + made + read + written
        rows.append(_Row(rowid, asked, used, (was[0], was[1], was[2]), cost, tokens))
    return rows


def recost(
    connection: sqlite3.Connection, pricing: Pricing, since: float, *, dry_run: bool = False
) -> Recosted:
    """Work the costs out again of all interceptions that started at ``since`` (Unix seconds) or
    later, with the prices that held when each was recorded.

    ``dry_run`` changes nothing.  Raises sqlite3.Error; what was changed until then stays.
    """
    sums: Counter[str] = Counter()
    behind = -1
    while rows := _stored(connection, pricing, since, behind):
        behind = rows[-1].rowid
        changed = [row for row in rows if row.was != row.now]
        if changed and not dry_run:
            with transaction(connection):
                connection.executemany(
                    "UPDATE token_usages SET cost_nano_usd = ?, price = ?, price_table = ?"
                    " WHERE rowid = ?",
                    [(*row.now, row.rowid) for row in changed],
                )
        sums["rows"] += len(rows)
        sums["changed"] += len(changed)
        for row in rows:
            sums["before"] += row.was[0] or 0
            sums["after"] += row.cost.nano_usd or 0
            sums["unpriced_before"] += row.was[0] is None
            sums["unpriced_after"] += row.cost.nano_usd is None
    return Recosted(**sums)


def unpriced(connection: sqlite3.Connection, pricing: Pricing, since: float) -> list[Unpriced]:
    """What has no price with these tables, of interceptions that started at ``since`` or later,
    most tokens first."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    tokens: Counter[tuple[str, str, str, str]] = Counter()
    behind = -1
    while rows := _stored(connection, pricing, since, behind):
        behind = rows[-1].rowid
        for row in rows:
            if row.cost.unpriced is None:
                continue
            told = row.used.metadata
            name = told.get("provider_name") or row.asked.provider_name
            model = told.get("provider_model") or row.asked.model
            key = (str(name), str(model), row.cost.unpriced, row.cost.detail)
            counts[key] += 1
            tokens[key] += row.tokens
    found = [Unpriced(*key, records=n, tokens=tokens[key]) for key, n in counts.items()]
    return sorted(found, key=lambda each: (-each.tokens, each.provider_name, each.model))
