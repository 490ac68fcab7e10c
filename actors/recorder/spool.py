"""The durable spool, and whose file is whose: finding, locking, setting aside.

A file belongs to whoever holds the lock on it (``flock`` on a file of its own beside it,
which the kernel drops when the process dies).  So a worker that replaces a killed one takes
up its file, and any worker may adopt a file that nobody holds.  The recorders of one process
hand the lock on (:mod:`~aigateway.actors.recorder.custody`).
"""

from __future__ import annotations

import fcntl
import os
import time
from itertools import count
from pathlib import Path

import structlog

from aigateway.actors.control.marks import Marks
from aigateway.actors.recorder._spool_file import SpoolStats
from aigateway.actors.recorder._spool_parcels import DeadLetter, Spool
from aigateway.actors.recorder._spool_schema import (
    DiskState,
    SpoolCorrupt,
    SpoolError,
    SpoolForeign,
    folder_error,
)

__all__ = [
    "DeadLetter",
    "DiskState",
    "Spool",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolStats",
    "adopt_spool",
    "claim_spool",
    "renew",
    "replace_damaged",
]

log = structlog.get_logger("ai-gateway.recorder")


def claim_spool(folder: Path) -> Spool:
    """A spool of one's own: the first that nobody holds, or a new one.

    Raises SpoolError when the folder cannot be used.
    """
    left = adopt_spool(folder, warn=True)
    if left is not None:
        return left
    number = 0
    while True:
        path = folder / f"spool-{number}.sqlite"
        # A file that is there now was made a moment ago, or cannot be used.
        if not path.exists() and (spool := _open(path)) is not None:
            return spool
        number += 1


def adopt_spool(folder: Path, *, warn: bool = False) -> Spool | None:
    """The first spool file that nobody holds, if there is one.

    A damaged one is set aside; one of another version is left alone (and logged with
    ``warn``).  Raises SpoolError when the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths = sorted(folder.glob("spool-*.sqlite"))
    except OSError as ex:
        text = f"cannot use the state folder {folder}: {ex}; set --state-dir"
        raise folder_error(text, ex) from ex
    for path in paths:
        try:
            spool = _open(path, only_old=True)
        except SpoolForeign as ex:
            if warn:
                log.error("a spool file is left alone", error=str(ex))
            continue
        if spool is not None:
            return spool
    return None


def replace_damaged(spool: Spool, reason: str) -> Spool:
    """Set a damaged spool aside and begin a new one in its place, with the same lock and marks.

    Raises SpoolError; then the lock is still held, and it may be called again.
    """
    lock = spool.close_database()
    if spool.is_there():
        _set_aside(spool.path, reason)
    else:
        log.critical("the spool file is gone, a new one is begun", error=reason)
    return _open_locked(spool.path, lock, spool.marks)


def renew(spool: Spool) -> Spool:
    """Delete a spool of which all is delivered, and begin a new one in its place, with the same
    lock and marks: that needs no room on a full disk.

    Raises SpoolError; then the lock is still held, and it may be called again.
    """
    lock = spool.close_database()
    try:
        for suffix in ("-wal", "-shm", ""):
            Path(f"{spool.path}{suffix}").unlink(missing_ok=True)
    except OSError as ex:
        text = f"cannot delete the spool {spool.path}: {ex.strerror}"
        raise folder_error(text, ex) from ex
    return _open_locked(spool.path, lock, spool.marks)


def _set_aside(path: Path, reason: str) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.stem}.damaged-{stamp}-{number}") for number in count())
    aside = next(name for name in names if not name.exists())
    try:
        for suffix in ("-wal", "-shm", ""):
            source = Path(f"{path}{suffix}")
            if source.exists():
                source.rename(f"{aside}{suffix}")
    except OSError as ex:
        raise SpoolError(f"cannot rename the damaged spool {path}: {ex.strerror}") from ex
    log.critical(
        "a spool file is damaged and was set aside: its records are not delivered",
        renamed_to=str(aside),
        error=reason,
        way_out=f"sqlite3 {aside} .recover",
    )


def _open(path: Path, *, only_old: bool = False) -> Spool | None:
    """Lock and open a file; None when somebody holds it (or it is not there any more)."""
    lock = _lock(path)
    if lock is None:
        return None
    try:
        if only_old and not path.exists():
            os.close(lock)
            return None
        return _open_locked(path, lock)
    except BaseException:
        os.close(lock)
        raise


def _open_locked(path: Path, lock: int, marks: Marks | None = None) -> Spool:
    try:
        spool = Spool(path, lock, marks)
    except SpoolCorrupt as ex:
        _set_aside(path, str(ex))
        spool = Spool(path, lock, marks)
    return spool


def _lock(path: Path) -> int | None:
    # Not the database file: closing any descriptor of that would drop SQLite's own locks.
    name = path.with_suffix(".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as ex:
        text = f"cannot use the state folder {path.parent}: {ex.strerror}; set --state-dir"
        raise folder_error(text, ex) from ex
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError as ex:
        os.close(lock)
        raise SpoolError(
            f"cannot lock {name}: {ex.strerror}; set --state-dir to a folder on a local disk"
        ) from ex
    return lock
