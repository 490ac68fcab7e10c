"""How costs grow: a table for each thing that becomes more, and what one more of it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.report.tables import number, spread_text, table
from bench.results import Results, Spread
from bench.scenarios.growth import DIMENSIONS, Dimension, Measure

__all__ = ["draw_growth", "growth_tables"]

_SCENARIO = "growth"
_FLAT = 1.5
"""Times below which a cost does not grow with what becomes more."""
_COLUMNS = 3
"""Panels beside each other."""


def growth_tables(results: Results) -> list[str]:
    """Markdown: a row for each point of a dimension, for each system that was measured."""
    lines: list[str] = []
    for dimension in DIMENSIONS:
        for system, facts in results.systems.items():
            found = _points(results, dimension, dimension.measures[0], system)
            if not found:
                continue
            of_it = "" if _alone(results) else f", {facts['title']}"
            lines += [f"**{dimension.title}{of_it}**", ""]
            head = [dimension.unit, *(measure.title for measure in dimension.measures)]
            rows = [
                [f"{point:,}"]
                + [
                    spread_text(_spread(results, dimension, measure, point, system), measure.digits)
                    for measure in dimension.measures
                ]
                for point, _ in found
            ]
            lines += [*table(head, rows), *_slope(dimension, found)]
    return lines


def _slope(dimension: Dimension, found: Sequence[tuple[int, Spread]]) -> list[str]:
    """What one more costs over all points, and whether the last step costs more for each."""
    if len(found) < 3:
        return []
    points = [(point, spread.median) for point, spread in found]
    (low, least), (high, most) = points[0], points[-1]
    if most < _FLAT * least:
        times = f"{most / least:.2f} times what it is with {low:,}"
        return [f"With {high:,} {dimension.unit} the CPU time is {times}.", ""]
    each = (most - least) / (high - low)
    steps = [
        (after[1] - before[1]) / (after[0] - before[0])
        for before, after in zip(points[-3:], points[-2:], strict=False)
    ]
    text = f"From {low:,} to {high:,} {dimension.unit}: {_signed(each)} µs for each"
    if min(steps) > 0:
        text += f"; in the last step {steps[1] / steps[0]:.2f} times what it was in the one before"
    return [f"{text}.", ""]


def _signed(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{'+' if value >= 0 else '−'}{number(abs(value), digits)}"


def draw_growth(results: Results, figure: Any) -> bool:
    """A panel for each dimension, everything on logarithmic axes."""
    dimensions = [each for each in DIMENSIONS if each.name in results.variants(_SCENARIO)]
    if not dimensions:
        return False
    rows = -(-len(dimensions) // _COLUMNS)
    figure.set_size_inches(9, 2.6 * rows)
    for index, dimension in enumerate(dimensions):
        panel = figure.add_subplot(rows, _COLUMNS, index + 1, title=dimension.title)
        for measure in dimension.measures:
            scale = 1000 if measure.key == "cpu_us" and "event" not in measure.title else 1
            title = measure.title if scale == 1 else "CPU ms/request"
            for system in results.systems:
                found = _points(results, dimension, measure, system)
                panel.plot(
                    # Without tools is a point, too.
                    [max(point, 1) for point, _ in found],
                    [spread.median / scale for _, spread in found],
                    marker="o",
                    markersize=3,
                    label=title if _alone(results) else f"{title}, {system}",
                )
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(dimension.unit)
        panel.legend(fontsize=6)
    return True


def _alone(results: Results) -> bool:
    return len({m.system for m in results.measurements if m.scenario == _SCENARIO}) == 1


def _spread(
    results: Results, dimension: Dimension, measure: Measure, point: int, system: str
) -> Spread | None:
    return results.spread(_SCENARIO, dimension.name, system, dimension.key(measure, point))


def _points(
    results: Results, dimension: Dimension, measure: Measure, system: str
) -> list[tuple[int, Spread]]:
    spreads = ((p, _spread(results, dimension, measure, p, system)) for p in dimension.points)
    return [(point, spread) for point, spread in spreads if spread is not None]
