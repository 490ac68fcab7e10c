"""Waiting for bytes before they are read, where sockets belong to greenlets.

PERF: a cooperative socket reads first and waits when there is nothing.  Of an answer that was
just asked for, of the next event of a stream, of a client's next request there is nothing
yet, so the first try is a system call and an exception for nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

__all__ = ["waiter_for"]


def waiter_for(sock: Any) -> Callable[[], object] | None:
    """What waits until ``sock`` can be read, for as long as that takes; None when reading is
    to wait by itself: with plain threads, and under TLS, which may hold bytes already.

    The waiter raises OSError when the socket is closed, also when that happens meanwhile.
    """
    if not hasattr(sock, "_read_event") or not hasattr(sock, "hub") or hasattr(sock, "_sslobj"):
        return None
    wait = sock.hub.wait

    def wait_for_bytes() -> None:
        # It is gone once the socket is closed: the event loop aborts the process when it is
        # to wait for a descriptor that is none any more.
        event = sock._read_event
        if event is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        wait(event)

    return wait_for_bytes
