"""Durations in buckets of at most 0.8 % width, so that hours fit into a few kilobytes.

Histograms of several processes or rounds can be added without losing anything.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Self

__all__ = ["Histogram"]

_BITS = 7
_HALF = 1 << _BITS
_PENDING = 65536


def _bucket(value: int) -> int:
    """Linear below 256, then 128 buckets for each doubling."""
    shift = value.bit_length() - _BITS - 1
    return value if shift <= 0 else (value >> shift) + (shift << _BITS)


def _middle(bucket: int) -> float:
    if bucket < 2 * _HALF:
        return float(bucket)
    shift = (bucket >> _BITS) - 1
    low = (bucket - (shift << _BITS)) << shift
    return low + ((1 << shift) - 1) / 2


class Histogram:
    """Counts of microseconds.  ``add`` is as cheap as appending to an array."""

    def __init__(self) -> None:
        self._pending = array("q")
        self._counts: dict[int, int] = {}
        self.add = self._pending.append

    def add_many(self, values: Iterable[int]) -> None:
        self._pending.extend(values)

    def shrink(self) -> None:
        """Sort what was added into buckets, when it has become much."""
        if len(self._pending) >= _PENDING:
            self._settle()

    def _settle(self) -> None:
        counts = self._counts
        for value in self._pending:
            bucket = _bucket(value if value > 0 else 0)
            counts[bucket] = counts.get(bucket, 0) + 1
        del self._pending[:]

    def merge(self, other: Histogram) -> None:
        """Add all that ``other`` holds."""
        other._settle()
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def __len__(self) -> int:
        return len(self._pending) + sum(self._counts.values())

    def percentile(self, percent: float) -> float:
        """Microseconds that ``percent`` of the values do not exceed; 0 without values."""
        self._settle()
        total = sum(self._counts.values())
        if not total:
            return 0.0
        wanted = max(1, -(-total * percent // 100))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return _middle(bucket)
        raise AssertionError("unreachable: the counts add up to the total")

    def mean(self) -> float:
        self._settle()
        total = sum(self._counts.values())
        weighted = sum(_middle(bucket) * count for bucket, count in self._counts.items())
        return weighted / total if total else 0.0

    def maximum(self) -> float:
        self._settle()
        return _middle(max(self._counts)) if self._counts else 0.0

    def to_json(self) -> dict[str, int]:
        self._settle()
        return {str(bucket): self._counts[bucket] for bucket in sorted(self._counts)}

    @classmethod
    def from_json(cls, value: dict[str, int]) -> Self:
        histogram = cls()
        histogram._counts = {int(bucket): count for bucket, count in value.items()}
        return histogram
