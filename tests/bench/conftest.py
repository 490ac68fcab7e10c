from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
# The harness is run from the checkout and is not part of the package.
sys.path.insert(0, str(CHECKOUT))


@pytest.fixture
def marked_environ() -> dict[str, str]:
    """An environment by which a process and all its descendants can be recognised."""
    return {**os.environ, "BENCH_TEST": uuid.uuid4().hex, "COLUMNS": "200"}


@pytest.fixture
def left_over(marked_environ: dict[str, str]) -> Callable[[], list[str]]:
    """The command lines of processes that were started in ``marked_environ``."""
    mark = f"BENCH_TEST={marked_environ['BENCH_TEST']}".encode()

    def find() -> list[str]:
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if mark in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    # What has ended but was not waited for has no command line.
                    found += [command] if command else []
            except OSError:
                continue
        return found

    return find


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a command of the bench, which measures one thing into ``tmp_path``; returns that."""

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "bench", *arguments, "--results", str(tmp_path)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any]
        (found,) = json.loads((tmp_path / "result.json").read_text())["measurements"]
        return found

    return run
