"""Text that others chose, made harmless for terminals and spreadsheets."""

from __future__ import annotations

__all__ = ["csv_field", "printable"]

_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What spreadsheets take for the beginning of a formula, in wide letters too."""
_QUOTED = frozenset('",;|\t\r\n ')
"""Separators of one program or another: a text with one of them goes between quotes."""


def printable(text: str) -> str:
    """``text`` with escapes in the place of what is no visible letter: clients choose names,
    and may put there what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def csv_field(value: str | int) -> str:
    """A value as a field of a CSV line.

    A text that a spreadsheet would run as a formula gets an apostrophe in front of it, which
    says there that it is text.
    """
    if not isinstance(value, str):
        return str(value)
    text = printable(value)
    if value.lstrip().startswith(_FORMULA_STARTS):
        text = f"'{text}"
    if _QUOTED.isdisjoint(text):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
