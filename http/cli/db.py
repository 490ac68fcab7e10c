"""``aigateway db``: look after the embedded control plane's database."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import Any

import click

from aigateway.actors.control.local.address import is_postgresql, shown
from aigateway.actors.control.local.migrations import VERSION
from aigateway.actors.control.local.opening import (
    DatabaseState,
    open_address,
    postgresql,
    state_of,
)
from aigateway.actors.control.local.schema import read_database
from aigateway.http.cli._local_database import as_failures, database_options, named_database
from aigateway.http.settings.printable import printable

__all__ = ["command"]


@click.group(name="db")
def command() -> None:
    """Look after the database of a gateway that runs with --local.

    It is the one that --local-db or CODER_AI_GATEWAY_LOCAL_DB names: a SQLite file, or
    PostgreSQL at postgresql://user@host/database. A password may stand in the address, in
    PGPASSWORD, or in the file that PGPASSFILE names.
    """


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@database_options
def status(as_json: bool, **flags: Any) -> None:
    """Show which database it is, the version of its schema, and how many rows it has.

    Changes nothing. Exit code 1 when it cannot be reached or used as it is.
    """
    address, _named = named_database(flags)
    with as_failures(address):
        state = state_of(address)
    if as_json:
        click.echo(json.dumps(_data(address, state), indent=2))
    else:
        click.echo(f"{_kind(address)}: {printable(shown(address))}")
        click.echo(f"schema: version {state.version}, this aigateway needs {VERSION}")
        for table, rows in state.rows.items():
            click.echo(f"{table}: {rows} rows")
    if state.version != VERSION:
        raise click.ClickException("`aigateway db migrate` brings the schema up to date")


@command.command()
@database_options
def migrate(**flags: Any) -> None:
    """Bring the schema up to date; a file that is not there is made.

    `aigateway start` does the same. Gateways that are running go on working meanwhile.
    """
    address, _named = named_database(flags)
    with as_failures(address):
        before = _version(address)
        open_address(address).close()
    if before == VERSION:
        click.echo(f"The schema is up to date: version {VERSION}.")
    else:
        click.echo(f"The schema has version {VERSION} now; before, it had {before}.")


@command.command()
@click.argument("file", type=click.Path(dir_okay=False))
@database_options
def copy(file: str, **flags: Any) -> None:
    """Copy records and keys from the SQLite database FILE to PostgreSQL.

    FILE is only read. The PostgreSQL database is the one that --local-db names; it must have no
    rows yet. All is copied in one transaction and counted before that ends: when something goes
    wrong nothing was copied, and the command can be given again. Stop the gateways that
    write to FILE first: what they write meanwhile is left behind.
    """
    address, _named = named_database(flags)
    if not is_postgresql(address):
        raise click.UsageError(
            "the target must be PostgreSQL: name it with --local-db postgresql://user@host/database"
        )
    with as_failures(address):
        postgresql(address)
        from aigateway.actors.control.local.copying import copy_all

        with closing(read_database(file)) as source, closing(open_address(address)) as target:
            assert not isinstance(target, sqlite3.Connection)
            counts = copy_all(source, target)
    for table, rows in counts.items():
        click.echo(f"{table}: {rows} rows")
    click.echo(f"Copied {printable(file)} to {printable(shown(address))}; the counts agree.")


def _version(address: str) -> int:
    if not is_postgresql(address) and not os.path.exists(address):
        return 0
    return state_of(address).version


def _kind(address: str) -> str:
    return "PostgreSQL" if is_postgresql(address) else "SQLite"


def _data(address: str, state: DatabaseState) -> dict[str, Any]:
    return {
        "kind": _kind(address),
        "address": shown(address),
        "version": state.version,
        "newest_version": VERSION,
        "rows": dict(state.rows),
    }
