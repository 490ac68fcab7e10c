"""What a worker is short of: while it is, the next connections wait, and that is said."""

from __future__ import annotations

import resource
import time

import structlog

from aigateway.actors.values.reminder import Reminder

__all__ = ["FileShortage", "FullHouse"]

log = structlog.get_logger("ai-gateway")


class _Shortage:
    """Since when there is one, and when to say so."""

    def __init__(self) -> None:
        self._since = 0.0
        self._reminder = Reminder()

    def _goes_on(self) -> bool:
        """There is one now; whether to say so."""
        now = time.monotonic()
        self._since = self._since or now
        return self._reminder.is_due(now)

    def over(self) -> None:
        """A connection can be taken."""
        if self._since:
            log.info("connections are taken again", after_s=round(time.monotonic() - self._since))
            self._since = 0.0


class FileShortage(_Shortage):
    """Says once in a while that there are no more files, and when there are again."""

    def met(self, error: OSError) -> None:
        """A connection could not be taken."""
        if self._goes_on():
            log.error(
                "out of files, connections wait until others end",
                error=error.strerror,
                limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )


class FullHouse(_Shortage):
    """Whether a worker takes no connection because it has ``--worker-connections`` of them."""

    def __init__(self, connections: int) -> None:
        super().__init__()
        self._connections = connections

    @property
    def full(self) -> bool:
        """As of the last :meth:`look`."""
        return bool(self._since)

    def look(self, full: bool) -> None:
        """Once a second or so: say that it is full, once in a while, and that it is no more."""
        if not full:
            self.over()
        elif self._goes_on():
            log.warning(
                "a worker has as many connections as it may, the next ones wait until others end",
                worker_connections=self._connections,
            )
