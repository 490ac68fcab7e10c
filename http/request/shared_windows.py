"""Windows in which all worker processes of a gateway count together: a file in its runtime folder.

It holds the counts of the last minute or so.  Losing it loses nothing else, so it is never synced.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

__all__ = ["CountsFile", "windows_in"]

_PATIENCE: Final = 0.1
"""Seconds to wait for another process, which needs some microseconds."""
_SWEEP_EVERY: Final = 60.0
"""Seconds between two looks for windows that are over."""


def windows_in(folder: Path, database: str) -> FixedWindowRateLimiter:
    """Those of the gateways on ``database`` whose runtime folder this is.

    Raises OSError and sqlite3.Error.
    """
    name = hashlib.sha256(os.path.abspath(database).encode()).hexdigest()[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FixedWindowRateLimiter(CountsFile(folder / f"windows-{name}.db"))


class CountsFile(Storage):
    """What the strategies of ``limits`` need to be told, from a SQLite file.

    Its methods raise sqlite3.Error.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._swept_at = clock()
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(
            file, isolation_level=None, timeout=_PATIENCE, check_same_thread=False
        )
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS counts"
            " (key TEXT PRIMARY KEY, count INTEGER NOT NULL, until REAL NOT NULL) WITHOUT ROWID"
        )

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        return sqlite3.Error

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add ``amount``; in a window of ``expiry`` seconds that begins now if none is open."""
        now = self._clock()
        with self._lock:
            if now - self._swept_at > _SWEEP_EVERY:
                self._swept_at = now
                self._connection.execute("DELETE FROM counts WHERE until <= ?", (now,))
            row = self._connection.execute(
                "INSERT INTO counts (key, count, until) VALUES (?1, ?2, ?3 + ?4)"
                " ON CONFLICT (key) DO UPDATE SET"
                " count = CASE WHEN until <= ?3 THEN ?2 ELSE count + ?2 END,"
                " until = CASE WHEN until <= ?3 THEN ?3 + ?4 ELSE until END"
                " RETURNING count",
                (key, amount, now, expiry),
            ).fetchone()
        return int(row[0])

    def get(self, key: str) -> int:
        """What was counted in the window that is open; 0: there is none."""
        found = self._found("SELECT count FROM counts WHERE key = ? AND until > ?", key)
        return 0 if found is None else int(found)

    def get_expiry(self, key: str) -> float:
        """When the window that is open ends, in Unix seconds; now if there is none."""
        found = self._found("SELECT until FROM counts WHERE key = ? AND until > ?", key)
        return self._clock() if found is None else found

    def _found(self, statement: str, key: str) -> float | None:
        with self._lock:
            row = self._connection.execute(statement, (key, self._clock())).fetchone()
        return None if row is None else float(row[0])

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        with self._lock:
            return self._connection.execute("DELETE FROM counts").rowcount

    def clear(self, key: str) -> None:
        with self._lock:
            self._connection.execute("DELETE FROM counts WHERE key = ?", (key,))
