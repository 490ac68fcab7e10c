"""Whether a spool is full."""

from __future__ import annotations

import structlog

from aigateway.actors.recorder.spool import Spool

__all__ = ["Gauge"]

CHECK_BYTES = 1 << 20
"""Written bytes after which the size is looked at again."""
ROOM_AGAIN = 0.9
"""Part of the limit below which a full spool counts as having room again."""

log = structlog.get_logger("ai-gateway.recorder")


class Gauge:
    """Watches the size of a spool; ``limit`` in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._checked = -CHECK_BYTES
        self.full = False

    def check(self, spool: Spool, written: int) -> None:
        """Look, if enough was ``written`` since the last time.  Raises SpoolError."""
        if written - self._checked < min(CHECK_BYTES, self._limit // 10) and not self.full:
            return
        self._checked = written
        size = spool.size()
        if not self.full and size >= self._limit:
            self.full = True
            log.error(
                "the record spool is full: new interceptions are refused",
                records=spool.depth,
                dead_letters=spool.dead_letters,
                limit_bytes=self._limit,
            )
        elif self.full and size < self._limit * ROOM_AGAIN:
            self.full = False
            log.info("the record spool has room again", records=spool.depth)
