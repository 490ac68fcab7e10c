"""Tables: one per scenario and variant, a row per system, medians with their range."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Results, Spread
from bench.scenarios import Column, Scenario

__all__ = ["BASE", "base_system", "number", "ratio", "scenario_tables", "spread_text", "table"]

BASE = "aigateway"


def base_system(results: Results) -> str:
    """The system that others are compared with."""
    names = list(results.systems)
    return BASE if BASE in names else next((n for n in names if n.startswith(BASE)), "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first column is text, the others are numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)] + [""]


def number(value: float, digits: int = 0) -> str:
    """With separators, and with digits that mean something."""
    if value and abs(value) >= 1000:
        digits = 0
    return f"{value:,.{digits}f}"


def spread_text(spread: Spread | None, digits: int = 0, sign: bool = False) -> str:
    """``median (lowest-highest)``."""
    if spread is None:
        return ""
    plus = "+" if sign and spread.median >= 0 else ""
    text = plus + number(spread.median, digits)
    if spread.count > 1:
        text += f" ({number(spread.low, digits)}–{number(spread.high, digits)})"
    return text


def ratio(results: Results, scenario: str, variant: str, system: str, column: Column) -> str:
    """How many times better aigateway is: the median over the rounds of each round's ratio."""
    base = base_system(results)
    if not column.better or not base or system == base:
        return ""
    ours = {m.round: m.numbers.get(column.key) for m in results.of(scenario, variant, base)}
    ratios = []
    for measurement in results.of(scenario, variant, system):
        mine, theirs = ours.get(measurement.round), measurement.numbers.get(column.key)
        if mine and theirs:
            ratios.append(mine / theirs if column.better == "high" else theirs / mine)
    if not ratios:
        return ""
    middle = Spread.of(ratios).median
    return f"{middle:.1f}×" if middle >= 0.1 else f"{middle:.2f}×"


def scenario_tables(results: Results, scenario: Scenario) -> list[str]:
    """Everything that one scenario found."""
    lines: list[str] = []
    for variant in results.variants(scenario.name):
        if variant:
            lines += [f"**{variant}**", ""]
        head, rows = _table_of(results, scenario, variant)
        if scenario.tall:
            head, *rows = (list(line) for line in zip(head, *rows, strict=True))
        lines += table(head, rows)
    return lines


def _table_of(
    results: Results, scenario: Scenario, variant: str
) -> tuple[list[str], list[list[str]]]:
    head, rows = ["system"], []
    measured = [c for c in scenario.columns if _is_measured(results, scenario.name, variant, c)]
    compared = [c for c in measured if c.better and _peers(results, scenario.name, variant)]
    for column in measured:
        head.append(column.title)
        if column in compared:
            head.append("ratio")
        if column.over_direct:
            head.append("added")
    for system, facts in results.systems.items():
        if not results.of(scenario.name, variant, system):
            continue
        row = [facts["title"]]
        for column in measured:
            spread = results.spread(scenario.name, variant, system, column.key)
            row.append(spread_text(_meaningful(column, spread), column.digits))
            if column in compared:
                row.append(ratio(results, scenario.name, variant, system, column))
            if column.over_direct:
                added = results.added(scenario.name, variant, system, column.key)
                none = system == "direct"
                row.append("" if none else spread_text(added, column.digits, sign=True))
        rows.append(row)
    return head, rows


def _is_measured(results: Results, scenario: str, variant: str, column: Column) -> bool:
    """Whether any system has this number; a scenario may have kinds with other numbers."""
    return any(results.spread(scenario, variant, name, column.key) for name in results.systems)


def _peers(results: Results, scenario: str, variant: str) -> bool:
    measured = [name for name in results.systems if results.of(scenario, variant, name)]
    return len(measured) > 1 and base_system(results) in measured


def _meaningful(column: Column, spread: Spread | None) -> Spread | None:
    """The direct row has no process whose CPU or memory could be measured."""
    costs = column.key.startswith(("cpu_", "private_", "files"))
    return None if costs and spread is not None and spread.high == 0 else spread
