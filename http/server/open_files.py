"""How many files this process may have open, and what happens when there are no more.

Each client and each connection to a provider is one, and many systems begin with 1,024.
"""

from __future__ import annotations

import errno
import resource

import structlog

__all__ = ["OUT_OF_FILES", "PAUSE", "raise_limit"]

OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What accepting a connection fails with when nobody is to blame for it but the limit."""
PAUSE = 0.25
"""Seconds in which no connection is taken then; they wait in the listener's queue."""

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
