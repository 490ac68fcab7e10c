"""Numbers, tables and the page that they go into."""

from __future__ import annotations

import random
from pathlib import Path

import attrs
import pytest

from bench.load import Histogram
from bench.machine import CpuTimes, ProcessTable
from bench.options import Options
from bench.plan import plan
from bench.report import draw_plots, report, write_docs
from bench.report.docs import BEGIN, END, OWN
from bench.results import Measurement, Results
from bench.scenarios import all_scenarios
from bench.scenarios.agents import CLASSES
from bench.systems import all_systems

NUMBERS = {"steal_percent": 0.0, "foreign_percent": 0.0}


def _results() -> Results:
    def blocking(system: str, number: int, rate: float, cpu: float) -> Measurement:
        numbers = {"requests_per_s": rate, "cpu_us_per_request": cpu, "p99_ms": 1.0, **NUMBERS}
        return Measurement(
            scenario="blocking",
            variant="64 connections",
            value=64,
            system=system,
            round=number,
            began="2026-01-01T00:00:00+00:00",
            numbers=numbers,
            lost=[] if system == "aigateway" else None,
            records={"interceptions": 1000} if system == "aigateway" else {},
        )

    machine = {"cpus": 2, "cpu": "X", "memory_mb": 1, "system": "S", "kernel": "K"}
    return Results(
        about={
            "command": "python -m bench run",
            "revision": "abc",
            "python": "CPython",
            "packages": {"gevent": "1"},
            "machine": {**machine, "hypervisor": "no"},
            "options": {"rounds": 2, "seconds": 1.0, "workers": 2},
            "load_driver": "wrk",
            "began": "2026-01-01T00:00:00+00:00",
        },
        systems={
            "aigateway": {"title": "aigateway", "does": "all", "version": "0"},
            "portkey": {"title": "Portkey", "does": "some", "version": "1"},
            "litellm": {"title": "LiteLLM", "does": "some", "absent": "pip | failed"},
        },
        scenarios={"blocking": {"title": "Blocking", "about": "About.", "versus": "connections"}},
        measurements=[
            blocking("aigateway", 1, 2000.0, 500.0),
            blocking("portkey", 1, 500.0, 2000.0),
            blocking("aigateway", 2, 3000.0, 600.0),
            blocking("portkey", 2, 500.0, 3000.0),
        ],
    )


def test_ratios_are_those_of_the_same_round() -> None:
    text = report(_results())
    # 2000/500 and 3000/500; 2000/500 and 3000/600.
    assert "| Portkey | 500 (500–500) | 5.0× | 2,500 (2,000–3,000) | 4.5× |" in text
    assert "| aigateway | 2,500 (2,000–3,000) |  | 550 (500–600) |" in text


def test_an_absent_system_is_reported_with_its_reason() -> None:
    assert "| LiteLLM | absent: pip / failed |" in report(_results())


def test_targets_that_were_measured_are_judged() -> None:
    text = report(_results())
    assert "| blocking, CPU per request (64 connections) | ≤ 650 µs | 550 | yes |" in text
    assert "| blocking, requests/s at saturation against Portkey | ≥ 4 × | 5.0 | yes |" in text
    assert "500 streams" not in text


def test_a_loss_is_the_first_thing_that_is_said() -> None:
    results = _results()
    assert "No record was lost: 2,000 requests" in report(results)
    results.measurements[0].lost.append("3 prompts are missing")  # type: ignore[union-attr]
    head = report(results).splitlines()[2:6]
    assert head[0] == "**Records were lost. This run failed.**"
    assert "blocking 64 connections on aigateway, round 1: 3 prompts are missing" in head[2]


def test_a_result_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    results = _results()
    results.save(tmp_path / "result.json")
    assert Results.load(tmp_path / "result.json") == results


def test_the_page_changes_between_its_markers_only(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    for _ in range(2):
        write_docs(_results(), page, [])
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nAfter.\n")
        assert "old" not in text
        assert text.count("### Blocking") == 1
    page.write_text("no markers")
    with pytest.raises(ValueError, match="has no lines"):
        write_docs(_results(), page, [])


def test_a_run_of_agents_leaves_the_other_numbers_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"{OWN['agents'][0]}\nold\n{OWN['agents'][1]}\n{BEGIN}\nothers\n{END}\n")
    numbers = {"cpu_ms_per_turn": 3.25} | {f"ttfb_{n}_p50_ms": 1.0 + n for n in range(CLASSES)}
    results = attrs.evolve(
        _results(),
        scenarios={"agents": {"title": "Coding agents", "about": "Turns.", "versus": "agents"}},
        measurements=[
            attrs.evolve(each, scenario="agents", variant="9 agents", numbers=numbers)
            for each in _results().measurements
        ],
    )
    results.about["options"] |= {"agent_first_kb": 20, "agent_last_kb": 600}
    names = draw_plots(results, tmp_path)
    assert names == ["agents.svg"]
    write_docs(results, page, names)
    text = page.read_text()
    assert "old" not in text
    assert "**9 agents**" in text
    assert "| 3.25" in text
    assert text.index("![agents](agents.svg)") < text.index(OWN["agents"][1])
    assert text.endswith(f"{BEGIN}\nothers\n{END}\n")


def test_plots_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    names = draw_plots(_results(), tmp_path)
    assert names == ["latency.svg", "throughput.svg", "cpu.svg"]
    assert all((tmp_path / name).read_text().startswith("<?xml") for name in names)


def test_a_histogram_is_exact_to_a_hundredth() -> None:
    chance = random.Random(7)
    values = sorted(int(10 ** chance.uniform(0, 7)) for _ in range(5000))
    first, second = Histogram(), Histogram()
    first.add_many(values[::2])
    second.add_many(values[1::2])
    first.merge(Histogram.from_json(second.to_json()))
    assert len(first) == 5000
    for percent in (1, 50, 90, 99, 99.9, 100):
        exact = values[int(-(-5000 * percent // 100)) - 1]
        assert first.percentile(percent) == pytest.approx(exact, rel=0.01, abs=1)
    assert first.mean() == pytest.approx(sum(values) / 5000, rel=0.01)


def test_an_empty_histogram_has_zeros() -> None:
    assert (Histogram().percentile(99), Histogram().mean(), Histogram().maximum()) == (0, 0, 0)


def test_rounds_take_turns_and_begin_with_another_system() -> None:
    blocking = [scenario for scenario in all_scenarios() if scenario.name == "blocking"]
    systems = [system for system in all_systems() if system.name in ("direct", "nginx")]
    steps = plan(blocking, systems, Options(rounds=2, concurrencies=(8,)))
    assert [(step.round, step.system.name) for step in steps] == [
        (1, "direct"),
        (1, "nginx"),
        (2, "nginx"),
        (2, "direct"),
    ]


def test_a_key_flood_is_for_systems_with_users() -> None:
    flood = [scenario for scenario in all_scenarios() if scenario.name == "keys"]
    steps = plan(flood, all_systems(("local", "coderd")), Options(rounds=1))
    assert {step.system.name for step in steps} == {"aigateway", "aigateway-coderd"}


def test_a_tree_has_orphans_of_its_session_too() -> None:
    table = ProcessTable(
        parents={10: 1, 11: 10, 12: 11, 20: 1, 30: 1},
        sessions={10: 10, 11: 10, 12: 12, 20: 10, 30: 30},
    )
    assert table.tree(10) == [10, 11, 12, 20]
    assert table.tree(99) == []


def test_steal_is_a_share_of_the_machine() -> None:
    before, after = CpuTimes(10, 10, 1), CpuTimes(15, 13, 3)
    assert (after - before).steal_share == pytest.approx(0.2)
