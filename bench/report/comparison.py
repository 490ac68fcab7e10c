"""Two revisions beside each other: medians, and the ratio within each round."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from bench.report.markdown import circumstances, verdict
from bench.report.tables import spread_text, table
from bench.results import Results, Spread
from bench.scenarios import Column, Scenario

__all__ = ["Compared", "comparison", "compared"]

_MANY = 3
"""Rounds below which a median of ratios says little."""


@frozen
class Compared:
    """One number of one scenario, before and after."""

    scenario: str
    variant: str
    plane: str
    column: Column
    before: Spread
    after: Spread
    ratio: Spread
    """After by before, of each round."""

    @property
    def cost(self) -> float:
        """How many times more it takes now, or less it gives: above 1 is worse."""
        return self.ratio.median if self.column.direction == "low" else 1 / self.ratio.median


def compared(
    results: Results, scenarios: Sequence[Scenario], before: str, after: str, planes: Sequence[str]
) -> list[Compared]:
    """Every number of which more or less is better; ``before`` and ``after`` are short ids."""
    return [
        found
        for scenario in scenarios
        for variant in results.variants(scenario.name)
        for plane in planes
        for column in scenario.columns
        if column.direction
        and (found := _pair(results, scenario.name, variant, plane, column, before, after))
    ]


def _pair(
    results: Results,
    scenario: str,
    variant: str,
    plane: str,
    column: Column,
    before: str,
    after: str,
) -> Compared | None:
    old, new = (
        {
            each.round: each.numbers[column.key]
            for each in results.of(scenario, variant, f"{name}-{plane}")
            if each.numbers.get(column.key)
        }
        for name in (before, after)
    )
    rounds = old.keys() & new.keys()
    if not rounds:
        return None
    return Compared(
        scenario,
        variant,
        plane,
        column,
        Spread.of(old[number] for number in rounds),
        Spread.of(new[number] for number in rounds),
        Spread.of(new[number] / old[number] for number in rounds),
    )


def comparison(results: Results, numbers: Sequence[Compared], before: str, after: str) -> str:
    """The whole report as Markdown."""
    rows = [
        [
            " ".join(filter(None, (each.scenario, each.variant))),
            each.plane,
            each.column.title,
            spread_text(each.before, each.column.digits),
            spread_text(each.after, each.column.digits),
            spread_text(each.ratio, 3),
            f"{(each.cost - 1) * 100:+.1f} %",
        ]
        for each in numbers
    ]
    head = ["scenario", "control plane", "number", before, after, "ratio", "worse by"]
    lines = [f"# {after} beside {before}", "", *verdict(results)]
    for name in (before, after):
        lines += [f"- `{name}`: {_subject(results, name)}"]
    lines += [
        "",
        "Each ratio is that of one round, in which both were measured in turns; medians, with the"
        " lowest and the highest.",
        "",
    ]
    if any(each.ratio.count < _MANY for each in numbers):
        lines += [f"**Fewer than {_MANY} rounds: the ratios say little.**", ""]
    lines += table(head, rows)
    lines += ["## How it was run", "", *circumstances(results)]
    return "\n".join(lines).rstrip() + "\n"


def _subject(results: Results, name: str) -> str:
    found = [facts["does"] for key, facts in results.systems.items() if key.startswith(name)]
    return found[0] if found else ""
