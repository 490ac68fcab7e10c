"""Which models a provider serves, and by which names it knows them.

A list is written as pairs with commas between them::

    claude-sonnet-5, fast = claude-haiku-4-5, o* = *, gpt-* = openai/gpt-*

Each says a name that clients ask for and, behind ``=``, the name that the provider is asked
for; without ``=`` it is the same.  One ``*`` in a client's name stands for any text.  In the
provider's name ``*`` stands for that text, and a lone ``*`` for the whole name as it was asked
for.  A name that is written out comes before any pattern, and among patterns the first that
fits counts.  What fits none is not served: a list is an allow-list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import field, frozen

__all__ = ["BadModelList", "ModelList", "parse_models"]

_NAME = re.compile(r"[^\s,=*]*\*?[^\s,=*]*", re.ASCII)


class BadModelList(ValueError):
    """What is wrong with the text of a list; it names the entry."""


@frozen
class _Pattern:
    before: str
    after: str
    upstream: str
    """With ``*`` where the text goes that the client's name has between the two; a lone one
    is the whole name."""

    def fit(self, asked: str) -> str | None:
        """The provider's name for ``asked``."""
        if len(asked) < len(self.before) + len(self.after):
            return None
        if not (asked.startswith(self.before) and asked.endswith(self.after)):
            return None
        if self.upstream == "*":
            return asked
        between = asked[len(self.before) : len(asked) - len(self.after)]
        return self.upstream.replace("*", between)


@frozen
class ModelList:
    """The models of one provider."""

    literal: Mapping[str, str] = field(factory=dict)
    """Names that are written out, in their order, with the provider's names for them."""
    patterns: tuple[_Pattern, ...] = ()

    def upstream(self, asked: str) -> str | None:
        """The provider's name for the model that a client asks for; None: it is not served."""
        found = self.literal.get(asked)
        if found is not None:
            return found
        if not asked:
            return None
        return next((name for p in self.patterns if (name := p.fit(asked)) is not None), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are written out, in their order; what patterns allow is not known."""
        return tuple(self.literal)


def parse_models(text: str) -> ModelList | None:
    """Read a list; None when the text is empty.  Raises BadModelList."""
    if not text.strip():
        return None
    literal: dict[str, str] = {}
    patterns: list[_Pattern] = []
    seen: set[str] = set()
    for part in text.split(","):
        asked, upstream = _pair(part)
        if asked in seen:
            raise BadModelList(f'"{asked}" is there twice')
        seen.add(asked)
        if "*" not in asked:
            literal[asked] = upstream
        else:
            before, _, after = asked.partition("*")
            patterns.append(_Pattern(before, after, upstream))
    return ModelList(literal, tuple(patterns))


def _pair(part: str) -> tuple[str, str]:
    shown = part.strip()
    if not shown:
        raise BadModelList("an entry is empty: write names with one comma between them")
    asked, equals, upstream = (each.strip() for each in shown.partition("="))
    if not asked or (equals and not upstream):
        raise BadModelList(f'"{shown}" lacks a name beside its "="')
    if not equals:
        upstream = "*" if "*" in asked else asked
    for name in (asked, upstream):
        if not _fits(name):
            raise BadModelList(
                f'"{shown}": a name has no blanks, no "=" and at most one "*", which stands for '
                "any text"
            )
    if "*" in upstream and "*" not in asked:
        raise BadModelList(f'"{shown}": there is no "*" on the left that the one could stand for')
    return asked, upstream


def _fits(name: str) -> bool:
    return name.isprintable() and _NAME.fullmatch(name) is not None
