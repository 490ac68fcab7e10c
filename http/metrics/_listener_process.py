"""Start the metrics listener; imported by the master, so free of what gevent patches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from aigateway.http.metrics.folder import VARIABLE

__all__ = ["start_listener"]


def start_listener(address: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the process; returns it and the address that it really has (port 0).

    Raises OSError when it cannot listen; the text says why.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "aigateway.http.metrics.listener", address],
        env={**os.environ, VARIABLE: str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    process.stdout.close()
    if line.startswith("error: ") or not line:
        process.wait()
        raise OSError(line.removeprefix("error: ") or "the metrics process ended at once")
    return process, line
