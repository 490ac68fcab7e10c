"""Tables on standard output, for people and for ``grep``."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console

__all__ = ["console", "table_box"]

PIPE_WIDTH = 240
"""Columns when standard output is no terminal: nobody sees the width, so nothing is cut."""


def console() -> Console:
    """A console on what is standard output now, that reads no markup in what it prints."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def table_box() -> box.Box:
    return box.SIMPLE_HEAD
