"""``aigateway groups``: groups of the embedded control plane's users."""

from __future__ import annotations

import json

import click

from aigateway.actors.control.local.people import (
    Group,
    add_members,
    create_group,
    delete_group,
    find_group,
    list_groups,
    remove_members,
)
from aigateway.http.admin.shapes import group_data
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


@click.group(name="groups")
def command() -> None:
    """Put the users of a gateway that runs with --local into groups.

    What a group may is the policy's business (`aigateway policy`). Changes take effect at once,
    also on gateways that are running.
    """


@command.command()
@click.argument("group")
@as_json_option
@database_options
def create(group: str, as_json: bool, **flags: object) -> None:
    """Make a group."""
    with writing(flags, create=True, quiet=as_json) as database, naming_what_is_wrong():
        made = create_group(database, group, who=changer())
    _print(made, as_json, "Made the group {}.")


@command.command("list")
@as_json_option
@database_options
def list_(as_json: bool, **flags: object) -> None:
    """Show all groups."""
    with reading(flags) as database:
        groups = list_groups(database)
    if as_json:
        click.echo(json.dumps([group_data(group) for group in groups], indent=2))
    elif groups:
        _show(groups)
    else:
        click.echo("No groups. Make one: aigateway groups create NAME", err=True)


@command.command()
@click.argument("group")
@as_json_option
@database_options
def show(group: str, as_json: bool, **flags: object) -> None:
    """Show who is in a group; `aigateway keys list --group` shows its machines' keys."""
    with reading(flags) as database, naming_what_is_wrong():
        found = find_group(database, group)
    if as_json:
        click.echo(json.dumps(group_data(found), indent=2))
        return
    click.echo(f"id: {found.id}\nname: {printable(found.name)}\ncreated at: {found.created_at}")
    for member in found.members:
        click.echo(f"member: {printable(member)}")


@command.command()
@click.argument("group")
@click.argument("user", nargs=-1, required=True)
@as_json_option
@database_options
def add(group: str, user: tuple[str, ...], as_json: bool, **flags: object) -> None:
    """Put users into a group, all or none."""
    with writing(flags) as database, naming_what_is_wrong():
        changed = add_members(database, group, user, who=changer())
    _print(changed, as_json, "{} has {} members now.")


@command.command()
@click.argument("group")
@click.argument("user", nargs=-1, required=True)
@as_json_option
@database_options
def remove(group: str, user: tuple[str, ...], as_json: bool, **flags: object) -> None:
    """Take users out of a group, all or none."""
    with writing(flags) as database, naming_what_is_wrong():
        changed = remove_members(database, group, user, who=changer())
    _print(changed, as_json, "{} has {} members now.")


@command.command()
@click.argument("group")
@as_json_option
@database_options
def delete(group: str, as_json: bool, **flags: object) -> None:
    """Forget a group. Its users stay; keys of its machines must have been revoked."""
    with writing(flags) as database, naming_what_is_wrong():
        gone = delete_group(database, group, who=changer())
    _print(gone, as_json, "Deleted the group {}.")


def _print(group: Group, as_json: bool, said: str) -> None:
    if as_json:
        click.echo(json.dumps(group_data(group), indent=2))
    else:
        click.echo(said.format(printable(group.name), len(group.members)))


def _show(groups: list[Group]) -> None:
    from aigateway.http.cli._tables import print_table

    rows = [
        (group.name, group.id, f"{len(group.members):,}", minute(group.created_at))
        for group in groups
    ]
    print_table(("group", "id", "members", "created"), rows)
