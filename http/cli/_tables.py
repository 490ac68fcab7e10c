"""Tables on standard output, for people and for ``grep``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aigateway.http.settings.printable import printable

__all__ = ["Cell", "console", "print_table", "table_box"]

PIPE_WIDTH = 240
"""Columns when standard output is no terminal: nobody sees the width, so nothing is cut."""

Cell: TypeAlias = str | tuple[str, str]
"""A text, or one with its colour."""


def console() -> Console:
    """A console on what is standard output now, that reads no markup in what it prints."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def table_box() -> box.Box:
    return box.SIMPLE_HEAD


def print_table(
    texts: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: Sequence[str] = ()
) -> None:
    """Print rows below the headings of their texts and then of their numbers."""
    table = Table(*texts, box=table_box())
    for heading in numbers:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*map(_text, row))
    console().print(table)


def _text(cell: Cell) -> Text:
    text, colour = (cell, "") if isinstance(cell, str) else cell
    return Text(printable(text), style=colour)
