"""Sums of what was used, for the page Spend: by one word, by day, narrowed by others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import frozen

from aigateway.actors.control.local.schema import Database, timestamp
from aigateway.http.console.records import FILTERS, TOKEN_SUMS, Tokens, narrowed
from aigateway.http.settings.printable import csv_field

__all__ = [
    "DIMENSIONS",
    "PERIODS",
    "SERIES",
    "Group",
    "Spending",
    "as_csv",
    "chart",
    "period",
    "spending",
    "unpriced_models",
]

DIMENSIONS: Final = ("user", "model", "provider", "client", "day")
"""What can be summed up by."""
PERIODS: Final = (1, 7, 14, 30, 90)
"""Days, today among them."""
SERIES: Final = 7
"""Groups that a chart tells apart; all others are one."""


@frozen
class Group:
    """The sums of one value."""

    name: str
    requests: int
    errors: int
    tokens: Tokens


@frozen
class Spending:
    """All groups, dearest first (days in their order), and the same by day."""

    groups: Sequence[Group]
    total: Group
    days: Sequence[str]
    by_day: Mapping[str, Sequence[Tokens]]
    """For each group one sum a day, in the order of ``days``."""


def period(days: int, now: float) -> tuple[float, list[str]]:
    """When so many days began that end with today, and their names.  Days are UTC days."""
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight - timedelta(days=days - 1)
    return first.timestamp(), [f"{first + timedelta(days=n):%Y-%m-%d}" for n in range(days)]


def spending(
    database: Database, by: str, days: int, filters: Mapping[str, str], now: float
) -> Spending:
    """Sum up by one of :data:`DIMENSIONS`, narrowed by ``filters``."""
    since, names = period(days, now)
    day = "substr(started_at, 1, 10)"
    column = day if by == "day" else FILTERS[by]
    conditions, values = narrowed(filters)
    where = " AND ".join(["started_at >= ?", *conditions])
    values = [timestamp(since), *values]
    # The names come from FILTERS, never from a user.
    counted = database.execute(
        f"SELECT {column}, count(*), count(error_type) FROM interceptions WHERE {where}"
        f" GROUP BY {column}",
        values,
    ).fetchall()
    used = database.execute(
        f"SELECT {column}, {day}, {TOKEN_SUMS} FROM interceptions"
        f" JOIN token_usages ON interception_id = id WHERE {where} GROUP BY {column}, {day}",
        values,
    ).fetchall()
    sums: defaultdict[str, Tokens] = defaultdict(Tokens)
    by_day: defaultdict[str, list[Tokens]] = defaultdict(lambda: [Tokens()] * len(names))
    places = {name: number for number, name in enumerate(names)}
    for name, moment, *row in used:
        tokens = Tokens(*row)
        sums[name] += tokens
        # A clock may be ahead of ours.
        if moment in places:
            by_day[name][places[moment]] += tokens
    groups = [Group(name, n, errors, sums[name]) for name, n, errors in counted]
    if by == "day":
        groups.sort(key=lambda group: group.name)
    else:
        groups.sort(key=lambda group: (-group.tokens.cost, -group.tokens.all, group.name))
    total = Group(
        "",
        sum(group.requests for group in groups),
        sum(group.errors for group in groups),
        sum((group.tokens for group in groups), Tokens()),
    )
    return Spending(groups, total, names, by_day)


def chart(by: str, found: Spending) -> dict[str, object]:
    """What the page's script draws: dollars per day, the dearest groups apart."""
    parts = [] if by == "day" else [(group.name, [group.name]) for group in found.groups[:SERIES]]
    rest = [group.name for group in found.groups[len(parts) :]]
    if rest:
        parts.append(("all" if by == "day" else f"{len(rest)} more", rest))
    series = [{"name": name, "values": _dollars(found, names)} for name, names in parts]
    return {"kind": "days", "unit": "$", "days": found.days, "series": series}


def _dollars(found: Spending, names: Sequence[str]) -> list[float]:
    """One sum a day, of all these groups."""
    sums = [0] * len(found.days)
    for name in names:
        for place, tokens in enumerate(found.by_day.get(name, ())):
            sums[place] += tokens.cost
    return [nano / 1e9 for nano in sums]


def unpriced_models(
    database: Database, since: float, filters: Mapping[str, str]
) -> list[tuple[str, str, int, int]]:
    """Provider, model, records and tokens of what has no price, most tokens first."""
    conditions, values = narrowed(filters)
    where = " AND ".join(["started_at >= ?", "cost_nano_usd IS NULL", *conditions])
    rows = database.execute(
        "SELECT provider_name, model, count(*), CAST(sum(input_tokens + output_tokens +"
        " cache_read_input_tokens + cache_write_input_tokens) AS BIGINT) FROM interceptions"
        f" JOIN token_usages ON interception_id = id WHERE {where}"
        " GROUP BY provider_name, model ORDER BY 4 DESC LIMIT 50",
        [timestamp(since), *values],
    ).fetchall()
    return [(name, model, records, tokens) for name, model, records, tokens in rows]


_CSV: Final = (
    "requests", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens",
    "cache_write_input_tokens", "cost_nano_usd", "unpriced",
)  # fmt: skip


def as_csv(by: str, found: Spending) -> Iterator[str]:
    """The groups, line by line, as ``aigateway usage --format csv`` names the columns."""
    yield ",".join([by, *_CSV]) + "\r\n"
    for group in found.groups:
        told = group.tokens
        cells = (
            group.name, group.requests, group.errors, told.input, told.output, told.cache_read,
            told.cache_write, "" if told.nano_usd is None else told.nano_usd, told.unpriced,
        )  # fmt: skip
        yield ",".join(csv_field(cell) for cell in cells) + "\r\n"
