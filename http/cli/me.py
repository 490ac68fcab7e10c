"""``aigateway me``: one's own sessions and usage, asked of the gateway with one's own key."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import click
import requests
from attrs import field, frozen

from aigateway.actors.control.local.cap_holders import CapRow
from aigateway.actors.control.local.prompt_search import Hit
from aigateway.actors.control.local.sessions import SessionRow
from aigateway.actors.control.local.timeline import Agent
from aigateway.actors.control.local.usage import GROUPS, UsageRow
from aigateway.actors.upstream.adapter import PlainSession
from aigateway.actors.values.money import dollars
from aigateway.actors.values.records import timestamp
from aigateway.http.cli import session as one_session
from aigateway.http.cli import sessions as many_sessions
from aigateway.http.cli import usage as sums
from aigateway.http.cli._from_json import from_json
from aigateway.http.cli._moments import moment, within_the_calendar
from aigateway.http.settings.printable import printable

__all__ = ["command"]

PATIENCE: Final = 60.0
"""Seconds for each answer of the gateway."""
KEY: Final = "AIGATEWAY_KEY"

F = TypeVar("F", bound=Callable[..., Any])


@frozen
class _Gateway:
    """Where to ask, and as whom."""

    url: str
    key: str = field(repr=False)
    ca_file: str

    def asked(self, what: str, query: Mapping[str, object] | None = None) -> Any:
        """The JSON of an answer.  Raises click.ClickException."""
        told = {name: value for name, value in (query or {}).items() if value is not None}
        place = f"{self.url.rstrip('/')}/api/me/v1/{what}{'?' if told else ''}{urlencode(told)}"
        session = PlainSession()
        session.verify = self.ca_file or True
        try:
            answer = session.get(
                place, headers={"Authorization": f"Bearer {self.key}"}, timeout=PATIENCE
            )
            if answer.status_code == 200:
                return answer.json()
            said = _said(answer)
        except (requests.RequestException, ValueError) as ex:
            raise click.ClickException(f"--url {self.url}: {printable(str(ex))}") from ex
        raise click.ClickException(
            f"the gateway at {self.url} answers {answer.status_code}: {printable(said)}"
        )


def _said(answer: requests.Response) -> str:
    try:
        message = answer.json()["message"]
    except (ValueError, LookupError, TypeError):
        message = answer.text
    return " ".join(str(message).split())[:500] or answer.reason


def _asking(function: F) -> F:
    """Add what all commands need to ask; they get a :class:`_Gateway`."""
    for option in (
        click.option(
            "--ca-file", default="", metavar="PATH", help="PEM file with the authorities that may"
            " sign the gateway's certificate.  [default: the system's]",
        ),
        click.option(
            "--key-file", metavar="PATH", help=f"File with your key; - is standard input."
            f"  [default: the variable {KEY}]",
        ),
        click.option(
            "--url", default="http://127.0.0.1:4001", show_default=True, envvar="AIGATEWAY_URL",
            show_envvar=True, metavar="URL", help="The gateway's address.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ):  # fmt: skip
        function = option(function)
    return function


def _gateway(url: str, key_file: str | None, ca_file: str) -> _Gateway:
    """Raises click.UsageError where there is no key, and ClickException for an unreadable file."""
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url}: it begins with http:// or https://")
    # APPSEC: never on the command line, which others can read.
    key = os.environ.get(KEY, "")
    if key_file is not None:
        try:
            text = sys.stdin.read() if key_file == "-" else Path(key_file).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as ex:
            raise click.ClickException(f"--key-file {key_file}: {ex}") from ex
        key = text
    key = key.strip()
    if not key:
        raise click.UsageError(f"your key is missing: set {KEY}, or name a file with --key-file")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise click.UsageError("that is no key: it has characters that no key has")
    return _Gateway(url, key, ca_file)


@click.group(name="me")
def command() -> None:
    """Show your own sessions and usage, asked of the gateway with your own key.

    It needs no database, only the gateway's address and a key of yours, in the variable
    AIGATEWAY_KEY or in a file. The gateway must run with --local.
    """


@command.command(name="sessions")
@click.option("--project", metavar="NAME", help="Of this project.")
@click.option("--repository", metavar="NAME", help="In this repository: github.com/owner/name.")
@click.option("--branch", metavar="NAME", help="On this branch.")
@click.option("--client", metavar="NAME", help='With this program: "Claude Code", for example.')
@click.option("--model", metavar="NAME", help="With this model.")
@click.option("--since", callback=moment, metavar="TIME", help="With a request then or later.")
@click.option("--until", callback=moment, metavar="TIME", help="Begun before then.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N",
              help="The latest N.")  # fmt: skip
@click.option(
    "--search", metavar="TEXT", help="List prompts and answers instead that have all these words."
)
@_asking
def sessions(
    since: float | None,
    until: float | None,
    limit: int,
    search: str | None,
    as_json: bool,
    url: str,
    key_file: str | None,
    ca_file: str,
    **filters: str | None,
) -> None:
    """List your sessions, the latest first."""
    query = {**filters, **_times(since, until), "limit": limit, "search": search}
    found = _gateway(url, key_file, ca_file).asked("sessions", query)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo(f"You have no such {'session' if search is None else 'prompt or answer'}.")
    elif search is not None:
        many_sessions.print_hits([_read(Hit, each) for each in found])
    else:
        many_sessions.print_sessions([_read(SessionRow, each) for each in found])


@command.command(name="session")
@click.argument("session_id", metavar="ID")
@click.option("--full", is_flag=True, help="Print texts whole, not their beginnings alone.")
@_asking
def session(
    session_id: str, full: bool, as_json: bool, url: str, key_file: str | None, ca_file: str
) -> None:
    """Show what happened in one of your sessions."""
    place = f"sessions/{quote(session_id, safe='')}"
    found = _gateway(url, key_file, ca_file).asked(place)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    tree = _read(Agent, found.get("timeline") if isinstance(found, dict) else None)
    one_session.print_session(_read(SessionRow, found), tree, full)


@command.command(name="usage")
@click.option("--by", type=click.Choice(list(GROUPS)), multiple=True, default=("model",),
              show_default=True, help="What to sum up by. May be repeated.")  # fmt: skip
@click.option("--since", callback=moment, metavar="TIME", help="Requests from then on.")
@click.option("--until", callback=moment, metavar="TIME", help="Requests before then.")
@_asking
def usage(
    by: tuple[str, ...],
    since: float | None,
    until: float | None,
    as_json: bool,
    url: str,
    key_file: str | None,
    ca_file: str,
) -> None:
    """Show what you have used, what it cost, and how full the caps of you and your keys are."""
    query = {"by": ",".join(dict.fromkeys(by)), **_times(since, until)}
    found = _gateway(url, key_file, ca_file).asked("usage", query)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    told = _read(_Usage, found)
    sums.print_usage(told.by, list(told.rows))
    for cap in told.caps:
        click.echo(
            printable(
                f"cap of this {cap.scope} {cap.name}, every {cap.every}: {dollars(cap.spent)} of"
                f" {dollars(cap.cap)} are spent ({cap.part:.0%}); it begins again at"
                f" {cap.resets_at[:16].replace('T', ' ')} UTC"
            )
        )


@frozen
class _Usage:
    by: tuple[str, ...]
    rows: tuple[UsageRow, ...]
    caps: tuple[CapRow, ...]


def _times(since: float | None, until: float | None) -> dict[str, str | None]:
    with within_the_calendar():
        return {
            name: None if at is None else timestamp(at)
            for name, at in (("since", since), ("until", until))
        }


T = TypeVar("T")


def _read(cls: type[T], data: Any) -> T:
    try:
        return from_json(cls, data)
    except (TypeError, ValueError, LookupError) as ex:
        raise click.ClickException(f"the gateway's answer cannot be read: {ex}") from ex
