"""The clock that a gateway's processes have in a chaos run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.chaos.clock import STEPS, Clock, ClockUnavailable
from bench.chaos.plan import Fault

SHOW = """
import datetime, sys, sqlite3, time
for _ in sys.stdin:
    query = sqlite3.connect(":memory:").execute("SELECT unixepoch('now')")
    print(time.time(), datetime.datetime.now().timestamp(), *query.fetchone(), time.monotonic())
    sys.stdout.flush()
"""


def test_it_jumps_for_those_that_have_it_and_their_monotonic_time_goes_on(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", SHOW],
        env={**os.environ, **clock.environ},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> list[float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return [float(word) for word in process.stdout.readline().split()]

        *before, monotonic = ask()
        for choice, step in enumerate(STEPS):
            clock.begin(Fault(0.0, "clock", 0.0, choice))
            *after, later = ask()
            assert 0 <= later - monotonic < 60
            for then, now in zip(before, after, strict=True):
                assert abs(now - then - step - (later - monotonic)) < 2
        process.stdin.close()


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClockUnavailable, match="no C compiler"):
        Clock(tmp_path)
