"""Plots as SVG: latency against concurrency, CPU per request, gaps between events, growth, soak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.report.growth import draw_growth
from bench.results import Results
from bench.scenarios.agents import CLASSES

__all__ = ["draw_plots"]

_COLOURS = {
    "direct": "#999999",
    "nginx": "#4c9f50",
    "aigateway": "#1f5fbf",
    "aigateway-coderd": "#7fb0ef",
    "portkey": "#d9822b",
    "portkey-cluster": "#f2c48d",
    "litellm": "#b03a48",
}


def draw_plots(results: Results, folder: Path) -> list[str]:
    """Write what can be drawn; returns the file names.  Empty without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    # The same result gives the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "font.size": 9, "axes.grid": True})
    plots: Sequence[tuple[str, Callable[[Results, Any], bool]]] = (
        ("agents.svg", _agents),
        ("latency.svg", _latency),
        ("throughput.svg", _throughput),
        ("cpu.svg", _cpu),
        ("gap.svg", _gap),
        ("growth.svg", draw_growth),
        ("soak.svg", _soak),
    )
    return [name for name, draw in plots if _draw(results, folder / name, draw)]


def _draw(results: Results, file: Path, draw: Callable[[Results, Any], bool]) -> bool:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    if not draw(results, figure):
        return False
    figure.savefig(file, metadata={"Date": None})
    return True


def _agents(results: Results, figure: Any) -> bool:
    """The time to the first byte by the size of the conversation, and CPU per turn."""
    variants = results.variants("agents")
    if not variants:
        return False
    variant = variants[-1]
    options = results.about["options"]
    low, high = options["agent_first_kb"], options["agent_last_kb"]
    middles = [low + (high - low) * (number + 0.5) / CLASSES for number in range(CLASSES)]
    axes = figure.add_subplot(
        1, 2, 1, title=f"First byte p50, {variant}", ylabel="ms", xlabel="KB of the conversation"
    )
    for system, facts in results.systems.items():
        spreads = [
            results.spread("agents", variant, system, f"ttfb_{number}_p50_ms")
            for number in range(CLASSES)
        ]
        points = [
            (x, each.median)
            for x, each in zip(middles, spreads, strict=True)
            if each and each.median
        ]
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker="o",
            markersize=3,
            color=_COLOURS.get(system),
            label=facts["title"],
        )
    axes.set_yscale("log")
    axes.legend(fontsize=7)
    bars = figure.add_subplot(1, 2, 2, title=f"CPU per turn, {variant}")
    _bars(results, bars, "agents", variant, "cpu_ms_per_turn", digits=1)
    bars.set_xlabel("milliseconds")
    return True


def _latency(results: Results, figure: Any) -> bool:
    axes = figure.add_subplot(title="Blocking requests at saturation", ylabel="milliseconds")
    return _curves(
        results, axes, "blocking", {"p50_ms": ("--", "p50"), "p99_ms": ("-", "p99")}, log=True
    )


def _throughput(results: Results, figure: Any) -> bool:
    axes = figure.add_subplot(title="Blocking requests at saturation", ylabel="requests/s")
    return _curves(results, axes, "blocking", {"requests_per_s": ("-", "")}, log=True)


def _gap(results: Results, figure: Any) -> bool:
    axes = figure.add_subplot(title="Gap between two events of a stream", ylabel="milliseconds")
    kinds = {"gap_p50_ms": ("--", "p50"), "gap_p99_ms": ("-", "p99")}
    return _curves(results, axes, "streams", kinds, log=True)


def _curves(
    results: Results, axes: Any, scenario: str, kinds: dict[str, tuple[str, str]], *, log: bool
) -> bool:
    """A line per system and number over the variants, with the range over the rounds."""
    values = {m.variant: m.value for m in results.measurements if m.scenario == scenario}
    drawn = False
    for system, facts in results.systems.items():
        for key, (style, label) in kinds.items():
            points = [
                (values[variant], spread)
                for variant in results.variants(scenario)
                if (spread := results.spread(scenario, variant, system, key))
            ]
            if not points:
                continue
            middle = [spread.median for _, spread in points]
            below = [spread.median - spread.low for _, spread in points]
            above = [spread.high - spread.median for _, spread in points]
            axes.errorbar(
                [x for x, _ in points],
                middle,
                yerr=[below, above],
                linestyle=style,
                marker="o",
                markersize=3,
                capsize=2,
                color=_COLOURS.get(system),
                label=f"{facts['title']} {label}".strip(),
            )
            drawn = True
    if drawn:
        axes.set_xscale("log", base=2)
        ticks = sorted(set(values.values()))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel(results.scenarios[scenario]["versus"])
        if log:
            axes.set_yscale("log")
        axes.legend(fontsize=7, ncols=2)
    return drawn


def _cpu(results: Results, figure: Any) -> bool:
    """Bars: CPU per request and per event, on logarithmic axes."""
    panels = [
        (scenario, key, title)
        for scenario, key, title in (
            ("blocking", "cpu_us_per_request", "CPU per request"),
            ("streams", "cpu_us_per_event", "CPU per event"),
        )
        if results.variants(scenario)
    ]
    for index, (scenario, key, title) in enumerate(panels):
        variants = results.variants(scenario)
        variant = variants[len(variants) // 2]
        axes = figure.add_subplot(1, len(panels), index + 1, title=f"{title}, {variant}")
        _bars(results, axes, scenario, variant, key)
        axes.set_xlabel("microseconds")
    return bool(panels)


def _bars(
    results: Results, axes: Any, scenario: str, variant: str, key: str, digits: int = 0
) -> None:
    """A bar per system that has this number, on a logarithmic axis."""
    bars = [
        (facts["title"], spread, _COLOURS.get(system))
        for system, facts in results.systems.items()
        if (spread := results.spread(scenario, variant, system, key)) and spread.median > 0
    ]
    axes.barh(
        [title for title, _, _ in bars],
        [spread.median for _, spread, _ in bars],
        color=[colour for _, _, colour in bars],
    )
    for row, (_, spread, _) in enumerate(bars):
        axes.text(spread.median, row, f" {spread.median:,.{digits}f}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.invert_yaxis()


def _soak(results: Results, figure: Any) -> bool:
    """A line for each process."""
    runs = [m for m in results.measurements if m.scenario == "soak" and m.processes]
    if not runs:
        return False
    memory = figure.add_subplot(2, 1, 1, title="Soak", ylabel="private MB")
    files = figure.add_subplot(2, 1, 2, ylabel="file descriptors", xlabel="minutes")
    for run in runs:
        title = f"{results.systems[run.system]['title']}, round {run.round}"
        for name, series in run.processes.items():
            minutes = [entry[0] / 60 for entry in series]
            style = "--" if name == "main" else "-"
            of_it = memory.plot(
                minutes, [entry[1] / 1e6 for entry in series], style, label=f"{title}: {name}"
            )
            colour = of_it[0].get_color()
            files.plot(minutes, [entry[2] for entry in series], style, color=colour)
    for axes in (memory, files):
        axes.set_ylim(bottom=0)
    memory.legend(fontsize=7, ncols=2)
    return True
