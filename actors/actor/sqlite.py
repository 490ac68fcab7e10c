"""SQLite in an actor: a commit to a slow disk holds up that actor, and nobody else.

Where threads are greenlets, a call of SQLite stops all of them until it returns.  That is
microseconds, but on a disk in trouble seconds, for each commit.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from aigateway.actors.actor.aside import aside

__all__ = ["Connection", "commit"]

SLOW: Final = 0.05
"""Seconds that a commit takes on a slow disk."""
SLOW_FOR: Final = 60.0
"""Seconds for which a disk is taken for slow after such a commit, of any connection.

PERF: another thread costs 50 us, a quarter of what a small request costs here.  So a commit is
handed to one only then.
"""

_slow_until = 0.0


class Connection(sqlite3.Connection):
    """For ``sqlite3.connect(..., factory=Connection, check_same_thread=False)``: one that another
    thread may commit."""


def commit(connection: sqlite3.Connection) -> None:
    """End a transaction.  Raises what SQLite raises; other greenlets go on if it takes long."""
    global _slow_until
    began = time.monotonic()
    try:
        if began < _slow_until and isinstance(connection, Connection):
            aside(lambda: connection.execute("COMMIT"))
        else:
            connection.execute("COMMIT")
    finally:
        now = time.monotonic()
        if now - began >= SLOW:
            _slow_until = now + SLOW_FOR
