"""What one answer has cost so far, as its provider tells it.

Within one answer every usage that a provider reports is a running total, field by field: the
last value counts, upwards and downwards.  A field that is absent or null leaves what an earlier
event said, and 0 sets it.  There is one token record for each billed call of a model, written
when the answer ends or breaks, so that the records of an interception add up to what is billed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigateway.actors.codec.reading import as_count

__all__ = ["RunningUsage"]

_NONE: Mapping[str, Any] = {}


class RunningUsage:
    """The usage object of one answer, put together from all that were reported."""

    __slots__ = ("fields", "groups")

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        """The last value of each field that is no object."""
        self.groups: dict[str, dict[str, Any]] = {}
        """The same of each field inside of an object, ``cache_creation`` for example."""

    def __bool__(self) -> bool:
        """Whether anything was reported."""
        return bool(self.fields or self.groups)

    def take(self, usage: Mapping[str, Any]) -> None:
        """Take note of a usage object, whole or in part, as :func:`~.codec.reading.values`
        reads it."""
        for name, value in usage.items():
            if value is None:
                continue
            if value.__class__ is not dict:
                self.fields[name] = value
            elif (group := self.groups.get(name)) is None:
                self.groups[name] = {key: each for key, each in value.items() if each is not None}
            else:
                group.update({key: each for key, each in value.items() if each is not None})

    def group(self, name: str) -> Mapping[str, Any]:
        """One of them, or nothing."""
        return self.groups.get(name, _NONE)

    def count(self, name: str, inner: str = "") -> int:
        """A number of tokens by its field, or by its object's name and its field; 0 if unknown."""
        value = self.groups.get(name, _NONE).get(inner) if inner else self.fields.get(name)
        return 0 if value is None else as_count(value)
