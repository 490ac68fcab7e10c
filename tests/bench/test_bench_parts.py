"""Scenarios that look at parts of the gateway, or at several gateways, cut short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
# The last variant alone: each of them takes gateways of its own.
SHORT = """
import sys
from bench.cli import main
from bench.scenarios import all_scenarios
for scenario in map(type, all_scenarios()):
    if scenario.name == sys.argv[2]:
        whole = scenario.variants
        scenario.variants = lambda self, options: whole(self, options)[-1:]
main()
"""
OPTIONS = [
    *("--rounds", "1", "--seconds", "0.3", "--warm-up", "0.1", "--workers", "1"),
    *(
        "--watched-rate",
        "30",
        "--part-events",
        "50",
        "--part-appends",
        "20",
        "--part-asks",
        "70",
        "--part-times",
        "20",
    ),
    *("-s", "aigateway", "-s", "direct", "--control-plane", "local"),
]


def _measured(scenario: str, folder: Path, environ: dict[str, str]) -> dict[str, Any]:
    """The numbers of the scenario's last variant."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT, "run", scenario, *OPTIONS, "--results", str(folder)],
        cwd=CHECKOUT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text())
    (measured,) = result["measurements"]
    assert measured["lost"] == []
    assert result["left_out"] == [
        {"scenario": scenario, "system": "direct", "reason": "has no such part"}
    ]
    numbers: dict[str, Any] = measured["numbers"]
    return numbers


def test_gateways_are_watched_beside_one_that_is_not(
    tmp_path: Path, marked_environ: dict[str, str], left_over: Callable[[], list[str]]
) -> None:
    numbers = _measured("watched", tmp_path, marked_environ)
    assert left_over() == []
    assert numbers["times_off"] == pytest.approx(numbers["cpu_us"] / numbers["cpu_us_off"])


def test_reservations_are_measured_beside_a_policy_without_caps(
    tmp_path: Path, marked_environ: dict[str, str], left_over: Callable[[], list[str]]
) -> None:
    numbers = _measured("caps", tmp_path, marked_environ)
    assert left_over() == []
    assert numbers["times_without"] == pytest.approx(numbers["cpu_us"] / numbers["cpu_us_without"])


@pytest.mark.parametrize(
    ("scenario", "keys"),
    [
        ("interception", {"event_bare_us", "event_us", "mb_bare_ms", "mb_ms"}),
        ("recorder", {"cpu_us", "per_s"}),
        ("reading", {"opened_us", "per_kb_us", "fields_us", "check_us", "json_us"}),
        ("own-parts", {"library_us", "own_us", "ratio"}),
        ("sessions", {"sessions", "kb_each", "socket_us", "stream_us", "ratio"}),
    ],
)
def test_a_part_is_measured_by_itself(scenario: str, keys: set[str], tmp_path: Path) -> None:
    numbers = _measured(scenario, tmp_path, {**os.environ})
    assert keys <= numbers.keys()
    assert all(numbers[key] > 0 for key in keys)
