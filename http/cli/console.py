"""``aigateway console``: pages that show what the gateway knows."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from aigateway.http.cli._local_database import changer
from aigateway.http.settings import Settings, load
from aigateway.http.settings.flags import settings_options

if TYPE_CHECKING:
    from aigateway.http.console.oidc import OidcSettings

__all__ = ["command", "serve"]

ADDRESS = "127.0.0.1:4002"


@click.command("console")
@click.option(
    "--address",
    default=ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen: a loopback address, or with --oidc-issuer and TLS any. Port 0 is a free"
    " one.",
)
@click.option(
    "--client-address",
    metavar="URL",
    help="The gateway's address as clients see it, for the page that sets them up."
    "  [default: made from --http-address]",
)
@settings_options(
    only=(
        "local",
        "local_db",
        "url",
        "runtime_dir",
        "http_address",
        "trusted_proxies",
        "upstream_ca_file",
        "console_url",
        "console_tls_cert_file",
        "console_tls_key_file",
        "oidc_issuer",
        "oidc_client_id",
        "oidc_scopes",
        "oidc_user_claim",
        "oidc_groups_claim",
        "oidc_admins",
        "oidc_viewers",
        "config",
    )
)
def command(address: str, client_address: str | None, **flags: object) -> None:
    """Serve pages that show what runs, what was used, and how providers and actors are.

    It reads the database of gateways that run with --local, asks them through it how they are,
    and writes to it what is changed on its pages: give it the same --local-db, on whichever
    machine. For the gateway of a Coder deployment give it the same --url and --runtime-dir, on the
    same machine. It is a process of its own, which no request passes. The link that it prints signs
    one browser in, once. With --oidc-issuer people sign in by an OpenID provider; the
    client's secret is in CODER_AI_GATEWAY_OIDC_CLIENT_SECRET, or in the file that
    CODER_AI_GATEWAY_OIDC_CLIENT_SECRET_FILE names.
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
    from aigateway.http.console.reach import reach_of
    from aigateway.http.console.server import ConsoleServer

    reach = reach_of(settings, address)
    if not client_address:
        scheme = "https" if settings.uses_tls else "http"
        client_address = f"{scheme}://{_reachable(settings.http_address)}"
    sources = Sources(
        local_db=settings.local_db,
        runtime_dir=settings.runtime_dir,
        client_address=client_address,
        reach=reach,
        oidc=_oidc(settings),
        coderd=bool(settings.url) and not settings.local,
    )
    tls = (settings.console_tls_cert_file, settings.console_tls_key_file) if reach.tls else None
    ConsoleServer(address, sources, changer("console"), _tell, tls).run()


def _oidc(settings: Settings) -> OidcSettings | None:
    if not settings.oidc_issuer:
        return None
    try:
        from aigateway.http.console.oidc import OidcSettings
    except ImportError as ex:
        raise click.ClickException(
            f"--oidc-issuer needs the extra console: pip install 'aigateway[console]' ({ex})"
        ) from ex
    return OidcSettings.of(settings)


def _reachable(address: str) -> str:
    """What listens on all addresses is called by one of them."""
    host, _, port = address.rpartition(":")
    named = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"{named}:{port}"


def _tell(address: str, link: str) -> None:
    click.echo(f"Console: {address}/")
    if link:
        click.echo(f"Sign in: {link}")
    click.echo(f"{'The link works once. ' if link else ''}Ctrl-C ends the console.")
    sys.stdout.flush()
