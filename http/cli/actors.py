"""``aigateway actors``: see and restart the actors of a running gateway."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from aigateway.http.cli._tables import console, table_box
from aigateway.http.diagnosis.report import as_text
from aigateway.http.diagnosis.workers import NoGateway, ask_all, traces
from aigateway.http.settings import load
from aigateway.http.settings.flags import settings_options
from aigateway.http.settings.printable import printable

__all__ = ["command", "traces_as_text"]


@click.group("actors", invoke_without_command=True)
@settings_options(only=["runtime_dir", "config"])
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--trace",
    is_flag=True,
    help="Show what each actor has in hand and the traceback of every thread and greenlet."
    " Works also when an actor hangs.",
)
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, trace: bool, **flags: Any) -> None:
    """List the actors of each worker process of a running gateway.

    Talks to the workers through their unix sockets in the runtime folder.
    """
    settings = load(flags, os.environ, require_coderd=False)
    ctx.obj = Path(settings.runtime_dir)
    if ctx.invoked_subcommand is not None:
        if trace:
            raise click.UsageError("--trace goes without a subcommand")
    elif trace:
        _trace(ctx.obj, as_json)
    else:
        _list(ctx.obj, as_json)


@command.command("restart")
@click.argument("role")
@click.option("--worker", type=int, default=None, help="Only in the worker process with this pid.")
@click.option("--crash", is_flag=True, help="End it as an error in its code would: a rehearsal.")
@click.pass_obj
def restart(folder: Path, role: str, worker: int | None, crash: bool) -> None:
    """Restart the actor ROLE (for example recorder or provider/anthropic) in every worker."""
    question = {"command": "restart", "role": role, "crash": crash}
    done = False
    for pid, answer in _or_fail(ask_all(folder, question, worker)):
        if answer.get("error"):
            click.echo(f"worker {pid}: {answer['error']}", err=True)
        elif answer["done"]:
            done = True
            click.echo(f"worker {pid}: {role} restarted")
        else:
            click.echo(f"worker {pid}: no actor {role!r}; `aigateway actors` lists them", err=True)
    if not done:
        sys.exit(1)


@command.command("redeliver")
@click.pass_obj
def redeliver(folder: Path) -> None:
    """Send the records that were set aside (dead letters) again."""
    for pid, answer in _or_fail(ask_all(folder, {"command": "redeliver"}, None)):
        if answer.get("error"):
            click.echo(f"worker {pid}: {answer['error']}", err=True)
        else:
            click.echo(f"worker {pid}: {answer['records']} records are sent again")


def _list(folder: Path, as_json: bool) -> None:
    answers = list(_or_fail(ask_all(folder, {"command": "list"}, None)))
    if as_json:
        click.echo(json.dumps([{"pid": pid, **answer} for pid, answer in answers], indent=2))
        return
    table = Table("worker", box=table_box())
    # A role is what one types to restart an actor, so it is never cut.
    table.add_column("actor", no_wrap=True)
    for name in ("state", "restarts", "inbox", "detail", "last error"):
        table.add_column(name, overflow="fold")
    for pid, answer in answers:
        if answer.get("error"):
            table.add_row(str(pid), "", answer["error"], "", "", "", "")
        for info in answer.get("actors", []):
            cells = [info[name] for name in ("role", "state", "restarts", "inbox", "detail")]
            cells.append(info["last_error"])
            table.add_row(str(pid), *(Text(printable(str(cell))) for cell in cells))
    console().print(table)


def _trace(folder: Path, as_json: bool) -> None:
    found = _or_fail(traces(folder))
    if as_json:
        click.echo(json.dumps([{"pid": pid, **trace} for pid, trace in found], indent=2))
    else:
        click.echo(traces_as_text(found))


def traces_as_text(found: Iterable[tuple[int, dict[str, Any]]]) -> str:
    """What :func:`traces` found, for people."""
    return "\n\n\n".join(
        f"worker {pid}: {trace['error']}" if "error" in trace else as_text(trace)
        for pid, trace in found
    )


def _or_fail(found: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from found
    except NoGateway as ex:
        raise click.ClickException(str(ex)) from ex
