"""``aigateway keys``: the keys of the embedded control plane."""

from __future__ import annotations

import json
import time

import click

from aigateway.actors.control.local.api_keys import ApiKey, create_key, list_keys, revoke_key
from aigateway.http.cli._local_database import database_options, reading, writing
from aigateway.http.cli._moments import span
from aigateway.http.settings.printable import printable

__all__ = ["command"]


@click.group(name="keys")
def command() -> None:
    """Make, list and revoke the keys of a gateway that runs with --local.

    Changes take effect at once, also on gateways that are running.
    """


@command.command()
@click.argument("username")
@click.option(
    "--user-id",
    metavar="UUID",
    help="Id of the user.  [default: made from the name, the same name has always the same id]",
)
@click.option(
    "--expires-in",
    callback=span,
    metavar="DURATION",
    help="How long the key is good, for example 90d or 12h.  [default: until it is revoked]",
)
@click.option("--quiet", "-q", is_flag=True, help="Print the key and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the key and its data as JSON.")
@database_options
def create(
    username: str,
    user_id: str | None,
    expires_in: int | None,
    quiet: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Make a key for USERNAME and print it: it cannot be shown again.

    The key is the only line on standard output.
    """
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    with writing(flags, create=True, quiet=quiet) as connection:
        try:
            made = create_key(connection, username, user_id, expires_in)
        except ValueError as ex:
            raise click.UsageError(str(ex)) from ex
    if as_json:
        click.echo(json.dumps({**_data(made.key), "key": made.token}, indent=2))
        return
    if not quiet:
        until = f"until {made.key.expires_at}" if made.key.expires_at else "until it is revoked"
        click.echo(
            f"Key {made.key.id} for {printable(username)}, good {until}."
            " Keep it safe, it is shown only now:",
            err=True,
        )
    click.echo(made.token)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@database_options
def list_(as_json: bool, **flags: object) -> None:
    """Show all keys, revoked and expired ones too; never their secrets."""
    with reading(flags) as connection:
        keys = list_keys(connection)
    if as_json:
        click.echo(json.dumps([_data(key) for key in keys], indent=2))
        return
    if not keys:
        click.echo("No keys. Make one: aigateway keys create USERNAME", err=True)
        return
    _show(keys)


@command.command()
@click.argument("key_id", nargs=-1, required=True)
@database_options
def revoke(key_id: tuple[str, ...], **flags: object) -> None:
    """Refuse the keys with these ids from now on.

    KEY_ID is the part of a key before the dash.
    """
    missing = []
    with writing(flags) as connection:
        for given in key_id:
            # One who pastes the whole key means its id, and must not see it repeated.
            key = given.partition("-")[0]
            if revoke_key(connection, key):
                click.echo(f"Revoked {printable(key)}.")
            else:
                missing.append(printable(key))
    if missing:
        raise click.ClickException(f"no such key: {', '.join(missing)}")


def _data(key: ApiKey) -> dict[str, str | None]:
    return {
        "id": key.id,
        "username": key.username,
        "user_id": key.user_id,
        "state": key.state(time.time()),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _show(keys: list[ApiKey]) -> None:
    from rich.table import Table
    from rich.text import Text

    from aigateway.http.cli._tables import console, table_box

    table = Table("id", "user", "user id", "state", "created", "expires", box=table_box())
    now = time.time()
    colours = {"active": "green", "expired": "yellow", "revoked": "red"}
    for key in keys:
        state = key.state(now)
        table.add_row(
            Text(key.id),
            Text(printable(key.username)),
            Text(key.user_id),
            Text(state, style=colours[state]),
            Text(_minute(key.created_at)),
            Text(_minute(key.expires_at) if key.expires_at else "never"),
        )
    console().print(table)


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")
