"""Sums of what was used, for the page Spend: by one word, by day, narrowed by others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import frozen

from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.usage import GROUPS, UsageRow, usage_by
from aigateway.actors.values.money import NANO_IN_DOLLAR
from aigateway.http.console.records import Tokens
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

DIMENSIONS: Final = tuple(GROUPS)
"""What can be summed up by."""
PERIODS: Final = (1, 7, 14, 30, 90)
"""Days, today among them."""
SERIES: Final = 7
"""Groups that a chart tells apart; all others are one."""


_MOST_UNPRICED: Final = 50


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
    database: Database,
    by: str,
    days: int,
    filters: Mapping[str, str],
    now: float,
    owner: str | None = None,
) -> Spending:
    """Sum up by one of :data:`DIMENSIONS`, narrowed by ``filters``, and to what the user with the
    id ``owner`` has used."""
    since, names = period(days, now)
    only = {name: value for name, value in filters.items() if value}
    words = ("day",) if by == "day" else (by, "day")
    sums: defaultdict[str, Tokens] = defaultdict(Tokens)
    requests: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    by_day: defaultdict[str, list[Tokens]] = defaultdict(lambda: [Tokens()] * len(names))
    places = {name: number for number, name in enumerate(names)}
    for row in usage_by(database, words, since=since, only=only, owner=owner):
        name, moment = row.group[0], row.group[-1]
        tokens = _tokens(row)
        sums[name] += tokens
        requests[name] += row.interceptions
        errors[name] += row.errors
        # A clock may be ahead of ours.
        if moment in places:
            by_day[name][places[moment]] += tokens
    groups = [Group(name, requests[name], errors[name], sums[name]) for name in sums]
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


def _tokens(row: UsageRow) -> Tokens:
    return Tokens(
        row.input_tokens,
        row.output_tokens,
        row.cache_read_input_tokens,
        row.cache_write_input_tokens,
        row.cost_nano_usd or 0,
        row.priced,
        row.unpriced,
    )


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
    return [nano / NANO_IN_DOLLAR for nano in sums]


def unpriced_models(
    database: Database, since: float, filters: Mapping[str, str], owner: str | None = None
) -> list[tuple[str, str, int, int]]:
    """Provider, model, records and tokens of what has no price, most tokens first."""
    only = {name: value for name, value in filters.items() if value}
    rows = usage_by(database, ("provider", "model"), since=since, only=only, owner=owner)
    unpriced = sorted((row for row in rows if row.unpriced), key=lambda row: -row.unpriced_tokens)
    return [
        (row.group[0], row.group[1], row.unpriced, row.unpriced_tokens)
        for row in unpriced[:_MOST_UNPRICED]
    ]


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
