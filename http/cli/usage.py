"""``aigateway usage``: who used what, from the embedded control plane's records."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from aigateway.actors.control.local.usage import GROUPS, UsageRow, usage_by, usage_total
from aigateway.actors.values.money import dollars
from aigateway.actors.values.records import timestamp
from aigateway.http.cli._local_database import database_options, reading
from aigateway.http.cli._moments import moment, within_the_calendar
from aigateway.http.settings.printable import csv_field, printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["command", "print_usage"]

_COLUMNS = (
    "interceptions",
    "errors",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "prompts",
    "tool_calls",
    "cost_nano_usd",
    "unpriced",
)

_HEADINGS = (
    "requests",
    "errors",
    "input",
    "output",
    "cache read",
    "cache write",
    "prompts",
    "tool calls",
    "cost",
    "unpriced",
)

_CHARTS: dict[str, Callable[[UsageRow], int]] = {
    "tokens": lambda row: row.tokens,
    "requests": lambda row: row.interceptions,
    "errors": lambda row: row.errors,
    "tools": lambda row: row.tool_calls,
    "cost": lambda row: row.cost_nano_usd or 0,
}

_BAR_WIDTH = 40


@click.command(name="usage")
@click.option(
    "--by",
    type=click.Choice(list(GROUPS)),
    multiple=True,
    default=("user",),
    show_default=True,
    help="What to sum up by. May be repeated: --by day --by model.",
)
@click.option(
    "--since",
    callback=moment,
    metavar="TIME",
    help="Requests from then on: a date, an RFC 3339 time, today, yesterday, or 7d for seven days"
    " ago. Days are UTC.  [default: the first]",
)
@click.option(
    "--until", callback=moment, metavar="TIME", help="Requests before then.  [default: the last]"
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show so many rows: those with the most tokens, or the newest days.  [default: all]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@click.option(
    "--chart",
    type=click.Choice([*_CHARTS, "none"]),
    help="Bar chart below the table.  [default: tokens in a terminal, else none]",
)
@database_options
def command(
    by: tuple[str, ...],
    since: float | None,
    until: float | None,
    limit: int | None,
    form: str,
    chart: str | None,
    **flags: object,
) -> None:
    """Show requests, tokens, tool calls and cost of a gateway that runs with --local.

    Costs are those of the table of prices at the time of each request. The last column counts
    token records without a price, which are in no sum: `aigateway prices check` says why.
    """
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    by = tuple(dict.fromkeys(by))
    with reading(flags) as connection:
        # One snapshot for both, also while a gateway goes on writing.
        connection.execute("BEGIN")
        with within_the_calendar():
            rows = usage_by(connection, by, since=since, until=until, limit=limit)
            total = usage_total(connection, since=since, until=until)
    if form == "json":
        _print_json(by, rows, total, since, until)
    elif form == "csv":
        _print_csv(by, rows)
    else:
        print_usage(by, rows, total, chart)


def _data(by: tuple[str, ...], row: UsageRow) -> dict[str, str | int | None]:
    sums: dict[str, int | None] = {name: getattr(row, name) for name in _COLUMNS}
    return {**dict(zip(by, row.group, strict=True)), **sums}


def _print_json(
    by: tuple[str, ...],
    rows: list[UsageRow],
    total: UsageRow,
    since: float | None,
    until: float | None,
) -> None:
    document = {
        "by": by,
        "since": None if since is None else timestamp(since),
        "until": None if until is None else timestamp(until),
        "rows": [_data(by, row) for row in rows],
        "total": _data((), total),
    }
    click.echo(json.dumps(document, indent=2))


def _print_csv(by: tuple[str, ...], rows: list[UsageRow]) -> None:
    click.echo(",".join([*by, *_COLUMNS]))
    for row in rows:
        click.echo(
            ",".join(csv_field("" if value is None else value) for value in _data(by, row).values())
        )


def print_usage(
    by: tuple[str, ...],
    rows: list[UsageRow],
    total: UsageRow | None = None,
    chart: str | None = None,
) -> None:
    """As a table, with a line of sums for a ``total``, and a bar chart if one is wanted."""
    from rich.table import Table
    from rich.text import Text

    from aigateway.http.cli._tables import console, table_box

    if not rows:
        click.echo("No usage recorded in this time.")
        return
    screen = console()
    table = Table(*by, box=table_box(), show_footer=total is not None)
    for heading, name in zip(_HEADINGS, _COLUMNS, strict=True):
        table.add_column(heading, justify="right", footer=_shown(total, name) if total else "")
    table.columns[0].footer = "total"
    for row in rows:
        labels = [Text(printable(label)) for label in row.group]
        table.add_row(*labels, *(Text(_shown(row, name)) for name in _COLUMNS))
    screen.print(table)
    if chart is None:
        chart = "tokens" if screen.is_terminal else "none"
    if chart != "none":
        _print_chart(screen, rows, chart)


def _shown(row: UsageRow, column: str) -> str:
    value = getattr(row, column)
    return dollars(value) if column == "cost_nano_usd" else f"{value:,}"


def _print_chart(screen: Console, rows: list[UsageRow], chart: str) -> None:
    from rich.table import Table
    from rich.text import Text

    value = _CHARTS[chart]
    largest = max(value(row) for row in rows)
    brick = "█" if screen.encoding.startswith("utf") else "#"
    grid = Table.grid(padding=(0, 1))
    for row in rows:
        length = round(_BAR_WIDTH * value(row) / largest) if largest else 0
        # Something is more than nothing, however little it is.
        bar = brick * (max(1, length) if value(row) else 0)
        label = " / ".join(printable(part) for part in row.group)
        told = _shown(row, "cost_nano_usd") if chart == "cost" else f"{value(row):,}"
        grid.add_row(Text(label), Text(bar, style="cyan"), Text(told))
    screen.print(Text(f"\n{chart}", style="bold"))
    screen.print(grid)
