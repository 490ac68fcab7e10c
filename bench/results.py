"""What a run found, as it is kept: one JSON file, histograms included."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Self

import attrs
from attrs import define, field, frozen

__all__ = ["RESULTS", "Measurement", "Results", "Spread", "results_folder"]

RESULTS = Path(__file__).parent / "results"


def results_folder(kind: str) -> Path:
    """A folder for the result of a run that begins now; it is not made yet."""
    return RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}"


@frozen(kw_only=True)
class Measurement:
    """One scenario and variant on one system in one round."""

    scenario: str
    variant: str
    value: float
    system: str
    round: int
    began: str
    """UTC, RFC 3339."""
    numbers: dict[str, float] = field(factory=dict)
    histograms: dict[str, dict[str, int]] = field(factory=dict)
    errors: dict[str, int] = field(factory=dict)
    warnings: list[str] = field(factory=list)
    lost: list[str] | None = None
    """Records that were lost, in words; None when the system keeps none."""
    records: dict[str, int] = field(factory=dict)
    """What the control plane had stored at the end."""
    faults: list[str] = field(factory=list)
    """What makes the run fail though there are numbers."""
    series: list[list[float]] = field(factory=list)
    """Seconds, private bytes and open files, for plots over time."""
    processes: dict[str, list[list[float]]] = field(factory=dict)
    """The same of each process, by name."""
    commands: list[str] = field(factory=list)
    drivers: list[str] = field(factory=list)
    failure: str = ""
    """Why there are no numbers."""


@frozen
class Spread:
    """A number over the rounds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        values = list(values)
        return cls(median(values), min(values), max(values), len(values))


@define
class Results:
    """A whole run."""

    about: dict[str, Any]
    """Revision, versions, machine, command, options, times."""
    systems: dict[str, dict[str, str]]
    """By name: title, version, what it does; or why it is absent."""
    scenarios: dict[str, dict[str, str]]
    """By name: title and what was done."""
    left_out: list[dict[str, str]] = field(factory=list)
    """Which system was not measured in which scenario, and why."""
    measurements: list[Measurement] = field(factory=list)
    interrupted: bool = False

    @property
    def lost(self) -> list[str]:
        """Every loss of a record, with where it happened."""
        return [
            f"{m.scenario} {m.variant} on {m.system}, round {m.round}: {text}"
            for m in self.measurements
            for text in m.lost or ()
        ]

    @property
    def faults(self) -> list[str]:
        """Everything that makes the run fail besides, with where it happened."""
        return [
            f"{m.scenario} {m.variant} on {m.system}, round {m.round}: {text}"
            for m in self.measurements
            for text in m.faults
        ]

    @property
    def failed(self) -> list[str]:
        """Measurements without numbers, with the reason."""
        return [
            f"{m.scenario} {m.variant} on {m.system}, round {m.round}: {m.failure}"
            for m in self.measurements
            if m.failure
        ]

    def variants(self, scenario: str) -> list[str]:
        """The variants that were measured, in order."""
        found = {m.variant: m.value for m in self.measurements if m.scenario == scenario}
        return sorted(found, key=lambda name: found[name])

    def of(self, scenario: str, variant: str, system: str) -> list[Measurement]:
        """The measurements with numbers, by round."""
        return [
            m
            for m in self.measurements
            if (m.scenario, m.variant, m.system) == (scenario, variant, system) and not m.failure
        ]

    def spread(self, scenario: str, variant: str, system: str, key: str) -> Spread | None:
        """One number over the rounds; None when it was not measured."""
        values = [m.numbers[key] for m in self.of(scenario, variant, system) if key in m.numbers]
        return Spread.of(values) if values else None

    def added(self, scenario: str, variant: str, system: str, key: str) -> Spread | None:
        """By how much a number exceeds the direct row of the same round."""
        direct = {m.round: m for m in self.of(scenario, variant, "direct")}
        values = [
            m.numbers[key] - direct[m.round].numbers[key]
            for m in self.of(scenario, variant, system)
            if m.round in direct and key in m.numbers
        ]
        return Spread.of(values) if values else None

    def save(self, file: Path) -> None:
        """Write all of it; a reader never sees half a file."""
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(attrs.asdict(self), indent=1) + "\n")
        fresh.replace(file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what :meth:`save` wrote.  Raises OSError, ValueError, KeyError, TypeError."""
        value = json.loads(file.read_text())
        measurements = [Measurement(**entry) for entry in value.pop("measurements")]
        return cls(**value, measurements=measurements)

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """One of several runs that belong together; what is said about the first holds for all."""
        first = several[0]
        about = {
            **first.about,
            "command": "` and `".join(each.about["command"] for each in several),
            "began": min(each.about["began"] for each in several),
        }
        if ends := [each.about["ended"] for each in several if "ended" in each.about]:
            about["ended"] = max(ends)
        return cls(
            about,
            {name: facts for each in several for name, facts in each.systems.items()},
            {name: facts for each in several for name, facts in each.scenarios.items()},
            [entry for each in several for entry in each.left_out],
            [measurement for each in several for measurement in each.measurements],
            any(each.interrupted for each in several),
        )
