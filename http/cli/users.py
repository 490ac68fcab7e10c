"""``aigateway users``: who may have keys of the embedded control plane."""

from __future__ import annotations

import json

import click

from aigateway.actors.control.local.people import (
    User,
    create_users,
    find_user,
    list_users,
    set_disabled,
)
from aigateway.http.admin.shapes import user_data
from aigateway.http.cli._local_database import (
    changer,
    database_options,
    naming_what_is_wrong,
    reading,
    writing,
)
from aigateway.http.cli._moments import minute
from aigateway.http.settings.printable import printable

__all__ = ["command"]

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="users")
def command() -> None:
    """Make, list and disable the users of a gateway that runs with --local.

    A user is named by name or id. Changes take effect at once, also on gateways that are running.
    """


@command.command()
@click.argument("name", nargs=-1, required=True)
@click.option(
    "--id",
    "user_id",
    metavar="UUID",
    help="Id of the user.  [default: made from the name, the same name has always the same id]",
)
@as_json_option
@database_options
def create(name: tuple[str, ...], user_id: str | None, as_json: bool, **flags: object) -> None:
    """Make users without keys; `aigateway keys create` makes both in one go."""
    if user_id is not None and len(name) > 1:
        raise click.UsageError("--id is for one user")
    with writing(flags, create=True, quiet=as_json) as database, naming_what_is_wrong():
        made = create_users(database, [(each, user_id) for each in name], who=changer())
    _print(made, as_json, "Made {}.")


@command.command("list")
@click.option("--group", metavar="NAME", help="Only those in this group.")
@as_json_option
@database_options
def list_(group: str | None, as_json: bool, **flags: object) -> None:
    """Show all users, with their groups."""
    with reading(flags) as database, naming_what_is_wrong():
        users = list_users(database, group)
    if as_json:
        click.echo(json.dumps([user_data(user) for user in users], indent=2))
    elif users:
        _show(users)
    else:
        click.echo("No users. Make one: aigateway users create NAME", err=True)


@command.command()
@click.argument("user")
@as_json_option
@database_options
def show(user: str, as_json: bool, **flags: object) -> None:
    """Show all that is known of a user; `aigateway keys list --user` shows the keys."""
    with reading(flags) as database, naming_what_is_wrong():
        data = user_data(find_user(database, user))
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    for name, value in data.items():
        if value:
            shown = ", ".join(value) if isinstance(value, list) else value
            click.echo(f"{name.replace('_', ' ')}: {printable(shown)}")


@command.command()
@click.argument("user", nargs=-1, required=True)
@as_json_option
@database_options
def disable(user: tuple[str, ...], as_json: bool, **flags: object) -> None:
    """Refuse all keys of these users from now on."""
    _set_disabled(user, True, as_json, flags)


@command.command()
@click.argument("user", nargs=-1, required=True)
@as_json_option
@database_options
def enable(user: tuple[str, ...], as_json: bool, **flags: object) -> None:
    """Let users in again that were disabled."""
    _set_disabled(user, False, as_json, flags)


def _set_disabled(
    named: tuple[str, ...], disabled: bool, as_json: bool, flags: dict[str, object]
) -> None:
    with writing(flags) as database, naming_what_is_wrong():
        # All are found before any is changed.
        users = [find_user(database, each) for each in named]
        changed = [set_disabled(database, user.id, disabled, who=changer()) for user in users]
    _print(changed, as_json, "Disabled {}." if disabled else "Enabled {}.")


def _print(users: list[User], as_json: bool, said: str) -> None:
    if as_json:
        click.echo(json.dumps([user_data(user) for user in users], indent=2))
        return
    for user in users:
        click.echo(said.format(printable(user.name)))


def _show(users: list[User]) -> None:
    from aigateway.http.cli._tables import print_table

    rows = [
        (
            user.name,
            user.id,
            (user.state, "green" if user.disabled_at is None else "yellow"),
            ", ".join(user.groups),
            minute(user.created_at),
        )
        for user in users
    ]
    print_table(("user", "id", "state", "groups", "created"), rows)
