"""The cost of token records: where rows are written, and again for rows that are stored.

A token record names its interception, and that one says which model of whom was asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from aigateway.actors.control.local.prices.cost import Cost, Pricing, Used
from aigateway.actors.control.local.schema import Database, batches, marks, moment_of, transaction
from aigateway.actors.values.frozen import frozen
from aigateway.actors.values.records import (
    InterceptionBegun,
    InterceptionEnded,
    TokenUsage,
    UsageRecord,
    timestamp,
)

__all__ = [
    "Asked",
    "PricedTokens",
    "Recosted",
    "StoredRecord",
    "Unpriced",
    "asked_in",
    "count_costs",
    "price_records",
    "recost",
    "unpriced",
]

_INTERCEPTIONS_AT_ONCE = 500
"""How many are looked at together, and changed in one transaction, so that a gateway that writes
waits for some ms."""

_ASKED_SQL = """
    SELECT id, provider, provider_name, model FROM interceptions WHERE id IN ({})
"""
_NEXT_SQL = """
    SELECT id, provider, provider_name, model, started_at FROM interceptions
    WHERE started_at >= ? AND (started_at, id) > (?, ?) ORDER BY started_at, id LIMIT ?
"""
_TOKENS_SQL = """
    SELECT interception_id, msg_id, input_tokens, output_tokens, cache_read_input_tokens,
           cache_write_input_tokens, metadata, created_at, record_id,
           cost_nano_usd, price, price_table
    FROM token_usages WHERE interception_id IN ({})
"""
# Rows without an id of their own that are the same cost the same.
_CHANGE_SQL = """
    UPDATE token_usages SET cost_nano_usd = ?, price = ?, price_table = ?
    WHERE interception_id = ? AND msg_id = ? AND input_tokens = ? AND output_tokens = ?
      AND cache_read_input_tokens = ? AND cache_write_input_tokens = ? AND metadata = ?
      AND created_at = ? AND coalesce(record_id, '') = coalesce(?, '')
"""


@frozen
class Asked:
    """What was asked for, by an interception."""

    provider: str
    provider_name: str
    model: str

    @classmethod
    def by(cls, start: InterceptionBegun) -> Asked:
        return cls(start.provider, start.provider_name or start.provider, start.model)


@frozen
class PricedTokens:
    """A token record with its cost, for a row."""

    record: TokenUsage
    cost: Cost


StoredRecord: TypeAlias = UsageRecord | InterceptionEnded | PricedTokens
"""What a store writes: a token record may have its cost."""


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
    starts: Sequence[InterceptionBegun],
    records: Sequence[UsageRecord | InterceptionEnded],
    pricing: Pricing,
    asked: Callable[[Sequence[str]], Iterable[tuple[str, Asked]]],
) -> list[StoredRecord]:
    """The same records in their order, token records with their costs.

    ``asked`` looks up what was asked for by interceptions that are not among ``starts``, by their
    ids; see :func:`asked_in`.  A record whose interception is unknown, or whose values no row
    could hold, stays as it is.
    """
    wanted = {each.interception_id for each in records if isinstance(each, TokenUsage)}
    if not wanted:
        return list(records)
    known = {each.id: Asked.by(each) for each in starts if each.id in wanted}
    known.update(asked(sorted(wanted - known.keys())))
    return [_priced(each, known, pricing) for each in records]


def count_costs(
    records: Iterable[StoredRecord], costs: Counter[str], unpriced: Counter[str]
) -> None:
    """Add what records cost to ``costs``, in nano-dollars by the price's name, and those that were
    asked for their cost and have none to ``unpriced``, by the reason."""
    for each in records:
        if isinstance(each, PricedTokens):
            cost = each.cost
            if cost.unpriced is not None:
                unpriced[cost.unpriced] += 1
            elif cost.nano_usd and cost.price:
                costs[cost.price] += cost.nano_usd


def _priced(
    record: UsageRecord | InterceptionEnded, known: Mapping[str, Asked], pricing: Pricing
) -> StoredRecord:
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


def asked_in(connection: Database, ids: Sequence[str]) -> Iterator[tuple[str, Asked]]:
    """What was asked for by interceptions that are stored.  Raises what the database raises."""
    for batch in batches(ids, _INTERCEPTIONS_AT_ONCE):
        some = [each.encode(errors="replace").decode().replace("\0", "?") for each in batch]
        for id, kind, name, model in connection.execute(_ASKED_SQL.format(marks(some)), some):
            yield id, Asked(kind, name, model)


@frozen
class _Row:
    """A token record as it is stored, and what it costs today."""

    key: tuple[Any, ...]
    """What tells it from rows that cost something else."""
    asked: Asked
    used: Used
    was: tuple[int | None, str | None, str | None]
    cost: Cost

    @property
    def now(self) -> tuple[int | None, str | None, str | None]:
        return self.cost.nano_usd, self.cost.price, self.cost.table


def _stored(connection: Database, pricing: Pricing, since: float) -> Iterator[list[_Row]]:
    """The token records of interceptions that started at ``since`` or later, in pieces."""
    begin = timestamp(since)
    last = ("", "")
    while found := connection.execute(_NEXT_SQL, (begin, *last, _INTERCEPTIONS_AT_ONCE)).fetchall():
        last = (found[-1][4], found[-1][0])
        asked = {each[0]: Asked(*each[1:4]) for each in found}
        ids = list(asked)
        rows = connection.execute(_TOKENS_SQL.format(marks(ids)), ids).fetchall()
        yield [_row(row, asked[row[0]], pricing) for row in rows]


def _row(row: Sequence[Any], asked: Asked, pricing: Pricing) -> _Row:
    *key, nano_usd, price, table = row
    _id, _msg, given, made, read, written, metadata, created_at, _record = key
    used = Used(given, made, read, written, json.loads(metadata))
    cost = pricing.cost(
        used,
        asked.model,
        provider=asked.provider,
        provider_name=asked.provider_name,
        moment=moment_of(created_at),
    )
    return _Row(tuple(key), asked, used, (nano_usd, price, table), cost)


def recost(
    connection: Database, pricing: Pricing, since: float, *, dry_run: bool = False
) -> Recosted:
    """Work the costs out again of all interceptions that started at ``since`` (Unix seconds) or
    later, with the prices that held when each was recorded.

    ``dry_run`` changes nothing.  Raises what the database raises; what was changed until then
    stays.
    """
    sums: Counter[str] = Counter()
    for rows in _stored(connection, pricing, since):
        changed = [row for row in rows if row.was != row.now]
        if changed and not dry_run:
            with transaction(connection):
                connection.executemany(
                    _CHANGE_SQL, sorted({(*row.now, *row.key) for row in changed}, key=repr)
                )
        sums["rows"] += len(rows)
        sums["changed"] += len(changed)
        for row in rows:
            sums["before"] += row.was[0] or 0
            sums["after"] += row.cost.nano_usd or 0
            sums["unpriced_before"] += row.was[0] is None
            sums["unpriced_after"] += row.cost.nano_usd is None
    return Recosted(**sums)


def unpriced(connection: Database, pricing: Pricing, since: float) -> list[Unpriced]:
    """What has no price with these tables, of interceptions that started at ``since`` or later,
    most tokens first."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    tokens: Counter[tuple[str, str, str, str]] = Counter()
    for rows in _stored(connection, pricing, since):
        for row in rows:
            if row.cost.unpriced is None:
                continue
            told = row.used.metadata
            name = told.get("provider_name") or row.asked.provider_name
            model = told.get("provider_model") or row.asked.model
            key = (str(name), str(model), row.cost.unpriced, row.cost.detail)
            counts[key] += 1
            tokens[key] += row.used.all_input + row.used.output_tokens
    found = [Unpriced(*key, records=n, tokens=tokens[key]) for key, n in counts.items()]
    return sorted(found, key=lambda each: (-each.tokens, each.provider_name, each.model))
