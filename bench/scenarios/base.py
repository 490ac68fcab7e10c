"""What all scenarios have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from bench.load import Histogram, LoadResult
from bench.options import Options
from bench.stand import Stand
from bench.systems import System
from bench.window import Observed, Sample

__all__ = [
    "Column",
    "Outcome",
    "Scenario",
    "Variant",
    "driver_warnings",
    "latency_numbers",
    "noise_numbers",
]

BUSY = 0.85
"""Share of one CPU from which a driver or the imitation may have been the bottleneck."""


@frozen
class Variant:
    """One setting that a scenario is measured with."""

    name: str
    value: float = 0.0
    """Its place on a plot's axis."""


@frozen
class Column:
    """A number in the report."""

    key: str
    title: str
    digits: int = 0
    better: str = ""
    """``low`` or ``high``: then the report shows the ratio to aigateway."""
    over_direct: bool = False
    """Whether the report shows by how much it exceeds the direct row of the same round."""
    watched: bool = False
    """Less of it is better, for comparisons of revisions; other systems are not judged by it."""

    @property
    def direction(self) -> str:
        """What is better in a comparison of revisions: ``low``, ``high``, or neither."""
        return self.better or ("low" if self.watched else "")


@frozen(kw_only=True)
class Outcome:
    """What one measurement found."""

    numbers: Mapping[str, float]
    histograms: Mapping[str, Histogram] = field(factory=dict)
    errors: Mapping[str, int] = field(factory=dict)
    warnings: Sequence[str] = ()
    faults: Sequence[str] = ()
    """What makes the run fail though there are numbers."""
    series: Sequence[Sample] = ()


class Scenario(ABC):
    """Measures one thing on one running system at a time."""

    name: str
    title: str
    about: str
    """What is done, for the report; may name fields of :class:`Options` in braces."""
    columns: tuple[Column, ...]
    versus: str = ""
    """Title of the variants' axis."""
    metrics = False
    """Whether it needs the system's own metrics."""
    tall = False
    """Whether its tables have a row for each number instead of each system."""

    def variants(self, options: Options) -> list[Variant]:
        return [Variant("")]

    def users(self, options: Options) -> int:
        """Keys that have to exist."""
        return 1

    def workers(self, options: Options) -> int:
        """Worker processes of the system."""
        return options.workers

    def files(self, options: Options) -> int:
        """Connections that one process may have; 0: no more than usual."""
        return 0

    def unsuitable(self, system: System) -> str:
        """Why a system is left out; empty when it is not."""
        return ""

    @abstractmethod
    def run(self, stand: Stand, variant: Variant) -> Outcome:
        """Measure."""


def latency_numbers(histogram: Histogram, prefix: str = "") -> dict[str, float]:
    """Percentiles in milliseconds."""
    return {
        f"{prefix}p{percent}_ms": histogram.percentile(percent) / 1000 for percent in (50, 90, 99)
    }


def noise_numbers(observed: Observed) -> dict[str, float]:
    """What else went on in the machine meanwhile."""
    return {
        "steal_percent": observed.steal_share * 100,
        "foreign_percent": observed.foreign_share * 100,
        "upstream_cpu_percent": observed.upstream_cpu / observed.seconds * 100,
    }


def driver_warnings(load: LoadResult, observed: Observed, seconds: float) -> list[str]:
    """Whether something else than the measured system may have been the limit."""
    found = []
    if load.numbers.get("driver_cpu", 0.0) > BUSY * seconds:
        found.append(f"the load driver ({load.driver}) used a whole CPU")
    if observed.upstream_cpu > BUSY * observed.seconds:
        found.append("the imitation upstream used a whole CPU")
    if load.errors:
        total = sum(load.errors.values())
        kinds = ", ".join(f"{count} x {reason}" for reason, count in load.errors.items())
        found.append(f"{total} requests failed: {kinds}")
    return found
