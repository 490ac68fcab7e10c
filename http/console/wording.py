"""How values read on a page: numbers, money, times, and texts that others chose."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup, escape

from aigateway.actors.values.money import dollars

__all__ = ["FILTERS", "ago", "compact", "duration", "money", "percent", "size", "visible"]

_KEPT: Final = frozenset("\n\t")
_JOINERS: Final = frozenset("\u200c\u200d")
"""Letters of many scripts, and of signs that are made of several, need them."""
_PICTURES: Final = 0x2400
"""Where Unicode has pictures of the control characters, in their order."""


def visible(text: object, limit: int = 0) -> Markup:
    """A text that somebody chose, as text: what would not be seen, or would change how its
    neighbours are read, is shown by a sign of its own.  With ``limit`` it is cut there.

    It is put into an element that keeps its direction to itself.
    """
    told = str(text)
    cut = bool(limit) and len(told) > limit
    if cut:
        told = told[:limit]
    # PERF: almost all texts have nothing to be shown.
    if not told.isprintable():
        told = "".join(escape(part) if len(part) == 1 else part for part in map(_sign, told))
        inner = Markup(told)
    else:
        inner = escape(told)
    return Markup("<bdi>{}{}</bdi>").format(inner, "…" if cut else "")


def _sign(letter: str) -> str:
    if letter.isprintable() or letter in _KEPT or letter in _JOINERS:
        return letter
    code = ord(letter)
    if code < 0x20:
        return _signed(chr(_PICTURES + code), code)
    if code == 0x7F:
        return _signed("\u2421", code)
    # Spaces of all kinds are no printable letters, but harmless.
    if unicodedata.category(letter) in ("Zs", "Co"):
        return letter
    return _signed(f"U+{code:04X}", code)


def _signed(shown: str, code: int) -> str:
    return f'<span class="sign" title="U+{code:04X}">{shown}</span>'


def compact(number: float | None) -> str:
    """A count of which the first three digits say enough: 999, 12.3k, 4.56M."""
    if number is None:
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            scaled = number / (1e3 if unit == "k" else limit)
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return f"{number:,.0f}"


def money(nano: int | None) -> str:
    """Nano-dollars; see :func:`~aigateway.actors.values.money.dollars`."""
    return dollars(nano)


def percent(part: float, whole: float) -> str:
    """A share; a dash where there is nothing to share."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.0f}%" if share >= 10 or not share else f"{share:.1f}%"


def duration(seconds: float | None) -> str:
    """A span of time with two units at most."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(characters: int) -> str:
    """A length of text."""
    if characters < 10_000:
        return f"{characters:,} characters"
    return f"{compact(characters)} characters"


def ago(text: str | None) -> Markup:
    """A moment as the database has it, which the page's script writes in the reader's zone."""
    if not text:
        return Markup("–")
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(text, f"{moment:%Y-%m-%d %H:%M:%S} UTC")


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "visible": visible,
    "compact": compact,
    "money": money,
    "duration": duration,
    "size": size,
    "ago": ago,
}
