"""``aigateway caps``: how full the caps of a policy are."""

from __future__ import annotations

import json
import time

import click

from aigateway.actors.control.local.cap_holders import CapRow, tills_in
from aigateway.actors.values.money import dollars
from aigateway.http.cli._local_database import database_options, reading

__all__ = ["command"]


@click.command(name="caps")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.option(
    "--per",
    type=click.Choice(["user", "group", "key", "project"]),
    help="Only those of users, groups, keys or projects.",
)
@database_options
def command(as_json: bool, per: str | None, **flags: object) -> None:
    """Show how full caps are, of a gateway that runs with --local, the fullest first.

    A cap is there from the first request in its day, week or month. What is reserved is the most
    that the requests may cost that are running now.
    """
    with reading(flags) as database:
        rows = [row for row in tills_in(database, time.time()) if per in (None, row.scope)]
    if as_json:
        click.echo(json.dumps([_data(row) for row in rows], indent=2))
    elif not rows:
        click.echo("No cap has been asked for in its present day, week or month.", err=True)
    else:
        _print_table(rows)


def _data(row: CapRow) -> dict[str, str | int | float]:
    return {
        "per": row.scope,
        "id": row.id,
        "name": row.name,
        "every": row.every,
        "cap_nano_usd": row.cap,
        "spent_nano_usd": row.spent,
        "spent_part": round(row.part, 6),
        "reserved_nano_usd": row.reserved,
        "running": row.running,
        "starts_at": row.starts_at,
        "resets_at": row.resets_at,
    }


def _print_table(rows: list[CapRow]) -> None:
    from aigateway.http.cli._tables import print_table

    cells = [
        (
            row.scope,
            row.name,
            row.every,
            dollars(row.spent),
            dollars(row.cap),
            f"{row.part:.0%}",
            dollars(row.reserved),
            f"{row.running:,}",
            f"{row.resets_at[:19]}Z",
        )
        for row in rows
    ]
    numbers = ("spent", "of", "full", "reserved", "running", "resets at")
    print_table(("per", "name", "every"), cells, numbers=numbers)
