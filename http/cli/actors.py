"""``aigateway actors``: see and restart the actors of a running gateway."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from aigateway.http.settings import load
from aigateway.http.settings.flags import settings_options

__all__ = ["ask_all", "command"]

TIMEOUT = 6.0
"""Seconds to wait for a worker's answer."""


@click.group("actors", invoke_without_command=True)
@settings_options(only=["runtime_dir", "config"])
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **flags: Any) -> None:
    """List the actors of each worker process of a running gateway.

    Talks to the workers through their unix sockets in the runtime folder.
    """
    settings = load(flags, os.environ, require_coderd=False)
    ctx.obj = Path(settings.runtime_dir)
    if ctx.invoked_subcommand is None:
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
    for pid, answer in ask_all(folder, question, worker):
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
    for pid, answer in ask_all(folder, {"command": "redeliver"}, None):
        if answer.get("error"):
            click.echo(f"worker {pid}: {answer['error']}", err=True)
        else:
            click.echo(f"worker {pid}: {answer['records']} records are sent again")


def _list(folder: Path, as_json: bool) -> None:
    answers = list(ask_all(folder, {"command": "list"}, None))
    if as_json:
        click.echo(json.dumps([{"pid": pid, **answer} for pid, answer in answers], indent=2))
        return
    table = Table("worker", "actor", "state", "restarts", "inbox", "detail", "last error")
    for pid, answer in answers:
        if answer.get("error"):
            table.add_row(str(pid), "", answer["error"], "", "", "", "")
        for info in answer.get("actors", []):
            table.add_row(
                str(pid), info["role"], info["state"], str(info["restarts"]),
                str(info["inbox"]), info["detail"], info["last_error"],
            )  # fmt: skip
    Console().print(table)


def ask_all(
    folder: Path, question: dict[str, Any], only: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Put a question to each worker of the gateway with this runtime folder, or to ``only`` one.

    Yields its process id and its answer, which has ``error`` when there was none.  Raises
    ClickException when no worker is there.
    """
    sockets = sorted(folder.glob("worker-*.sock")) if folder.is_dir() else []
    answered = False
    for path in sockets:
        pid = int(path.stem.removeprefix("worker-"))
        if only is not None and pid != only:
            continue
        try:
            answer = _ask(path, question)
        except OSError as ex:
            answer = {"error": f"no answer: {ex}"}
        answered = True
        yield pid, answer
    if not answered:
        raise click.ClickException(
            f"no gateway is running with the runtime folder {folder}; set --runtime-dir as it was"
            " set for `aigateway start`"
        )


def _ask(path: Path, question: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(path))
        client.sendall(json.dumps(question).encode() + b"\n")
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline() or b'{"error": "the worker gave no answer"}')
    assert isinstance(answer, dict)
    return answer
