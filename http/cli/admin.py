"""``aigateway admin``: the admin API and its keys."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import Any

import click

from aigateway.actors.control.local.admin_keys import (
    AdminKey,
    create_admin_key,
    list_admin_keys,
    revoke_admin_key,
)
from aigateway.http.cli._local_database import (
    as_failures,
    changer,
    database_options,
    named_database,
    naming_what_is_wrong,
    reading,
    writing,
)
from aigateway.http.cli._moments import minute
from aigateway.http.settings import SettingsError, load
from aigateway.http.settings.flags import settings_options
from aigateway.http.settings.printable import printable

__all__ = ["command"]

DEFAULT_ADDRESS = "127.0.0.1:4011"


@click.group(name="admin")
def command() -> None:
    """Serve the admin API of the local database, and make keys for it.

    It is JSON over HTTP below /api/admin/v1, for what `aigateway users`, `groups`, `keys`,
    `policy`, `prices`, `caps` and `usage` do. Users' keys are of no use there.
    """


@command.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the key and its data as JSON.")
@database_options
def create(name: str, as_json: bool, **flags: object) -> None:
    """Make an admin key for NAME and print it: it cannot be shown again.

    NAME stands beside each change that is made with it. The key is the only line on standard
    output.
    """
    with writing(flags, create=True, quiet=as_json) as database, naming_what_is_wrong():
        made = create_admin_key(database, name, who=changer())
    if as_json:
        click.echo(json.dumps({**_data(made.key), "key": made.token}, indent=2))
        return
    said = f"Admin key {made.key.id} for {printable(made.key.name)}."
    click.echo(f"{said} Keep it safe, it is shown only now:", err=True)
    click.echo(made.token)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@database_options
def list_(as_json: bool, **flags: object) -> None:
    """Show all admin keys, revoked ones too; never their secrets."""
    with reading(flags) as database:
        keys = list_admin_keys(database)
    if as_json:
        click.echo(json.dumps([_data(key) for key in keys], indent=2))
    elif keys:
        _show(keys)
    else:
        click.echo("No admin keys. Make one: aigateway admin create NAME", err=True)


@command.command()
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="Print the id as JSON.")
@database_options
def revoke(key_id: str, as_json: bool, **flags: object) -> None:
    """Refuse the admin key with this id from now on."""
    with writing(flags) as database:
        if not revoke_admin_key(database, key_id, who=changer()):
            raise click.ClickException(f"no such admin key: {printable(key_id)}")
    click.echo(json.dumps({"revoked": key_id}) if as_json else f"Revoked {printable(key_id)}.")


@command.command()
@click.option(
    "--address",
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Address to serve on. Port 0 takes a free port.",
)
@settings_options(only=("local_db", "prices", "config", "log_human", "log_json"))
def serve(address: str, **flags: Any) -> None:
    """Serve the admin API until a signal ends it.

    It needs no running gateway. Give it the gateway's --prices and --config, so that it knows the
    same prices. It speaks plain HTTP: leave it on a loopback address, or put a proxy with TLS in
    front of it.
    """
    # Not at the top: the other commands need neither a server nor logs.
    import structlog

    from aigateway.actors.control.local.address import shown
    from aigateway.actors.control.local.opening import open_address
    from aigateway.http.admin.service import AdminServer
    from aigateway.http.cli._pricing import pricing_of
    from aigateway.http.logs import configure

    file, _named = named_database(flags)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdigit()):
        raise click.UsageError(f'--address "{address}": write it as 127.0.0.1:4011')
    try:
        configure(load(flags, os.environ, require_coderd=False))
    except SettingsError as ex:
        raise click.UsageError(str(ex)) from ex
    pricing = pricing_of(flags)
    log = structlog.get_logger("ai-gateway.admin")
    with as_failures(file):
        # What is wrong with it is better told now than to the first who asks.
        open_address(file).close()
    try:
        server = AdminServer(host, int(port), file, pricing)
    except (OSError, OverflowError) as ex:
        raise click.ClickException(f'listen on "{address}": {ex}; choose another --address') from ex

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    bound = server.server_address
    log.info("admin API listening", address=f"{host}:{bound[1]}", database=shown(file))
    if not (host == "localhost" or host.startswith("127.") or host == "::1"):
        log.warning("the admin API speaks plain HTTP on an address that others may reach")
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()
    log.info("admin API stopped")


def _data(key: AdminKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "state": "active" if key.revoked_at is None else "revoked",
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


def _show(keys: list[AdminKey]) -> None:
    from aigateway.http.cli._tables import print_table

    rows = [
        (
            key.id,
            key.name,
            ("active", "green") if key.revoked_at is None else ("revoked", "red"),
            minute(key.created_at),
        )
        for key in keys
    ]
    print_table(("id", "name", "state", "created"), rows)
