"""The folder in which worker processes count, from its making to its removal.

The master owns it.  Each worker process that ever lived leaves its counters in files of its
own, so that a counter never jumps back; :func:`forget_process` folds a dead one's files into
one archive, so that their number does not grow with restarts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = [
    "VARIABLE",
    "forget_process",
    "make_folder",
    "remove_folder",
    "remove_unused",
    "use_folder",
]

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus-client finds the folder."""
USERS = ".users"
"""Worker processes share a lock on this file for as long as they live."""
ARCHIVE = "dead"
"""Takes the place of a process id in the names of archive files."""


def make_folder(instead: str = "") -> Path:
    """Make the folder and tell all processes to come where it is.

    It is in ``instead`` where no temporary folder can be written to.  Raises OSError.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="aigateway-metrics-"))
    except OSError:
        if not instead:
            raise
        os.makedirs(instead, mode=0o700, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="aigateway-metrics-", dir=instead))
    os.environ[VARIABLE] = str(folder)
    return folder


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def use_folder(folder: Path) -> IO[bytes]:
    """In a worker process: say that it counts here for as long as the result is open."""
    users = open(folder / USERS, "ab")  # noqa: SIM115 - to the process' end
    fcntl.flock(users, fcntl.LOCK_SH)
    return users


def remove_unused(folder: Path) -> None:
    """Remove the folder when no worker process counts in it any more.

    Those whose main process was killed go on until they have finished what they serve.
    """
    with contextlib.suppress(OSError), open(folder / USERS, "ab") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
    remove_folder(folder)


def forget_process(folder: Path, pid: int) -> None:
    """Fold the counters of a dead process into the archive, drop its gauges."""
    from prometheus_client.mmap_dict import MmapedDict

    values: Any = MmapedDict  # it has no types
    with locked(folder):
        for path in folder.glob(f"*_{pid}.db"):
            kind = path.stem.rsplit("_", 1)[0]
            if kind in ("counter", "histogram"):
                archive = values(str(folder / f"{kind}_{ARCHIVE}.db"))
                for key, value, timestamp, _ in values.read_all_values_from_file(str(path)):
                    archive.write_value(key, archive.read_value(key)[0] + value, timestamp)
                archive.close()
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Between archive and scrape: a value is counted once, in one place or the other."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
