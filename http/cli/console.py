"""``aigateway console``: pages that show what the gateway knows."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import click

from aigateway.http.cli._local_database import changer
from aigateway.http.settings import Settings, SettingsError, load
from aigateway.http.settings.addresses import reachable
from aigateway.http.settings.flags import settings_options

if TYPE_CHECKING:
    from aigateway.http.console.oidc import OidcSettings
    from aigateway.http.console.reach import Reach

__all__ = ["check", "command", "serve"]

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
@click.option("--end-with-stdin", is_flag=True, hidden=True)
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
def command(
    address: str, client_address: str | None, end_with_stdin: bool, **flags: object
) -> None:
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
    if end_with_stdin:
        threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    serve(address, settings, client_address or "", alone=not end_with_stdin)


def serve(address: str, settings: Settings, client_address: str, *, alone: bool = True) -> None:
    """Listen until a signal comes.  Raises SettingsError.

    ``alone``: somebody has it in a terminal of its own.
    """
    reach = check(settings, address)
    from aigateway.http.console.app import Sources
    from aigateway.http.console.server import ConsoleServer

    if not client_address:
        scheme = "https" if settings.uses_tls else "http"
        client_address = f"{scheme}://{reachable(settings.http_address)}"
    sources = Sources(
        local_db=settings.local_db,
        runtime_dir=settings.runtime_dir,
        client_address=client_address,
        reach=reach,
        oidc=_oidc(settings),
        coderd=bool(settings.url) and not settings.local,
    )
    tls = (settings.console_tls_cert_file, settings.console_tls_key_file) if reach.tls else None
    ConsoleServer(address, sources, changer("console"), partial(_tell, alone), tls).run()


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


def check(settings: Settings, address: str, flag: str = "--address") -> Reach:
    """Find out before anything is started whether there can be a console at ``address``, which
    ``flag`` gives, and how it is reached.  Raises SettingsError."""
    if importlib.util.find_spec("jinja2") is None:
        raise SettingsError(
            f"{flag}: the console needs the extra console: pip install 'aigateway[console]'"
        )
    from aigateway.http.console.reach import reach_of

    return reach_of(settings, address, flag)


def _end_with_stdin() -> None:
    """With the gateway that this console belongs to, which holds the other end."""
    with contextlib.suppress(OSError):
        # Past Python's own reader, whose lock would be held when the process ends.
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _tell(alone: bool, address: str, link: str) -> None:
    click.echo(f"Console: {address}/")
    if link:
        click.echo(f"Sign in: {link}")
    told = ["The link works once."] * bool(link) + ["Ctrl-C ends the console."] * alone
    if told:
        click.echo(" ".join(told))
    sys.stdout.flush()
