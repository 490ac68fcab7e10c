"""``aigateway policy``: what callers of the embedded control plane may."""

from __future__ import annotations

import json
from typing import Any

import click

from aigateway.actors.control.local.people import list_groups, list_users
from aigateway.actors.control.local.policies import PolicyChanged, StoredPolicy, newest
from aigateway.actors.control.local.policies import apply as apply_document
from aigateway.actors.control.local.policy_document import (
    LARGEST,
    BadPolicy,
    differences,
    read_policy,
)
from aigateway.actors.control.local.schema import Database
from aigateway.actors.values.policy import Policy
from aigateway.http.admin.shapes import policy_data
from aigateway.http.cli._local_database import changer, database_options, reading, writing
from aigateway.http.settings.printable import printable

__all__ = ["command"]

STDIN = "<stdin>"


@click.group(name="policy")
def command() -> None:
    """Show and change what users, groups and keys may, on a gateway that runs with --local.

    A policy is one YAML document: docs/policy.md says what may stand in it. All gateways on the
    database follow a new one within five seconds.
    """


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print it with its version as JSON.")
@database_options
def show(as_json: bool, **flags: object) -> None:
    """Print the policy that holds, as it was applied."""
    with reading(flags) as database:
        stored = newest(database)
    if as_json:
        click.echo(json.dumps(policy_data(stored), indent=2))
    elif not stored.version:
        click.echo("There is no policy: everybody with a key may do everything.", err=True)
    else:
        click.echo(
            f"# version {stored.version}, {stored.created_at} by {printable(stored.created_by)}",
            err=True,
        )
        click.echo(stored.document, nl=not stored.document.endswith("\n"))


@command.command()
@click.argument("file", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@database_options
def diff(file: object, as_json: bool, **flags: object) -> None:
    """Show what would change if FILE were applied; - is standard input.

    Changes nothing. Exit code 1 when something would change.
    """
    _document, policy = _read(file)
    with reading(flags) as database:
        stored = newest(database)
        changes = differences(_stored_policy(stored), policy)
        unknown = _unknown_names(database, policy)
    if as_json:
        click.echo(json.dumps({"over": stored.version, "changes": changes}, indent=2))
    else:
        _print_changes(changes, unknown)
    if changes:
        raise SystemExit(1)


@command.command()
@click.argument("file", type=click.File("rb"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON; needs --yes.")
@database_options
def apply(file: object, yes: bool, as_json: bool, **flags: object) -> None:
    """Show what FILE changes, ask, and let it hold from now on; - is standard input.

    It takes the place of the whole policy before it. Comments in it are kept.
    """
    if as_json and not yes:
        raise click.UsageError("--json asks nothing: give --yes too")
    if not yes and _name(file) == STDIN:
        raise click.UsageError("standard input is the policy, so nothing can be asked: give --yes")
    document, policy = _read(file)
    with writing(flags, create=True, quiet=as_json) as database:
        stored = newest(database)
        changes = differences(_stored_policy(stored), policy)
        if not as_json:
            _print_changes(changes, _unknown_names(database, policy))
        same = not changes and document == stored.document
        if not same:
            if not yes:
                click.confirm("Apply this?", abort=True, err=True)
            try:
                stored = apply_document(database, document, over=stored.version, who=changer())
            except PolicyChanged as ex:
                raise click.ClickException(f"{ex}; look again with `aigateway policy diff`") from ex
    if as_json:
        click.echo(json.dumps({"version": stored.version, "changes": changes}, indent=2))
    elif not same:
        click.echo(f"Applied as version {stored.version}.")


def _read(file: Any) -> tuple[str, Policy]:
    try:
        document = file.read(LARGEST + 1).decode("utf-8-sig")
        return document, read_policy(document)
    except UnicodeDecodeError as ex:
        raise click.UsageError(f"{_name(file)}: it is not UTF-8: {ex.reason} at {ex.start}") from ex
    except BadPolicy as ex:
        raise click.UsageError(printable(f"{_name(file)}: {ex}")) from ex


def _name(file: object) -> str:
    return getattr(file, "name", STDIN)


def _stored_policy(stored: StoredPolicy) -> Policy:
    try:
        return read_policy(stored.document)
    except BadPolicy as ex:
        raise click.ClickException(
            f"version {stored.version} of the policy cannot be read by this aigateway: {ex}"
        ) from ex


def _unknown_names(database: Database, policy: Policy) -> list[str]:
    """What the policy speaks of and is not there yet: perhaps a slip of the pen."""
    groups = {group.name for group in list_groups(database)}
    users = {name for user in list_users(database) for name in (user.name, user.id)}
    keys = {id for (id,) in database.execute("SELECT id FROM api_keys").fetchall()}
    return [
        *(f"group {name}" for name in policy.groups if name not in groups),
        *(f"user {name}" for name in policy.users if name not in users),
        *(f"key {name}" for name in policy.keys if name not in keys),
    ]


def _print_changes(changes: list[str], unknown: list[str]) -> None:
    for line in changes:
        click.echo(printable(line))
    if not changes:
        click.echo("Nothing changes.")
    for name in unknown:
        click.echo(f"Note: there is no {printable(name)} yet.", err=True)
