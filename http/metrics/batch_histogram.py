"""A histogram that takes observations that were counted elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Histogram

__all__ = ["BatchHistogram"]


class BatchHistogram(Histogram):
    """prometheus-client's histogram, which by itself takes one observation at a time."""

    def add(self, counts: Sequence[int], amount: float) -> None:
        """Add as many observations to each bucket, the endless one last, and their sum."""
        # NOTE: there is no public way to do this; `observe` does the same for one of them.
        self._sum.inc(amount)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
