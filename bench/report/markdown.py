"""The report of a run as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.report.growth import growth_tables
from bench.report.tables import base_system, ratio, scenario_tables, table
from bench.report.targets import target_table
from bench.results import Results
from bench.scenarios import Column, Scenario, all_scenarios
from bench.scenarios.growth import Growth

__all__ = ["circumstances", "finding", "findings", "report", "verdict"]

_HEADLINES = (
    ("agents", "100 agents", Column("cpu_ms_per_turn", "CPU/turn", better="low")),
    ("blocking", "64 connections", Column("requests_per_s", "requests/s", better="high")),
    ("blocking", "64 connections", Column("cpu_us_per_request", "CPU/request", better="low")),
    ("streams", "500 streams", Column("cpu_us_per_event", "CPU/event", better="low")),
    ("streams", "500 streams", Column("gap_p99_ms", "p99 gap", better="low")),
    ("streams", "500 streams", Column("private_mb", "memory", better="low")),
    ("start", "", Column("start_s", "start-up", better="low")),
)


def report(results: Results, plots: Sequence[str] = ()) -> str:
    """The whole report; ``plots`` are file names beside it."""
    lines = ["# Benchmark", "", *verdict(results), *findings(results)]
    if plots:
        lines += ["## Plots", "", *(f"![{name}]({name})\n" for name in plots)]
    lines += _disturbances(results)
    lines += ["## How it was run", "", *circumstances(results)]
    return "\n".join(lines).rstrip() + "\n"


def findings(results: Results, without: Sequence[str] = ()) -> list[str]:
    """The numbers, without what is only of interest beside the run itself."""
    lines = ["## Against the others", "", *_headline(results)]
    if targets := target_table(results):
        lines += ["## Targets", "", *targets]
    for scenario in all_scenarios():
        if scenario.name not in without:
            lines += finding(results, scenario)
    return lines


def finding(results: Results, scenario: Scenario) -> list[str]:
    """What one scenario found; nothing when it was not measured."""
    if not results.variants(scenario.name):
        return []
    facts = results.scenarios[scenario.name]
    return [
        *(f"## {facts['title']}", "", facts["about"], ""),
        *_tables(results, scenario),
        *_left_out(results, scenario),
    ]


def _tables(results: Results, scenario: Scenario) -> list[str]:
    return (
        growth_tables(results)
        if isinstance(scenario, Growth)
        else scenario_tables(results, scenario)
    )


def verdict(results: Results) -> list[str]:
    """Whether anything was lost or could not be measured."""
    lines = []
    if results.interrupted:
        lines += ["**Interrupted: what follows is not complete.**", ""]
    if lost := results.lost:
        lines += ["**Records were lost. This run failed.**", "", *(f"- {t}" for t in lost), ""]
    elif any(m.lost is not None for m in results.measurements):
        checked = sum(m.records.get("interceptions", 0) for m in results.measurements)
        lines += [f"No record was lost: {checked:,} requests were checked one by one.", ""]
    if faults := results.faults:
        lines += ["**This run failed.**", "", *(f"- {t}" for t in faults), ""]
    if failed := results.failed:
        lines += ["Not measured:", "", *(f"- {t.splitlines()[0]}" for t in failed), ""]
    return lines


def _headline(results: Results) -> list[str]:
    base = base_system(results)
    head, rows = (
        ["", "what it does with a request", *(column.title for _, _, column in _HEADLINES)],
        [],
    )
    for name, facts in results.systems.items():
        if "absent" in facts:
            rows.append([facts["title"], f"absent: {_brief(facts['absent'])}"])
        elif name not in ("direct", base):
            cells = [ratio(results, s, v, name, column) for s, v, column in _HEADLINES]
            rows.append([facts["title"], facts["does"], *cells])
    for row in rows:
        row += [""] * (len(head) - len(row))
    lines = [
        "How many times better aigateway is (below 1 the other is); medians of each round's ratio.",
        f"aigateway {results.systems.get(base, {}).get('does', 'was not measured')}.",
        "",
    ]
    return lines + table(head, rows)


def _brief(text: str) -> str:
    return " ".join(text.split())[:200].replace("|", "/")


def _left_out(results: Results, scenario: Scenario) -> list[str]:
    texts = [
        f"- {results.systems[entry['system']]['title']} was left out: {entry['reason']}."
        for entry in results.left_out
        if entry["scenario"] == scenario.name and entry["system"] != "direct"
    ]
    return [*texts, ""] if texts else []


def _disturbances(results: Results) -> list[str]:
    seen: Counter[tuple[str, str, str, str]] = Counter()
    for m in results.measurements:
        for text in m.warnings:
            seen[(m.scenario, m.variant, m.system, text)] += 1
    if not seen:
        return []
    lines = ["## Remarks", "", "What may have distorted a measurement, or went wrong in it:", ""]
    for (scenario, variant, system, text), count in seen.items():
        times = f" (in {count} rounds)" if count > 1 else ""
        lines.append(f"- {scenario} {variant} on {system}: {text}{times}")
    return [*lines, ""]


def circumstances(results: Results) -> list[str]:
    """Where, when and with what the run was made."""
    about: dict[str, Any] = results.about
    machine, options = about["machine"], about["options"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    versions = ", ".join(
        f"{facts['title']} {facts['version']}"
        for name, facts in results.systems.items()
        if "absent" not in facts and name != "direct"
    )
    noise = [m.numbers for m in results.measurements if "steal_percent" in m.numbers]
    lines = [
        f"- Command: `{about['command']}`",
        f"- Revision: {about['revision']}; {about['began']} to {about.get('ended', '?')} UTC",
        f"- Machine: {machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_mb']:,} MB,"
        f" {machine['system']}, Linux {machine['kernel']}, virtual: {machine['hypervisor']}",
        f"- Systems: {versions}; {about['python']}; {packages}",
        f"- Load driver for saturation: {about['load_driver']}; all else: bench.load",
        f"- {options['rounds']} rounds, {options['seconds']:g} s each,"
        f" {options['workers']} worker processes",
    ]
    if noise:
        steal = max(numbers["steal_percent"] for numbers in noise)
        foreign = max(numbers["foreign_percent"] for numbers in noise)
        lines.append(
            f"- Steal time up to {steal:.1f} %, other processes up to {foreign:.1f} % of the"
            " machine's CPU time in a measurement"
        )
    return [*lines, ""]
