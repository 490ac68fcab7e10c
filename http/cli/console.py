"""``aigateway console``: pages that show what the gateway knows."""

from __future__ import annotations

import os
import sys

import click

from aigateway.http.cli._local_database import changer
from aigateway.http.settings import Settings, SettingsError, load
from aigateway.http.settings.flags import settings_options

__all__ = ["command", "serve"]

ADDRESS = "127.0.0.1:4002"


@click.command("console")
@click.option(
    "--address",
    default=ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen: a loopback address. Port 0 is a free one.",
)
@click.option(
    "--client-address",
    metavar="URL",
    help="The gateway's address as clients see it, for the page that sets them up."
    "  [default: made from --http-address]",
)
@settings_options(only=("local_db", "runtime_dir", "http_address", "config"))
def command(address: str, client_address: str | None, **flags: object) -> None:
    """Serve pages that show what runs, what was used, and how providers and actors are.

    It reads the database of a gateway that runs with --local, and writes to it what is changed on
    its pages. It asks the gateway on this machine through its sockets: give it the same --local-db
    and --runtime-dir. It is a process of its own, which no request passes. The link that it prints
    signs one browser in, once.
    """
    settings = load(flags, os.environ, require_coderd=False)
    serve(address, settings, client_address or "")


def serve(address: str, settings: Settings, client_address: str) -> None:
    """Listen until a signal comes.  Raises SettingsError, and ClickException without the extra."""
    try:
        import jinja2  # noqa: F401
    except ImportError as ex:
        raise click.ClickException(
            f"the console needs the extra console: pip install 'aigateway[console]' ({ex})"
        ) from ex
    from aigateway.http.console.app import Sources
    from aigateway.http.console.door import is_local_name
    from aigateway.http.console.server import ConsoleServer

    host, _, port = address.rpartition(":")
    if not is_local_name(host) or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(
            f"--address {address}: the console listens on loopback addresses only, for example"
            f" {ADDRESS}; reach it from elsewhere through a tunnel: ssh -L 4002:{ADDRESS} this-host"
        )
    if not client_address:
        scheme = "https" if settings.uses_tls else "http"
        client_address = f"{scheme}://{_reachable(settings.http_address)}"
    sources = Sources(
        local_db=settings.local_db,
        runtime_dir=settings.runtime_dir,
        client_address=client_address,
    )
    ConsoleServer(address, sources, changer("console"), _tell).run()


def _reachable(address: str) -> str:
    """What listens on all addresses is called by one of them."""
    host, _, port = address.rpartition(":")
    named = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"{named}:{port}"


def _tell(address: str, link: str) -> None:
    click.echo(f"Console: {address}/")
    click.echo(f"Sign in: {link}")
    click.echo("The link works once. Ctrl-C ends the console.")
    sys.stdout.flush()
