"""``aigateway prices``: what models cost, what has no price, and costs worked out again."""

from __future__ import annotations

import json
import time
from typing import Any

import click
from attrs import asdict

from aigateway.actors.control.local.costs import Unpriced, unpriced
from aigateway.actors.control.local.costs import recost as work_out
from aigateway.actors.control.local.prices.listing import amount, price_data, prices_of
from aigateway.actors.control.local.prices.table import (
    REQUEST_KINDS,
    TOKEN_KINDS,
    ModelPrice,
    Prices,
)
from aigateway.actors.values.money import dollars
from aigateway.http.cli._local_database import reading, writing
from aigateway.http.cli._moments import moment
from aigateway.http.cli._pricing import pricing_of
from aigateway.http.settings.flags import settings_options
from aigateway.http.settings.printable import printable

__all__ = ["command"]

_WITH_DATABASE = ("prices", "local_db", "config")
_MONTH = 30 * 86_400


@click.group(name="prices")
def command() -> None:
    """Show what models cost, find what has no price, and work costs out again.

    The list prices came with the package; --prices names a file of your own that comes before
    them.
    """


@command.command()
@click.argument("model")
@click.option(
    "--provider",
    metavar="NAME",
    help="With this provider: a name or type, or whose list prices.  [default: with all]",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@settings_options(only=("prices", "config"))
def show(model: str, provider: str | None, as_json: bool, **flags: Any) -> None:
    """Show what MODEL costs now, by any of its names.

    Prices are dollars for a million tokens, and for a thousand requests of a tool. Exit code 1
    when it has no price.
    """
    pricing = pricing_of(flags)
    found = prices_of(pricing, model, provider, time.time())
    if as_json:
        document = {
            "model": model,
            "tables": pricing.version,
            "prices": [price_data(table, price) for table, price in found],
        }
        click.echo(json.dumps(document, indent=2))
    elif found:
        _print_prices(found)
        click.echo(f"Dollars for a million tokens. Tables: {pricing.version}.")
    else:
        where = f" with {provider}" if provider else ""
        click.echo(printable(f"{model} has no price{where}; --prices gives it one."))
    if not found:
        raise SystemExit(1)


@command.command()
@click.option(
    "--since",
    callback=moment,
    metavar="TIME",
    help="Requests from then on, as for `usage`.  [default: 30 days ago]",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@settings_options(only=_WITH_DATABASE)
def check(since: float | None, as_json: bool, **flags: Any) -> None:
    """Check the file of --prices, and list what was used and has no price.

    Exit code 1 when there is something.
    """
    pricing = pricing_of(flags)
    since = time.time() - _MONTH if since is None else since
    with reading(flags) as connection:
        found = unpriced(connection, pricing, since)
    if as_json:
        document = {"tables": pricing.version, "unpriced": [asdict(each) for each in found]}
        click.echo(json.dumps(document, indent=2))
    elif not found:
        click.echo(f"Everything that was used has a price. Tables: {pricing.version}.")
    else:
        from aigateway.http.cli._tables import print_table

        rows = [
            (
                each.provider_name,
                each.model,
                _missing(each),
                f"{each.records:,}",
                f"{each.tokens:,}",
            )
            for each in found
        ]
        texts = ("provider", "model", "has no price for")
        print_table(texts, rows, numbers=("records", "tokens"))
        click.echo(f"Tables: {pricing.version}. --prices gives prices to what has none.")
    if found:
        raise SystemExit(1)


@command.command()
@click.option(
    "--since",
    callback=moment,
    metavar="TIME",
    required=True,
    help="Requests from then on, as for `usage`.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, only tell what would be.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@settings_options(only=_WITH_DATABASE)
def recost(since: float, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Work out again what recorded requests cost, with the prices of today's tables.

    Each is taken with the prices that the tables have for its own day. Gateways may run meanwhile.
    """
    pricing = pricing_of(flags)
    with reading(flags) if dry_run else writing(flags) as connection:
        done = work_out(connection, pricing, since, dry_run=dry_run)
    if as_json:
        document = {"tables": pricing.version, "dry_run": dry_run, **asdict(done)}
        click.echo(json.dumps(document, indent=2))
        return
    verb = "would change" if dry_run else "changed"
    click.echo(
        f"{done.rows:,} token records, {done.changed:,} {verb}. Tables: {pricing.version}.\n"
        f"cost      {dollars(done.before)} -> {dollars(done.after)}\n"
        f"unpriced  {done.unpriced_before:,} -> {done.unpriced_after:,} records"
    )


def _missing(each: Unpriced) -> str:
    match each.reason:
        case "model":
            return "the model"
        case "kind":
            return f"tokens of {each.detail}"
        case "request":
            return f"requests of {each.detail}"
        case _:
            return each.detail


def _print_prices(found: list[tuple[str, ModelPrice]]) -> None:
    from aigateway.http.cli._tables import print_table

    rows = [
        (price.key if not label else "", label, prices)
        for _table, price in found
        for label, prices in _lines(price)
    ]
    kinds = [
        kind
        for kind in (*TOKEN_KINDS, *REQUEST_KINDS)
        if any(kind in prices for _name, _label, prices in rows)
    ]
    cells = [
        (name, label, *(amount(kind, prices[kind]) if kind in prices else "" for kind in kinds))
        for name, label, prices in rows
    ]
    print_table(("price", "when"), cells, numbers=[kind.replace("_", " ") for kind in kinds])


def _lines(price: ModelPrice) -> list[tuple[str, Prices]]:
    """The prices as they are, and what differs of them when."""
    lines: list[tuple[str, Prices]] = [("", price.prices)]
    lines += [(f"over {tokens:,}", prices) for tokens, prices in reversed(price.over)]
    for name, tier in price.tiers.items():
        lines.append((name, tier.prices or price.prices))
        lines += [(f"{name}, over {n:,}", prices) for n, prices in reversed(tier.over)]
    return lines
