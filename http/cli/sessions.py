"""``aigateway sessions``: what was worked on, by whom, and what it cost."""

from __future__ import annotations

import json

import click
from attrs import asdict

from aigateway.actors.control.local.looks import look_at_many
from aigateway.actors.control.local.prompt_search import Hit, phrases_of, search_prompts
from aigateway.actors.control.local.sessions import SessionFilter, SessionRow, find_sessions
from aigateway.actors.values.money import dollars
from aigateway.http.cli._local_database import database_options, note_look, reading
from aigateway.http.cli._moments import moment, within_the_calendar
from aigateway.http.settings.printable import printable

__all__ = ["command", "print_hits", "print_sessions"]


@click.command(name="sessions")
@click.option("--user", metavar="NAME", help="Of this user: a name or an id.")
@click.option("--project", metavar="NAME", help="Of this project.")
@click.option("--repository", metavar="NAME", help="In this repository: github.com/owner/name.")
@click.option("--branch", metavar="NAME", help="On this branch.")
@click.option("--client", metavar="NAME", help='With this program: "Claude Code", for example.')
@click.option("--model", metavar="NAME", help="With this model.")
@click.option(
    "--since",
    callback=moment,
    metavar="TIME",
    help="With a request then or later: a date, an RFC 3339 time, today, yesterday, or 7d for"
    " seven days ago.",
)
@click.option("--until", callback=moment, metavar="TIME", help="Begun before then.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="The latest N.",
)
@click.option(
    "--search",
    metavar="TEXT",
    help="List prompts and answers instead that have all of these words, and phrases between quotes"
    " as they stand there; the filters are about the requests that they are of.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@database_options
def command(
    user: str | None,
    project: str | None,
    repository: str | None,
    branch: str | None,
    client: str | None,
    model: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    search: str | None,
    as_json: bool,
    **flags: object,
) -> None:
    """List the sessions of a gateway that runs with --local, the latest first.

    A session is a user and the session's id that the client sends. `aigateway session ID` shows
    what happened in one. Times and days are UTC.
    """
    wanted = SessionFilter(
        user=user,
        project=project,
        repository=repository,
        branch=branch,
        client=client,
        model=model,
        since=since,
        until=until,
    )
    if search is not None and not phrases_of(search):
        raise click.UsageError("--search has no word to search for")
    hits: list[Hit] = []
    rows: list[SessionRow] = []
    with reading(flags) as connection:
        # One snapshot for all of it, also while a gateway goes on writing.
        connection.execute("BEGIN")
        with within_the_calendar():
            if search is not None:
                hits = search_prompts(connection, search, wanted, limit)
            else:
                rows = find_sessions(connection, wanted, limit)
    whose = [(row.user_id, row.username, row.prompt) for row in rows]
    note_look(flags, look_at_many("sessions", "first prompts of sessions", whose))
    found = [(hit.user_id, hit.username, hit.excerpt) for hit in hits]
    note_look(flags, look_at_many("search", "prompts and answers", found, search=search))
    if as_json:
        click.echo(json.dumps([*map(asdict, rows), *map(asdict, hits)], indent=2))
    elif hits:
        print_hits(hits)
    elif rows:
        print_sessions(rows)
    else:
        click.echo(f"There is no such {'session' if search is None else 'prompt or answer'}.")


def print_sessions(rows: list[SessionRow]) -> None:
    """As a table."""
    from rich.table import Table
    from rich.text import Text

    from aigateway.http.cli._tables import console, table_box

    table = Table(box=table_box())
    for heading in ("last", "user", "session", "client", "for", "first prompt"):
        table.add_column(heading, overflow="fold" if heading == "session" else "ellipsis")
    for heading in ("requests", "agents", "tokens", "cost", "cache breaks"):
        table.add_column(heading, justify="right")
    for row in rows:
        spent = row.tokens
        tokens = (
            spent.input_tokens
            + spent.output_tokens
            + spent.cache_read_input_tokens
            + spent.cache_write_input_tokens
        )
        cells = (
            row.last_at[:16].replace("T", " "),
            row.username,
            row.session_id,
            ", ".join(row.clients),
            _work(row),
            " ".join(row.prompt.split())[:60],
            f"{row.requests:,}",
            f"{row.agents:,}",
            f"{tokens:,}",
            dollars(spent.cost_nano_usd),
            _broken(row),
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console().print(table)


def print_hits(hits: list[Hit]) -> None:
    """As a table."""
    from aigateway.http.cli._tables import print_table

    rows = [
        (
            hit.created_at[:16].replace("T", " "),
            hit.username,
            hit.session_id or "",
            hit.excerpt if hit.what == "prompt" else f"{hit.what}: {hit.excerpt}",
        )
        for hit in hits
    ]
    print_table(("at", "user", "session", "prompt or answer"), rows)


def _broken(row: SessionRow) -> str:
    """How often the cache broke, and what that cost."""
    if not row.cache.breaks:
        return ""
    return f"{row.cache.breaks:,}: {dollars(row.cache.cost_nano_usd)}"


def _work(row: SessionRow) -> str:
    """Project, repository and branch, in a few words."""
    places = [
        *row.projects,
        *(name.rpartition("/")[2] for name in row.repositories),
        *row.branches,
    ]
    return " ".join(dict.fromkeys(places))
