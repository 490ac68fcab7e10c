"""Histograms that a running gateway shows to Prometheus, and what was added to them meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import requests
from attrs import field, frozen
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Buckets", "read_histograms"]


@frozen
class Buckets:
    """How many values were at most so many seconds; and their sum."""

    counts: Mapping[float, float] = field(factory=dict)
    sum: float = 0.0

    def __sub__(self, earlier: Self) -> Buckets:
        """What came since ``earlier``."""
        return Buckets(
            {edge: count - earlier.counts.get(edge, 0.0) for edge, count in self.counts.items()},
            self.sum - earlier.sum,
        )

    @property
    def count(self) -> float:
        return self.counts.get(math.inf, 0.0)

    def mean(self) -> float:
        """Seconds; 0 without values."""
        return self.sum / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Seconds that ``percent`` of the values do not exceed, as Prometheus estimates it.

        Values are taken to lie evenly in their bucket, and those beyond the last edge at it.
        """
        wanted = self.count * percent / 100
        below, seen = 0.0, 0.0
        for edge in sorted(self.counts):
            count = self.counts[edge]
            if count >= wanted and count > seen:
                share = (wanted - seen) / (count - seen)
                return below if math.isinf(edge) else below + (edge - below) * share
            below, seen = edge, count
        return 0.0


def read_histograms(url: str, name: str, label: str) -> dict[str, Buckets]:
    """The histogram ``name`` by the values of ``label``; other labels are summed up."""
    with requests.Session() as session:
        session.trust_env = False
        text = session.get(url, timeout=10).text
    counts: dict[str, dict[float, float]] = {}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        if family.name != name:
            continue
        for sample in family.samples:
            key = sample.labels[label]
            if sample.name.endswith("_bucket"):
                edges = counts.setdefault(key, {})
                edge = float(sample.labels["le"])
                edges[edge] = edges.get(edge, 0.0) + sample.value
            elif sample.name.endswith("_sum"):
                sums[key] = sums.get(key, 0.0) + sample.value
    return {key: Buckets(edges, sums.get(key, 0.0)) for key, edges in counts.items()}
