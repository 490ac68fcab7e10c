"""The schema of the embedded control plane's database, as numbered steps that only go forward.

Each step is one file of SQL, ``sql/<number>_<name>.sql``; the numbers are four digits,
begin with 0001 and leave none out.  One text serves both kinds of database: ``TEXT``, ``BIGINT``
and ``DOUBLE PRECISION`` mean the same to both, and ``INTEGER`` is for small numbers only, since
PostgreSQL's has 32 bits.  Where the two differ, the step is two files that end in
``.sqlite.sql`` and ``.postgresql.sql``.

A step that was released is never edited: a database that has taken it does not take it again.
It adds and does not take away, because other gateways may still run on the schema before it.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Literal, TypeAlias

from attrs import frozen

__all__ = ["VERSION", "Dialect", "Migration", "bring_forward", "migrations", "statements"]

Dialect: TypeAlias = Literal["sqlite", "postgresql"]

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+?)(?:\.(sqlite|postgresql))?\.sql")


@frozen
class Migration:
    """The step that leads from version ``number`` - 1 to ``number``."""

    number: int
    name: str
    sql: str


@functools.cache
def migrations(dialect: Dialect) -> tuple[Migration, ...]:
    """All steps in their order, as one kind of database takes them."""
    found: dict[int, Migration] = {}
    for file in files(__package__).joinpath("sql").iterdir():
        match = _FILE.fullmatch(file.name)
        if match is None or match[3] not in (None, dialect):
            continue
        number = int(match[1])
        if number in found:
            raise RuntimeError(f"two migrations have the number {number}")
        found[number] = Migration(number, match[2], file.read_text("utf-8"))
    if sorted(found) != list(range(1, len(found) + 1)):
        raise RuntimeError(f"the migrations for {dialect} have gaps")
    return tuple(found[number] for number in sorted(found))


VERSION = len(migrations("sqlite"))
"""The version of the newest schema: how many steps lead there."""


def bring_forward(
    dialect: Dialect,
    version: int,
    execute: Callable[[str], object],
    note: Callable[[Migration], object],
) -> None:
    """Take a database of ``version`` to :data:`VERSION`.

    The caller holds the lock that keeps others from doing the same, and read ``version`` under it,
    in the transaction that makes it all or nothing.  ``execute`` runs one statement, ``note``
    writes down that a step was taken.
    """
    for step in migrations(dialect)[version:]:
        for statement in statements(step.sql):
            execute(statement)
        note(step)


def statements(sql: str) -> Iterator[str]:
    """Take a text of SQL apart.  A statement ends with a semicolon at the end of a line."""
    collected = ""
    for line in sql.splitlines(keepends=True):
        if not collected and (not line.strip() or line.startswith("--")):
            continue
        collected += line
        if line.rstrip().endswith(";") and sqlite3.complete_statement(collected):
            yield collected.strip().removesuffix(";")
            collected = ""
    if collected.strip():
        raise ValueError(f"the statement has no end: {collected.strip()[:60]}")
