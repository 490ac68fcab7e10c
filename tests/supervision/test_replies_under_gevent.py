"""Replies once more, and what they wait with, in a process that gevent has patched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RUN = "from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main())"


def test_replies_are_the_same_for_greenlets() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "-n", "0", "-p", "no:cacheprovider"),
            *(HERE / "test_replies.py", HERE / "turns_under_gevent.py"),
        ],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
