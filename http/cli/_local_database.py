"""What the commands on the embedded control plane's database share."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from aigateway.actors.coderd.schema import LocalDatabaseError, open_database, read_database
from aigateway.http.settings import SettingsError, load
from aigateway.http.settings.flags import settings_options

__all__ = ["database_options", "printable", "reading", "writing"]

F = TypeVar("F", bound=Callable[..., Any])


def database_options(function: F) -> F:
    """Add --local-db and --config, which come to the function as ``**flags``."""
    return settings_options(only=("local_db", "config"))(function)


@contextmanager
def reading(flags: dict[str, Any]) -> Iterator[sqlite3.Connection]:
    """The database that ``flags`` and the environment name, to read from."""
    file = _file(flags)
    with _as_failures(file):
        connection = read_database(file)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def writing(flags: dict[str, Any], *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """The database to write to, made when it is not there and ``create`` is set."""
    file = _file(flags)
    with _as_failures(file):
        connection = open_database(file, create=create)
        try:
            yield connection
        finally:
            connection.close()


def printable(text: str) -> str:
    """``text`` without control characters: clients choose their names, and may put there
    what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _file(flags: dict[str, Any]) -> str:
    try:
        return load(flags, os.environ, require_coderd=False).local_db
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
