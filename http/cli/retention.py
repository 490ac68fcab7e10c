"""``aigateway retention``: delete what is old from the local database, or see what would go."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from datetime import UTC, datetime

import click
from attrs import asdict

from aigateway.actors.control.local.housekeeper import leave, take_lease
from aigateway.actors.control.local.prompt_search import index_again, index_more
from aigateway.actors.control.local.retention import (
    Due,
    Forgetting,
    Retention,
    can_shrink,
    due,
    give_back,
)
from aigateway.actors.control.local.schema import Database
from aigateway.http.cli._local_database import database_options, reading, writing
from aigateway.http.settings import SettingsError, load

__all__ = ["command"]

_SUMS_STAY = "usage: sums stay as they are"
_SUMS_GO = (
    "usage: sums go with the records; `aigateway usage`, the console and the admin API count what"
    " is left. What caps have counted stays."
)

_REST = 0.01
"""Seconds between two steps, in which others may write."""


@click.command(name="retention")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option(
    "--content-days",
    type=click.IntRange(min=0),
    metavar="N",
    help="In the place of --retain-content-days of the gateway's settings.",
)
@click.option(
    "--records-days",
    type=click.IntRange(min=0),
    metavar="N",
    help="In the place of --retain-records-days.",
)
@click.option(
    "--vacuum",
    is_flag=True,
    help="Rewrite a SQLite file afterwards: once is enough for a file of an older version, which"
    " else gives no space back. Nobody can write meanwhile, so stop the gateway before.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; only with --dry-run.")
@database_options
def command(
    dry_run: bool,
    content_days: int | None,
    records_days: int | None,
    vacuum: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Delete what is older than the settings allow, as a gateway does by itself while it runs.

    Content is what users and models said: prompts, thoughts, answers, what was sent, inputs of
    tools, texts of errors. Records are all that is known of a request, tokens and costs included:
    sums of usage go with them. 0 days: never.
    """
    if as_json and not dry_run:
        raise click.UsageError("--json is for --dry-run")
    if dry_run and vacuum:
        raise click.UsageError("--vacuum changes the file, and --dry-run nothing")
    retention = _retention(flags, content_days, records_days)
    if retention == Retention() and not vacuum:
        click.echo(
            "Nothing is ever deleted: --retain-content-days and --retain-records-days are 0."
        )
        return
    now = time.time()
    if dry_run:
        with reading(flags) as connection:
            connection.execute("BEGIN")
            try:
                found = due(connection, retention, now)
            except (ValueError, OverflowError, OSError) as ex:
                raise click.UsageError(f"so many days ago there was no calendar: {ex}") from ex
        _print_due(found, retention, as_json)
        return
    with writing(flags) as connection:
        _forget(connection, retention, now)
        if vacuum:
            _rewrite(connection)
        elif not can_shrink(connection):
            click.echo("The file gives no space back until it is rewritten once, with --vacuum.")


def _retention(
    flags: dict[str, object], content_days: int | None, records_days: int | None
) -> Retention:
    try:
        settings = load(flags, os.environ, require_coderd=False)
    except SettingsError as ex:
        raise click.UsageError(str(ex)) from ex
    content = settings.retain_content_days if content_days is None else content_days
    records = settings.retain_records_days if records_days is None else records_days
    return Retention(content or None, records or None)


def _forget(connection: Database, retention: Retention, now: float) -> None:
    holder = uuid.uuid4().hex
    forgetting = Forgetting(retention)
    renewed = 0.0
    try:
        more = True
        while more:
            if time.monotonic() - renewed > 5:
                if not take_lease(connection, holder, time.time()):
                    raise click.ClickException(
                        "a gateway is at it; what it deletes, `aigateway retention --dry-run` tells"
                    )
                renewed = time.monotonic()
            try:
                more = forgetting.step(connection, now)
            except (ValueError, OverflowError) as ex:
                raise click.UsageError(f"so many days ago there was no calendar: {ex}") from ex
            more = give_back(connection) or more
            time.sleep(_REST)
    finally:
        leave(connection, holder)
    for kind, count in forgetting.deleted.items():
        if retention.days(kind) is not None:
            click.echo(f"{kind}: {count:,} requests")
    _tell_of_sums(retention)


def _rewrite(connection: Database) -> None:
    if not isinstance(connection, sqlite3.Connection):
        raise click.ClickException("--vacuum is for a SQLite file; PostgreSQL does it by itself")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    index_again(connection)
    while index_more(connection):
        pass
    click.echo("The file is rewritten.")


def _print_due(found: list[Due], retention: Retention, as_json: bool) -> None:
    if as_json:
        rows = [{**asdict(each), "days": retention.days(each.kind)} for each in found]
        click.echo(json.dumps(rows, indent=2))
        return
    for each in found:
        before = datetime.fromisoformat(each.before).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
        sums = f", {each.usage_sums:,} sums of an hour or a day" if each.kind == "records" else ""
        click.echo(
            f"{each.kind}: of {each.interceptions:,} requests before {before}"
            f" ({retention.days(each.kind)} days), {each.rows:,} rows{sums}"
        )
    _tell_of_sums(retention)


def _tell_of_sums(retention: Retention) -> None:
    """Say what becomes of what was summed up, so that nobody is surprised by last year's bill."""
    if retention.records is not None:
        click.echo(_SUMS_GO)
    elif retention.content is not None:
        click.echo(_SUMS_STAY)
