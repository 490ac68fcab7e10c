"""What one answer has cost so far, as its provider tells it.

Within one answer every usage that a provider reports is a running total, field by field: the
last value counts, upwards and downwards.  A field that is absent or null leaves what an earlier
event said, and 0 sets it.  There is one token record for each billed call of a model, written
when the answer ends or breaks, so that the records of an interception add up to what is billed.
"""

from __future__ import annotations

from aigateway.actors.codec.reading import Object, count, is_null, members

__all__ = ["RunningUsage"]


class RunningUsage:
    """The usage object of one answer, put together from all that were reported."""

    __slots__ = ("_groups", "_last", "fields")

    def __init__(self) -> None:
        self.fields: Object = {}
        """The last value of each field that is no object."""
        self._groups: dict[str, Object] = {}
        self._last: dict[str, bytes] = {}

    def __bool__(self) -> bool:
        """Whether anything was reported."""
        return bool(self.fields or self._groups)

    def take(self, usage: Object) -> None:
        """Take note of a usage object, whole or in part."""
        for name, value in usage.items():
            raw = bytes(value)
            if raw == b"null":
                continue
            if not raw.startswith(b"{"):
                self.fields[name] = value
            elif self._last.get(name) != raw:
                # PERF: with every event comes a running total, and most objects in it stay.
                self._last[name] = raw
                group = self._groups.setdefault(name, {})
                group.update({key: each for key, each in members(raw).items() if not is_null(each)})

    def group(self, name: str) -> Object:
        """The last values of the fields inside of an object, ``cache_creation`` for example."""
        return self._groups.get(name, {})

    def count(self, *path: str) -> int:
        """A number of tokens by its field, or by its object's name and its field; 0 if unknown."""
        if len(path) == 1:
            return count(self.fields.get(path[0]))
        return count(self.group(path[0]).get(path[1]))
