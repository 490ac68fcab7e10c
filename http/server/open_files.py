"""How many files this process may have open, and what happens when there are no more.

Each client and each connection to a provider is one, and many systems begin with 1,024.
"""

from __future__ import annotations

import errno
import resource
import time

import structlog

__all__ = ["OUT_OF_FILES", "PAUSE", "FileShortage", "raise_limit"]

OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What accepting a connection fails with when nobody is to blame for it but the limit."""
PAUSE = 0.25
"""Seconds in which no connection is taken then; they wait in the listener's queue."""
REMIND = 60.0
"""Seconds between log lines about it."""

log = structlog.get_logger("ai-gateway")


def raise_limit(connections: int) -> None:
    """Allow this process, and with it its workers, as many files as the system lets it have.

    ``connections`` is how many clients a worker serves; each may need a connection to a
    provider too.  A limit that is too low for that is logged.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as ex:
            log.warning("the limit of open files stays as it is", limit=soft, error=str(ex))
    needed = 2 * connections
    if soft != resource.RLIM_INFINITY and soft < needed:
        log.warning(
            "the limit of open files is too low for --worker-connections",
            limit=soft,
            needed=needed,
            worker_connections=connections,
        )


class FileShortage:
    """Says once in a while that there are no more files, and when there are again."""

    def __init__(self) -> None:
        self._since = 0.0
        self._said_at = -REMIND

    def met(self, error: OSError) -> None:
        """A connection could not be taken."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._said_at >= REMIND:
            self._said_at = now
            log.error(
                "out of files, connections wait until others end",
                error=error.strerror,
                limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )

    def over(self) -> None:
        """A connection was taken."""
        if self._since:
            log.info("connections are taken again", after_s=round(time.monotonic() - self._since))
            self._since = 0.0
