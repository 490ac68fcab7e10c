"""Where the workers' control sockets are.

The master imports this module.  It must stay free of imports that gevent has to patch: what
the master has imported, every worker that it forks later has imported unpatched.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["remove_socket", "socket_path"]


def socket_path(folder: str | Path, pid: int) -> Path:
    """Where the worker process ``pid`` listens."""
    return Path(folder) / f"worker-{pid}.sock"


def remove_socket(folder: str | Path, pid: int) -> None:
    """Remove the socket that a dead worker left behind."""
    with contextlib.suppress(OSError):
        socket_path(folder, pid).unlink(missing_ok=True)
