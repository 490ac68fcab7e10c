"""``aigateway keys``: the keys of the embedded control plane."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from aigateway.actors.control.local.api_keys import (
    ApiKey,
    NewApiKey,
    WantedKey,
    create_keys,
    find_key,
    list_keys,
    revoke_key,
)
from aigateway.actors.control.local.people import NoSuch, find_group, find_user
from aigateway.actors.control.local.policy_document import BadPolicy, rules_text
from aigateway.http.admin.shapes import key_data
from aigateway.http.cli._key_files import BadKeyFile, read_key_file
from aigateway.http.cli._local_database import (
    changer,
    database_options,
    naming_what_is_wrong,
    reading,
    writing,
)
from aigateway.http.cli._moments import minute, span
from aigateway.http.settings.printable import printable

__all__ = ["command"]


@click.group(name="keys")
def command() -> None:
    """Make, list and revoke the keys of a gateway that runs with --local.

    Changes take effect at once, also on gateways that are running.
    """


@command.command()
@click.argument("username", required=False)
@click.option(
    "--user-id",
    metavar="UUID",
    help="Id of the user.  [default: that of the user of this name, or made from the name]",
)
@click.option(
    "--group",
    metavar="NAME",
    help="Make a machine's key, which belongs to this group and to no user; needs --name.",
)
@click.option("--name", metavar="TEXT", help="What the key is for.")
@click.option("--project", metavar="NAME", help="Which project's money its holder spends.")
@click.option(
    "--expires-in",
    callback=span,
    metavar="DURATION",
    help="How long the key is good, for example 90d or 12h.  [default: until it is revoked]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="GLOB",
    help="Only models whose names fit, and only those that the policy allows.  May be repeated.",
)
@click.option("--requests-per-minute", type=click.IntRange(0), metavar="N", help="At most.")
@click.option("--tokens-per-minute", type=click.IntRange(0), metavar="N", help="At most.")
@click.option(
    "--cap",
    "caps",
    multiple=True,
    metavar="USD/EVERY",
    help="So many dollars in each day, week or month: 20/day.  May be repeated.",
)
@click.option(
    "--from",
    "file",
    type=click.File(encoding="utf-8-sig"),
    help="Make a key for each line of this CSV file, all or none; - is standard input.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print the key and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the key and its data as JSON.")
@database_options
def create(
    username: str | None,
    user_id: str | None,
    group: str | None,
    name: str | None,
    project: str | None,
    expires_in: int | None,
    models: tuple[str, ...],
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    caps: tuple[str, ...],
    file: Any,
    quiet: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Make a key for USERNAME, or for a machine of a group, and print it: it cannot be shown
    again.

    The key is the only line on standard output. A user that is not there yet is made.

    A file of --from has a line of column names (username, user_id, group, name, project,
    expires_in, in any order), then a line for each key; or user names alone, one a line. What it
    leaves out comes from the options. Its keys are printed as CSV, with their ids.
    """
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    if file is not None and (username or user_id):
        raise click.UsageError("--from names the users itself: leave USERNAME and --user-id out")
    if file is None and not username and not group:
        raise click.UsageError("whose key is it? Name a user, or a group with --group")
    with _usage_errors():
        rules = rules_text(
            {
                "models": models,
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "caps": tuple(map(_cap, caps)),
            }
        )
        plain = WantedKey(
            username=username or "",
            user_id=user_id,
            group=group or "",
            name=name or "",
            project=project or "",
            expires_in=expires_in,
            rules=rules,
        )
        wanted = [plain] if file is None else read_key_file(file, plain)
    with writing(flags, create=True, quiet=quiet) as connection, _usage_errors():
        made = create_keys(connection, wanted, who=changer())
    if as_json:
        documents = [{**key_data(each.key), "key": each.token} for each in made]
        click.echo(json.dumps(documents[0] if file is None else documents, indent=2))
    elif file is not None:
        _print_csv(made)
    else:
        _print_key(made[0], quiet)


def _print_key(made: NewApiKey, quiet: bool) -> None:
    if not quiet:
        until = f"until {made.key.expires_at}" if made.key.expires_at else "until it is revoked"
        click.echo(
            f"Key {made.key.id} for {printable(made.key.username)}, good {until}."
            " Keep it safe, it is shown only now:",
            err=True,
        )
    click.echo(made.token)


def _print_csv(made: list[NewApiKey]) -> None:
    # One write for thousands of lines.
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("username", "id", "key"))
    writer.writerows((each.key.username, each.key.id, each.token) for each in made)


def _cap(text: str) -> dict[str, str]:
    usd, slash, every = text.partition("/")
    if not slash:
        raise click.UsageError(f'--cap "{text}": write for example 20/day or 500/month')
    return {"usd": usd.strip().removeprefix("$"), "every": every.strip()}


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except (BadKeyFile, BadPolicy) as ex:
        raise click.UsageError(str(ex)) from ex
    except NoSuch as ex:
        raise click.ClickException(str(ex)) from ex
    except ValueError as ex:
        raise click.UsageError(str(ex)) from ex


@command.command("list")
@click.option("--user", metavar="NAME", help="Only those of this user, by name or id.")
@click.option("--group", metavar="NAME", help="Only those of this group's machines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@database_options
def list_(user: str | None, group: str | None, as_json: bool, **flags: object) -> None:
    """Show all keys, revoked and expired ones too; never their secrets."""
    with reading(flags) as connection, naming_what_is_wrong():
        keys = list_keys(
            connection,
            user_id=None if user is None else find_user(connection, user).id,
            group=None if group is None else find_group(connection, group).name,
        )
    if as_json:
        click.echo(json.dumps([key_data(key) for key in keys], indent=2))
        return
    if not keys:
        click.echo("No keys. Make one: aigateway keys create USERNAME", err=True)
        return
    _show(keys)


@command.command()
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@database_options
def show(key_id: str, as_json: bool, **flags: object) -> None:
    """Show all that is known of a key, but not its secret.

    KEY_ID is the part of a key before the dash.
    """
    with reading(flags) as connection, naming_what_is_wrong():
        key = find_key(connection, _id_of(key_id))
    data = key_data(key)
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    for name, value in data.items():
        if value is not None and value != "":
            shown = json.dumps(value) if isinstance(value, dict) else str(value)
            click.echo(f"{name.replace('_', ' ')}: {printable(shown)}")


@command.command()
@click.argument("key_id", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the ids as JSON.")
@database_options
def revoke(key_id: tuple[str, ...], as_json: bool, **flags: object) -> None:
    """Refuse the keys with these ids from now on.

    KEY_ID is the part of a key before the dash.
    """
    revoked, missing = [], []
    with writing(flags) as connection:
        for given in key_id:
            key = _id_of(given)
            if revoke_key(connection, key, who=changer()):
                revoked.append(key)
                if not as_json:
                    click.echo(f"Revoked {printable(key)}.")
            else:
                missing.append(printable(key))
    if as_json:
        click.echo(json.dumps({"revoked": revoked}, indent=2))
    if missing:
        raise click.ClickException(f"no such key: {', '.join(missing)}")


def _id_of(given: str) -> str:
    # One who pastes the whole key means its id, and must not see it repeated.
    return given.partition("-")[0]


def _show(keys: list[ApiKey]) -> None:
    from aigateway.http.cli._tables import print_table

    now = time.time()
    colours = {"active": "green", "expired": "yellow", "disabled": "yellow", "revoked": "red"}
    rows = [
        (
            key.id,
            key.username,
            key.user_id,
            (key.state(now), colours[key.state(now)]),
            minute(key.created_at),
            minute(key.expires_at) if key.expires_at else "never",
            minute(key.last_used_at) if key.last_used_at else "never",
        )
        for key in keys
    ]
    print_table(("id", "user", "user id", "state", "created", "expires", "last used"), rows)
