"""Headers in the order in which they came, and by name.

PERF: a request's headers are asked for a dozen names on its way, by clients that send twenty
of them.  They are gone through once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["HeaderList", "Headers", "first_of", "has_any", "values_of"]

Headers: TypeAlias = Sequence[tuple[str, str]]
"""Names and values in the order in which they came."""

_NONE: Sequence[str] = ()


class HeaderList(tuple[tuple[str, str], ...]):
    """A sequence of names and values that remembers where each name is."""

    _by_name: Mapping[str, Sequence[str]] | None = None

    @property
    def by_name(self) -> Mapping[str, Sequence[str]]:
        """All values of each name, without surrounding white space, by name in lower case."""
        if self._by_name is None:
            self._by_name = self._index()
        return self._by_name

    def _index(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, value in self:
            key, value = name.lower(), value.strip()
            if (values := found.get(key)) is None:
                found[key] = [value]
            else:
                values.append(value)
        return found


def values_of(headers: Headers, name: str) -> Sequence[str]:
    """All values of a header, in order, without surrounding white space."""
    wanted = name.lower()
    if isinstance(headers, HeaderList):
        return headers.by_name.get(wanted, _NONE)
    return [value.strip() for key, value in headers if key.lower() == wanted]


def first_of(headers: Headers, name: str) -> str:
    """The first value of a header that is not blank, or nothing."""
    for value in values_of(headers, name):
        if value:
            return value
    return ""


def has_any(headers: Headers, names: frozenset[str]) -> bool:
    """Whether a header is there that has one of these names (in lower case)."""
    if isinstance(headers, HeaderList):
        return not names.isdisjoint(headers.by_name)
    return any(name.lower() in names for name, _value in headers)
