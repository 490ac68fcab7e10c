"""As many connections as a worker may have: the next ones wait, and that is said."""

from __future__ import annotations

import time

import structlog

__all__ = ["FullHouse"]

REMIND = 60.0
"""Seconds between log lines about it."""

log = structlog.get_logger("ai-gateway")


class FullHouse:
    """Whether a worker takes no connection because it has ``--worker-connections`` of them."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._since = 0.0
        self._said_at = -REMIND

    @property
    def full(self) -> bool:
        """As of the last :meth:`look`."""
        return bool(self._since)

    def look(self, full: bool) -> None:
        """Once a second or so: say that it is full, once in a while, and that it is no more."""
        now = time.monotonic()
        if not full:
            if self._since:
                log.info("connections are taken again", after_s=round(now - self._since))
            self._since = 0.0
            return
        self._since = self._since or now
        if now - self._said_at >= REMIND:
            self._said_at = now
            log.warning(
                "a worker has as many connections as it may, the next ones wait until others end",
                worker_connections=self._connections,
            )
