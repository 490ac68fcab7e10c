"""A signal to stop that comes before there is anything to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, runpy, signal, sys

class Stop:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Stop())
sys.argv[1:] = {argv!r}
runpy.run_module("aigateway.http", run_name="__main__")
"""
FIRST = ["aigateway.http.cli", "click", "aigateway.http.cli.start", "aigateway.http.settings"]
LATER = ["gunicorn.app.base", "aigateway.http.server.application"]


@pytest.mark.parametrize("module", [*FIRST, *LATER])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_is_stopped_among_its_imports_ends_well(
    tmp_path: Path, module: str, number: signal.Signals
) -> None:
    argv = ["start", "--local", "--http-address", "127.0.0.1:0"]
    program = PROGRAM.format(module=module, number=int(number), argv=argv)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_other_commands_leave_signals_as_they_are(tmp_path: Path) -> None:
    program = PROGRAM.format(module="click", number=int(signal.SIGTERM), argv=["version"])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGTERM
