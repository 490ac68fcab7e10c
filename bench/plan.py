"""Which measurements a run consists of, and in which order.

Rounds go over all systems before a system is measured again, and each round begins with
another system: what changes slowly in the machine meets all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from bench.options import Options
from bench.scenarios import Scenario, Variant
from bench.systems import System

__all__ = ["Step", "plan"]


@frozen
class Step:
    """One measurement."""

    scenario: Scenario
    variant: Variant
    system: System
    round: int


def plan(
    scenarios: Sequence[Scenario], systems: Sequence[System], options: Options
) -> Iterator[Step]:
    """All steps, in order."""
    for scenario in scenarios:
        fit = [system for system in systems if not scenario.unsuitable(system)]
        for variant in scenario.variants(options):
            for number in range(options.rounds):
                first = number % len(fit) if fit else 0
                for system in fit[first:] + fit[:first]:
                    yield Step(scenario, variant, system, number + 1)
