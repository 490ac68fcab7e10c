"""What the commands on the embedded control plane's database share."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from aigateway.actors.control.local.address import LocalDatabaseError, is_postgresql, shown
from aigateway.actors.control.local.audit import Change, note_changes
from aigateway.actors.control.local.opening import database_errors, open_address, read_address
from aigateway.actors.control.local.people import AlreadyThere, NoSuch
from aigateway.actors.control.local.schema import Database, transaction
from aigateway.http.settings import SettingsError, load
from aigateway.http.settings.flags import settings_options
from aigateway.http.settings.printable import printable

__all__ = [
    "as_failures",
    "changer",
    "database_options",
    "named_database",
    "note_look",
    "naming_what_is_wrong",
    "reading",
    "writing",
]

HOW = "Name one with --local-db or CODER_AI_GATEWAY_LOCAL_DB."

F = TypeVar("F", bound=Callable[..., Any])


def database_options(function: F) -> F:
    """Add --local-db and --config, which come to the function as ``**flags``."""
    return settings_options(only=("local_db", "config"))(function)


@contextmanager
def reading(flags: dict[str, object]) -> Iterator[Database]:
    """The database that ``flags`` and the environment name, to read from."""
    file, _named = named_database(flags)
    with as_failures(file):
        connection = read_address(file)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def writing(
    flags: dict[str, object], *, create: bool = False, quiet: bool = False
) -> Iterator[Database]:
    """The database to write to, made when it is not there and ``create`` is set.

    Where nobody named one it says which one it is, unless ``quiet``, and always that it is new:
    a gateway elsewhere will not know what is written there.
    """
    file, named = named_database(flags)
    with as_failures(file):
        was_there = is_postgresql(file) or os.path.exists(file)
        connection = open_address(file, create=create)
        if create and not named:
            shown = os.path.abspath(file)
            if not was_there:
                click.echo(f"Warning: no database was named, so {shown} was made. {HOW}", err=True)
            elif not quiet:
                click.echo(f"No database was named, {shown} is used. {HOW}", err=True)
        try:
            yield connection
        finally:
            connection.close()


def note_look(flags: dict[str, object], look: Change | None) -> None:
    """Note a look at what others have said before it is shown; None: there is nothing to note.

    Raises click.ClickException where it cannot be noted.
    """
    if look is None:
        return
    try:
        with writing(flags) as database, transaction(database):
            note_changes(database, changer(), [look], time.time())
    except click.ClickException as ex:
        raise click.ClickException(
            f"the look cannot be noted in the audit log, so nothing is shown: {ex.message}"
        ) from ex


def named_database(flags: dict[str, object]) -> tuple[str, bool]:
    """The database's file or address, and whether somebody named it."""
    try:
        settings = load(flags, os.environ, require_coderd=False)
        return settings.local_db, settings.sources["local_db"].kind != "default"
    except SettingsError as ex:
        raise click.UsageError(str(ex)) from ex


def changer(where: str = "command line") -> str:
    """Who changes something, by the name of who runs this process, for the table of changes."""
    try:
        return f"{where}: {getpass.getuser()}"
    except (KeyError, OSError, ImportError):
        # A container's user may have neither a name nor a variable that says one.
        return f"{where}: uid {os.getuid()}"


@contextmanager
def naming_what_is_wrong() -> Iterator[None]:
    """Turn what people get wrong about names into what the command prints."""
    try:
        yield
    except (NoSuch, AlreadyThere) as ex:
        raise click.ClickException(printable(str(ex))) from ex
    except ValueError as ex:
        raise click.UsageError(printable(str(ex))) from ex


@contextmanager
def as_failures(file: str) -> Iterator[None]:
    try:
        yield
    except LocalDatabaseError as ex:
        raise click.ClickException(str(ex)) from ex
    except database_errors() as ex:
        text = " ".join(str(ex).split())
        raise click.ClickException(f"--local-db {shown(file)}: {text}") from ex
