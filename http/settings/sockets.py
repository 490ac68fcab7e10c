"""Where the workers' sockets for operators are.

The master imports this module.  It must stay free of imports that gevent has to patch: what
the master has imported, every worker that it forks later has imported unpatched.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["remove_socket", "socket_path", "trace_path"]


def socket_path(folder: str | Path, pid: int) -> Path:
    """Where the worker process ``pid`` listens."""
    return Path(folder) / f"worker-{pid}.sock"


def trace_path(folder: str | Path, pid: int) -> Path:
    """Where it says what it is doing; see :mod:`aigateway.http.diagnosis.service`."""
    return Path(folder) / f"worker-{pid}.trace"


def remove_socket(folder: str | Path, pid: int) -> None:
    """Remove what a dead worker left behind."""
    for path in (socket_path(folder, pid), trace_path(folder, pid)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
