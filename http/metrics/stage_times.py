"""Times of requests' stages, gathered here and written to their histograms each second.

PERF: eight of them belong to each request, and the library writes each to its file by itself,
which took longer than all other counting together.  A worker that is killed takes the times
of its last second with it; what has to add up (requests, tokens) is counted at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping

from aigateway.http.metrics.series import STAGE_BUCKETS, BatchHistogram, Series

__all__ = ["StageTimes"]


class StageTimes:
    """Add from any thread, write from one."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._added: deque[tuple[str, Mapping[str, float], float]] = deque()

    def add(self, provider: str, stages: Mapping[str, float], overhead: float) -> None:
        """One request is over.  All in seconds; ``stages`` must not change any more."""
        self._added.append((provider, stages, overhead))

    def write(self) -> None:
        """Bring the histograms up to date."""
        gathered: dict[tuple[str, ...], list[float]] = {}
        while self._added:
            provider, stages, overhead = self._added.popleft()
            for stage, seconds in stages.items():
                gathered.setdefault((provider, stage), []).append(seconds)
            gathered.setdefault((provider,), []).append(overhead)
        for labels, values in gathered.items():
            histogram = self._series.stage if len(labels) > 1 else self._series.overhead
            _observe_all(histogram.labels(*labels), values)


def _observe_all(histogram: BatchHistogram, values: list[float]) -> None:
    """What ``observe`` does with each, in one go."""
    counts = [0] * (len(STAGE_BUCKETS) + 1)
    for value in values:
        counts[bisect_left(STAGE_BUCKETS, value)] += 1
    histogram.add(counts, sum(values))
