"""The same under gevent, the gateway's default: in a process that was patched first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = [
    "../upstream/test_upstream_exchanges.py",
    "../upstream/test_upstream_proxies.py",
    "../upstream/test_upstream_sending.py",
    "test_provider_keys.py",
    "test_provider_retries.py",
    "test_provider_breaker.py",
    "test_provider_fallback.py",
    "test_provider_workers.py",
    "test_provider_deaths.py",
    "test_provider_drains.py",
    "test_day_of_bad_luck.py",
    "silence_under_gevent.py",
]
RUN = """
from gevent import monkey
monkey.patch_all()
import sys
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.timeout(240)
def test_everything_holds_where_threads_are_greenlets():
    # In this one process: another would not be patched.
    command = [sys.executable, "-c", RUN, "-n", "0", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(str((HERE / name).resolve()) for name in MODULES)],
        capture_output=True,
        text=True,
        timeout=230,
        cwd=HERE.parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "no tests ran" not in done.stdout
