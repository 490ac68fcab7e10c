"""``aigateway session``: what happened in one session."""

from __future__ import annotations

import json

import click
from attrs import asdict

from aigateway.actors.control.local.cache_breaks import in_words
from aigateway.actors.control.local.looks import look_at_one
from aigateway.actors.control.local.schema import moment_of
from aigateway.actors.control.local.sessions import CacheBreaks, SessionRow, Tokens, sessions_named
from aigateway.actors.control.local.timeline import Agent, Cache, Turn, timeline
from aigateway.actors.values.money import dollars
from aigateway.http.cli._local_database import database_options, note_look, reading
from aigateway.http.settings.printable import printable

__all__ = ["command", "print_session"]

_SHOWN = 160
"""Characters of a text in its one line."""


@click.command(name="session")
@click.argument("session_id", metavar="ID")
@click.option("--user", metavar="NAME", help="Whose, if several users have one of this id.")
@click.option("--full", is_flag=True, help="Print texts whole, not their beginnings alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@database_options
def command(session_id: str, user: str | None, full: bool, as_json: bool, **flags: object) -> None:
    """Show what happened in a session: prompts, thoughts, calls of tools, answers, tokens and cost
    of each request, those of subagents below them.

    Answers, and how large results of tools were, are there where a gateway records them (--content
    full).

    `aigateway sessions` lists which there are. Times are UTC.
    """
    with reading(flags) as connection:
        # One snapshot for all of it, also while a gateway goes on writing.
        connection.execute("BEGIN")
        found = sessions_named(connection, session_id, user)
        if not found:
            whose = f" of {user}" if user is not None else ""
            raise click.ClickException(
                f'there is no session "{printable(session_id)}"{whose}; `aigateway sessions` lists'
                " them"
            )
        if len(found) > 1:
            users = ", ".join(sorted(printable(row.username) for row in found))
            raise click.UsageError(f"several users have a session of this id: --user {users}")
        (row,) = found
        tree = timeline(connection, (row.user_id, row.session_id))
    look = look_at_one("session", f"session {row.session_id}", row.user_id, row.username)
    note_look(flags, look)
    if as_json:
        click.echo(json.dumps({**asdict(row), "timeline": asdict(tree)}, indent=2))
        return
    print_session(row, tree, full)


def print_session(row: SessionRow, tree: Agent, full: bool) -> None:
    """What a session has come to, and what happened in it; ``full``: with texts whole."""
    _print_head(row)
    _print_agent(tree, "", full)


def _print_head(row: SessionRow) -> None:
    first, last = row.started_at[:19].replace("T", " "), row.last_at[:19].replace("T", " ")
    lines = [
        f"session   {row.session_id}",
        f"user      {row.username}",
        f"client    {', '.join(row.clients)}",
        f"models    {', '.join(row.models)}",
        *_named("project", row.projects),
        *_named("in", row.repositories),
        *_named("branch", row.branches),
        f"time      {first} to {last}",
        f"requests  {row.requests:,}, {row.errors:,} failed, {row.agents:,} subagents",
        f"tokens    {_spent(row.tokens)}",
        *_named("cache", _broken(row.cache)),
    ]
    for line in lines:
        click.echo(printable(line))


def _named(name: str, values: tuple[str, ...]) -> list[str]:
    return [f"{name:<9} {', '.join(values)}"] if values else []


def _print_agent(agent: Agent, indent: str, full: bool) -> None:
    for entry in agent.in_order():
        if isinstance(entry, Agent):
            click.echo(f"\n{indent}subagent {printable(entry.id or '')}")
            _print_agent(entry, f"{indent}    ", full)
        else:
            _print_turn(entry, indent, full)


def _print_turn(turn: Turn, indent: str, full: bool) -> None:
    told = [turn.started_at[11:19], turn.model, _spent(turn.tokens)]
    if turn.ended_at is not None:
        told.append(f"{moment_of(turn.ended_at) - moment_of(turn.started_at):.1f} s")
    else:
        told.append("not ended")
    click.echo(f"\n{indent}{printable('  '.join(told))}")
    if turn.cache is not None and turn.cache.cause is not None:
        click.echo(f"{indent}  cache break: {_told(turn.cache)}")
    if turn.compacts:
        click.echo(f"{indent}  compaction: the provider has made the conversation shorter")
    for prompt in turn.prompts:
        kind = "prompt" if prompt.kind in (None, "user") else f"prompt ({prompt.kind})"
        _print_text(indent, kind, prompt.text, full)
    for thought in turn.thoughts:
        _print_text(indent, "thought", thought, full)
    for call in turn.tools:
        kind = "tool (injected)" if call.injected else "tool"
        _print_text(indent, kind, f"{call.tool} {call.input}", full)
        if call.result_size is not None:
            failed = ", failed" if call.result_failed else ""
            click.echo(f"{indent}  tool result: {call.result_size:,} bytes{failed}")
        if call.error:
            _print_text(indent, "tool failed", call.error, full)
    for answer in turn.answers:
        _print_text(indent, "answer", answer, full)
    if turn.error_type is not None:
        _print_text(indent, "error", f"{turn.error_type} {turn.error_message or ''}", full)


def _told(cache: Cache) -> str:
    what = in_words(cache.cause or "", cache.place)
    cost = "" if cache.cost_nano_usd is None else f", {dollars(cache.cost_nano_usd)}"
    return (
        f"{what}; {cache.lost_tokens:,} of {cache.could_tokens:,} tokens were not read again{cost}"
    )


def _broken(breaks: CacheBreaks) -> tuple[str, ...]:
    if not breaks.breaks:
        return ()
    causes = ", ".join(f"{cause} {times:,}" for cause, times in breaks.causes)
    return (
        f"{breaks.breaks:,} breaks ({causes}): {breaks.lost_tokens:,} tokens not read again,"
        f" {dollars(breaks.cost_nano_usd)}",
    )


def _print_text(indent: str, kind: str, text: str, full: bool) -> None:
    if not full:
        line = " ".join(text[: 2 * _SHOWN].split())
        if len(line) > _SHOWN or len(text) > 2 * _SHOWN:
            line = f"{line[:_SHOWN]}…"
        click.echo(f"{indent}  {kind}: {printable(line)}")
        return
    click.echo(f"{indent}  {kind}:")
    for line in text.splitlines():
        click.echo(f"{indent}    {printable(line)}")


def _spent(tokens: Tokens) -> str:
    return (
        f"{tokens.input_tokens:,} in, {tokens.output_tokens:,} out,"
        f" {tokens.cache_read_input_tokens:,} cache read,"
        f" {tokens.cache_write_input_tokens:,} cache written, {dollars(tokens.cost_nano_usd)}"
    )
