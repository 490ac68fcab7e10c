"""Two revisions in one run: what is said of them, and what is refused."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from bench.report import compared, comparison
from bench.results import Measurement, Results
from bench.scenarios import all_scenarios
from bench.systems import Interpreter, Revision

CHECKOUT = Path(__file__).parents[2]
OLD, NEW = "0" * 12, "1" * 12
BLOCKING = [each for each in all_scenarios() if each.name == "blocking"]


def _measured(commit: str, round: int, cpu: float, rate: float) -> Measurement:
    return Measurement(
        scenario="blocking",
        variant="8 connections",
        value=8,
        system=f"{commit}-local",
        round=round,
        began="2026-01-01T00:00:00+00:00",
        numbers={"cpu_us_per_request": cpu, "requests_per_s": rate, "p50_ms": 1.0},
        lost=[],
        records={"interceptions": 5},
    )


def _results(*measurements: Measurement) -> Results:
    about = {
        "command": "python -m bench compare",
        "revision": NEW,
        "began": "then",
        "python": "CPython",
        "packages": {},
        "load_driver": "wrk",
        "machine": dict.fromkeys(("cpus", "cpu", "system", "kernel", "hypervisor"), "?")
        | {"memory_mb": 1},
        "options": {"rounds": 3, "seconds": 1.0, "workers": 2},
    }
    systems = {
        f"{commit}-local": {"title": commit, "does": does, "version": "1"}
        for commit, does in ((OLD, "Be slow"), (NEW, "Be quick"))
    }
    scenarios = {"blocking": {"title": "Blocking", "about": "", "versus": ""}}
    return Results(about, systems, scenarios, [], list(measurements))


def _three_rounds() -> Results:
    return _results(
        *(_measured(OLD, number, 100.0 * number, 50.0) for number in (1, 2, 3)),
        *(_measured(NEW, number, 90.0 * number, 40.0) for number in (1, 2, 3)),
    )


def test_each_round_is_compared_with_itself() -> None:
    numbers = compared(_three_rounds(), BLOCKING, OLD, NEW, ["local", "coderd"])
    by_key = {each.column.key: each for each in numbers}
    assert set(by_key) == {"cpu_us_per_request", "requests_per_s"}
    cpu = by_key["cpu_us_per_request"].ratio
    # The machine was three times as slow in the last round; both felt it.
    assert (cpu.low, cpu.median, cpu.high, cpu.count) == (0.9, 0.9, 0.9, 3)


def test_less_of_a_good_thing_is_worse() -> None:
    numbers = compared(_three_rounds(), BLOCKING, OLD, NEW, ["local"])
    costs = {each.column.key: each.cost for each in numbers}
    assert costs == pytest.approx({"cpu_us_per_request": 0.9, "requests_per_s": 1.25})


def test_a_round_that_only_one_of_them_has_does_not_count() -> None:
    results = _results(
        _measured(OLD, 1, 100, 50), _measured(NEW, 1, 100, 50), _measured(NEW, 2, 900, 1)
    )
    numbers = compared(results, BLOCKING, OLD, NEW, ["local"])
    assert {each.ratio.count for each in numbers} == {1}
    assert "say little" in comparison(results, numbers, OLD, NEW)


def test_the_report_names_both_and_what_they_are() -> None:
    results = _three_rounds()
    text = comparison(results, compared(results, BLOCKING, OLD, NEW, ["local"]), OLD, NEW)
    assert f"# {NEW} beside {OLD}" in text
    assert f"- `{OLD}`: Be slow" in text
    assert "No record was lost: 30 requests were checked one by one." in text
    assert "| blocking 8 connections | local | CPU µs/request | 200 (100–300) |" in text
    assert "+25.0 % |" in text
    assert "say little" not in text


def test_one_revision_under_two_pythons_is_two_systems() -> None:
    here = Interpreter.at(sys.executable)
    other = attrs.evolve(here, path="/opt/python", version="3.99.0")
    one, two, usual = (Revision(NEW, "local", (), python) for python in (here, other, None))
    assert one.label == f"{NEW} on {platform.python_version()}"
    assert two.name == f"{NEW} on 3.99.0-local"
    assert usual.label == NEW
    assert len({one.python, two.python, usual.python}) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-revision"], "git knows no revision 'no-such-revision'"),
        (["HEAD", "HEAD"], "HEAD and HEAD are the same commit"),
        (["HEAD", "--python", sys.executable], "HEAD and HEAD are the same commit"),
        (["HEAD", *["--python", sys.executable] * 3], "--python is given twice at most"),
        (["HEAD", "--python", "/bin/false"], "'/bin/false' is not a Python"),
        (["HEAD", "--python", "/nowhere/python"], "'/nowhere/python' is not a Python"),
        (["HEAD", "-s", "nginx"], "a comparison has two systems: the two revisions"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(
    arguments: list[str], told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "compare", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert told in done.stderr
