"""The same under gevent, which patches a whole process: hence a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_tools_are_found_called_and_cut_under_gevent():
    script = Path(__file__).with_name("mcp_under_gevent.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
