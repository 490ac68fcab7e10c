"""What was probably meant by a name that nobody knows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

__all__ = ["near_names", "suggestion"]

_CUTOFF = 0.8
"""How like two names must be; difflib's own 0.6 finds likeness where there is none."""


def near_names(wrong: str, known: Collection[str], cutoff: float = _CUTOFF) -> list[str]:
    """Names that ``wrong`` may stand for, the likeliest first, three at most.

    Either it was misspelt, or it was left short or put into the wrong place: then its words are
    the end of the right name, or its last word is that of one only.
    """
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=cutoff)
    if close:
        return close
    words = _words(wrong)
    ends = [name for name in known if words and _words(name)[-len(words) :] == words]
    if not ends and "." in wrong:
        last = wrong.rpartition(".")[2]
        ends = [name for name in known if name.rpartition(".")[2] == last]
    return sorted(ends, key=len)[:3]


def suggestion(names: Collection[str]) -> str:
    """`, did you mean A or B?`, or nothing."""
    return f", did you mean {' or '.join(names)}?" if names else ""


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-_.]+", name.lower()) if word]
