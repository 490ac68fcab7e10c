"""Chaos as a user runs it: short, on the gateway's own control plane, with a fixed seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from system_programs import unavailable

from bench.availability import Absent
from bench.postgres import programs

CHECKOUT = Path(__file__).parents[2]
CHAOS = [sys.executable, "-m", "bench", "chaos", "--seed", "5"]


@pytest.mark.timeout(300)
def test_a_short_run_loses_doubles_and_leaves_nothing(
    tmp_path: Path, marked_environ: dict[str, str], left_over: Callable[[], list[str]]
) -> None:
    arguments = ["--minutes", "0.4", "--workers", "2", "--clients", "12"]
    done = subprocess.run(
        [*CHAOS, *arguments, "--results", str(tmp_path)],
        cwd=CHECKOUT,
        env=marked_environ,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_over() == []
    assert done.stdout.endswith("nothing is wrong\n")
    assert (tmp_path / "report.txt").read_text() == done.stdout
    assert not (tmp_path / "work").exists()

    result = json.loads((tmp_path / "chaos.json").read_text())
    assert result["seed"] == 5
    assert result["clean"] is True
    assert result["outcomes"]["answered"] > 50
    assert result["stored"]["usage"] >= result["outcomes"]["answered"]
    # Whoever may not mount a file system is told so.
    faults = {**result["faults"], **result["skipped"]}
    assert {
        "kill-worker",
        "kill-main",
        "crash-actor",
        "reload",
        "full-disk",
        "clock",
    } <= faults.keys()
    assert result["balance"] == {
        name: [] for name in ("lost", "wrong", "doubled", "undocumented", "hung")
    }


@pytest.mark.timeout(300)
def test_a_database_that_is_killed_silent_and_hangs_up_costs_no_record(
    tmp_path: Path, marked_environ: dict[str, str], left_over: Callable[[], list[str]]
) -> None:
    try:
        programs()
    except Absent as ex:
        unavailable(str(ex))
    arguments = ["--minutes", "0.2", "--workers", "2", "--clients", "12", "--only", "postgres"]
    done = subprocess.run(
        [*CHAOS, *arguments, "--control-plane", "postgres", "--results", str(tmp_path)],
        cwd=CHECKOUT,
        env=marked_environ,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_over() == []
    result = json.loads((tmp_path / "chaos.json").read_text())
    assert result["faults"].keys() == {"postgres-kill", "postgres-stall", "postgres-drop"}
    assert result["outcomes"]["answered"] > 50
    assert result["stored"]["usage"] >= result["outcomes"]["answered"]


def test_the_plan_can_be_seen_before_it_is_done() -> None:
    command = [
        *CHAOS,
        "--minutes",
        "1",
        "--plan",
        "--only",
        "kill,reload",
        "--without",
        "kill-main",
    ]
    plans = {
        subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
        ).stdout
        for _ in range(2)
    }
    (plan,) = plans
    kinds = {line.split()[2] for line in plan.splitlines()}
    assert kinds == {"kill-worker", "reload"}


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do() -> None:
    command = [*CHAOS, "--only", "earthquake"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "earthquake is no kind of fault; there are kill-worker, kill-main" in done.stderr
