"""Whether a spool is full."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from aigateway.actors.recorder.parcels import Parcel
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
        self._unchecked = CHECK_BYTES
        self.full = False

    def written(self, parcels: Sequence[Parcel]) -> None:
        """So much more is in it."""
        for parcel in parcels:
            self._unchecked += parcel.size

    def check(self, spool: Spool) -> None:
        """Look, if there is a reason to.  Raises SpoolError."""
        if self._unchecked < min(CHECK_BYTES, self._limit // 10) and not self.full:
            return
        self._unchecked = 0
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
