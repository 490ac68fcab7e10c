"""A spool on a slow disk where threads are greenlets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RUN = "from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main())"


def test_a_slow_commit_stops_no_other_greenlet() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "-n", "0", "-p", "no:cacheprovider"),
            HERE / "slow_disk_under_gevent.py",
        ],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
