"""``aigateway demo``: everything on one machine, without a provider, a key or a network."""

from __future__ import annotations

import sqlite3

import click

__all__ = ["command"]


@click.command("demo")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default="a free one",
    help="Port of the gateway.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Worker processes of the gateway.",
)
@click.option(
    "--once",
    is_flag=True,
    help="Send one request of each kind, show what was recorded, and exit 0 only if all of it is"
    " right: the smoke test of an installation.",
)
@click.option(
    "--keep", is_flag=True, help="Keep the temporary folder with the database and the log."
)
def command(port: int, workers: int, once: bool, keep: bool) -> None:
    """Try it out: a gateway in front of an imitation provider.

    The imitation speaks Anthropic's and OpenAI's APIs and makes its answers up. The gateway runs
    on its embedded control plane in a temporary folder, whose records begin with two weeks of three
    people's work that never was. Lines to paste and a link to the console are printed, a few
    requests are sent, and what is recorded is shown as it comes, until Ctrl-C.
    """
    # Not at the top: `aigateway --help` must not pay for them.
    from aigateway.actors.control.local.schema import LocalDatabaseError
    from aigateway.http.demo.gateway import DemoFailed
    from aigateway.http.demo.interrupts import Interrupts
    from aigateway.http.demo.live import show_live, show_once
    from aigateway.http.demo.stage import Stage

    delay = 0.0 if once else 0.03
    with (
        Interrupts() as interrupts,
        Stage(
            port=port, workers=workers, delay=delay, listen=once, keep=keep, pages=not once
        ) as stage,
    ):
        try:
            stage.open(interrupts.given_up)
            if interrupts.stopped:
                return
            good = show_once(stage, interrupts) if once else show_live(stage, interrupts)
        except (DemoFailed, LocalDatabaseError, OSError, sqlite3.Error) as ex:
            raise click.ClickException(str(ex)) from ex
        finally:
            if keep:
                click.echo(f"Kept: {stage.folder}", err=True)
    if not good:
        raise click.exceptions.Exit(1)
