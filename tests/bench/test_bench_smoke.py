"""The harness as a user runs it: short, with the gateway only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
TINY = [
    *("--rounds", "1", "--seconds", "1", "--warm-up", "0.2", "--workers", "1"),
    *("--concurrencies", "2", "--streams", "4", "--events", "10", "--ramp", "0.2"),
    *("-s", "aigateway", "--control-plane", "local"),
]


def _bench(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", *arguments]


def test_a_short_run_leaves_a_report_and_no_process(
    tmp_path: Path, marked_environ: dict[str, str], left_over: Callable[[], list[str]]
) -> None:
    scenarios = ("blocking", "streams", "inside", "start")
    command = _bench("run", *scenarios, *TINY, "--results", str(tmp_path))
    done = subprocess.run(
        command, cwd=CHECKOUT, env=marked_environ, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert left_over() == []

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["interrupted"] is False
    about = result["about"]
    assert about["revision"]
    assert about["machine"]["cpus"] >= 1
    assert about["command"].startswith("python -m bench run blocking streams inside")
    assert about["options"]["seconds"] == 1.0
    assert result["systems"]["aigateway"]["version"]

    blocking, streams, one, many, inside_streams, start = result["measurements"]
    for measurement in result["measurements"]:
        assert measurement["failure"] == ""
        assert measurement["lost"] == []
        assert measurement["errors"] == {}
        assert "--log-human  " in f"{measurement['commands'][0]} "
        assert {"steal_percent", "foreign_percent"} <= measurement["numbers"].keys()
    assert blocking["numbers"]["requests_per_s"] > 0
    assert blocking["numbers"]["cpu_us_per_request"] > 0
    assert blocking["numbers"]["private_mb"] > 10
    # Each request of the load, and the first of each API.
    assert blocking["records"]["interceptions"] > blocking["numbers"]["answered"]
    assert blocking["histograms"]["latency"]
    assert streams["numbers"]["events"] > 0
    assert streams["numbers"]["events_lost"] == 0
    assert streams["numbers"]["streams_unfinished"] == 0
    assert streams["histograms"]["gap"]
    for inside in (one, many, inside_streams):
        assert inside["numbers"]["provider_mean_ms"] > 0
        assert inside["numbers"]["recorder_wait_p99_ms"] > 0
    assert start["numbers"]["start_s"] > 0

    report = (tmp_path / "report.md").read_text()
    assert "No record was lost" in report
    assert "**4 streams**" in report
    assert "| aigateway |" in report
    assert "\n| record p99 ms | " in report


def test_agents_get_every_byte_and_leave_a_record_of_every_turn(
    measured: Callable[..., dict[str, Any]],
) -> None:
    options = [
        "--agents",
        "2",
        "--agent-turns",
        "7",
        "--agent-think",
        "0.05",
        "--agent-events",
        "3",
    ]
    agents = measured("run", "agents", *TINY, *options)
    numbers = agents["numbers"]
    assert agents["lost"] == []
    assert agents["errors"] == {}
    assert (numbers["answers_changed"], numbers["turns_unfinished"]) == (0, 0)
    # Each turn, and the first request of each API.
    assert agents["records"]["interceptions"] >= numbers["turns"] + 2 > 5
    assert agents["records"]["prompts"] == numbers["persons"] + 2
    assert numbers["cpu_ms_per_turn"] > 0
    assert numbers["ttfb_p50_ms"] > 0


def test_very_many_streams_say_what_each_takes(measured: Callable[..., dict[str, Any]]) -> None:
    options = ["--many-streams", "30", "--many-interval-ms", "100", "--many-ramp", "0.3"]
    many = measured("run", "many-streams", *TINY, *options)
    assert (many["failure"], many["lost"], many["errors"]) == ("", [], {})
    numbers = many["numbers"]
    assert (numbers["events_lost"], numbers["streams_unfinished"]) == (0, 0)
    assert numbers["kb_per_stream"] > 0
    # The first ones count too.
    assert sum(many["histograms"]["ttfb"].values()) >= 30


def test_more_files_than_the_system_gives_are_named(tmp_path: Path) -> None:
    # The superuser's processes could raise the limit again.
    humbly = "setpriv --bounding-set -all" if os.geteuid() == 0 else ""
    limited = ["sh", "-c", f'ulimit -n 1500 && exec {humbly} "$@"', "sh"]
    options = ["--many-streams", "1000", "--results", str(tmp_path)]
    command = [*limited, *_bench("run", "many-streams", *TINY, *options)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1
    assert "a process needs 3000 open files and may have 1500 (ulimit -Hn)" in done.stderr


def test_an_interrupt_ends_the_run_and_every_process(
    tmp_path: Path, marked_environ: dict[str, str], left_over: Callable[[], list[str]]
) -> None:
    arguments = [*TINY, "--seconds", "60", "--results", str(tmp_path)]
    with subprocess.Popen(
        _bench("run", "streams", *arguments),
        cwd=CHECKOUT,
        env=marked_environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        driver = "bench.load.streams"
        while not any(driver in command for command in left_over()):
            assert run.poll() is None, run.communicate()[0]
        run.send_signal(signal.SIGINT)
        text, _ = run.communicate(timeout=60)
    assert run.returncode == 130, text
    assert left_over() == []
    assert json.loads((tmp_path / "result.json").read_text())["interrupted"] is True
    assert "Interrupted" in (tmp_path / "report.md").read_text()


def test_the_help_names_every_command() -> None:
    done = subprocess.run(
        _bench("--help"), cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )
    for name in ("run", "compare", "smoke", "soak", "chaos", "systems", "upstream", "report"):
        assert f"\n  {name} " in done.stdout
