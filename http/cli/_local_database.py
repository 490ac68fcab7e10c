"""What the commands on the embedded control plane's database share."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from aigateway.actors.control.local.schema import LocalDatabaseError, open_database, read_database
from aigateway.http.settings import SettingsError, load
from aigateway.http.settings.flags import settings_options

__all__ = ["database_options", "reading", "writing"]

HOW = "Name one with --local-db or CODER_AI_GATEWAY_LOCAL_DB."

F = TypeVar("F", bound=Callable[..., Any])


def database_options(function: F) -> F:
    """Add --local-db and --config, which come to the function as ``**flags``."""
    return settings_options(only=("local_db", "config"))(function)


@contextmanager
def reading(flags: dict[str, object]) -> Iterator[sqlite3.Connection]:
    """The database that ``flags`` and the environment name, to read from."""
    file, _named = _file(flags)
    with _as_failures(file):
        connection = read_database(file)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def writing(
    flags: dict[str, object], *, create: bool = False, quiet: bool = False
) -> Iterator[sqlite3.Connection]:
    """The database to write to, made when it is not there and ``create`` is set.

    Where nobody named one it says which one it is, unless ``quiet``, and always that it is new:
    a gateway elsewhere will not know what is written there.
    """
    file, named = _file(flags)
    with _as_failures(file):
        was_there = os.path.exists(file)
        connection = open_database(file, create=create)
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


def _file(flags: dict[str, object]) -> tuple[str, bool]:
    """The database's file, and whether somebody named it."""
    try:
        settings = load(flags, os.environ, require_coderd=False)
        return settings.local_db, settings.sources["local_db"].kind != "default"
    except SettingsError as ex:
        raise click.UsageError(str(ex)) from ex


@contextmanager
def _as_failures(file: str) -> Iterator[None]:
    try:
        yield
    except LocalDatabaseError as ex:
        raise click.ClickException(str(ex)) from ex
    except sqlite3.Error as ex:
        raise click.ClickException(f"--local-db {file}: {ex}") from ex
