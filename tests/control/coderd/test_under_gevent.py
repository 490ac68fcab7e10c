"""The connection works the same in a process that gevent has patched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATCHED = (
    "from gevent import monkey; monkey.patch_all(); "
    "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
    "what",
    [
        ["test_authorizing.py", "test_storing_records.py", "test_providers_from_coderd.py"],
        ["test_connection_life.py", "-k", "wait or silent or immediate or goodbye or fatal"],
        ["test_dialling_safely.py", "test_byte_channel.py", "test_tls_wire.py"],
    ],
    ids=["calls", "life", "tls"],
)
def test_the_other_tests_pass_under_gevent(what: list[str]) -> None:
    name, *rest = [str(HERE / part) if part.endswith(".py") else part for part in what]
    done = subprocess.run(
        # In this one process: another would not be patched.
        [sys.executable, "-c", PATCHED, name, *rest, "-n", "0", "-q", "-p", "no:cacheprovider"],
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
