"""One watch over all silent answers, where sockets belong to greenlets.

With gevent a receive that has a timeout makes and cancels a timer each time, which is a
third of what relaying an event costs.  So a long wait has no timer: one loop for the whole
process looks through the answers that are being read, once a second, and interrupts those
that have been silent for too long.

With plain threads a timeout costs nothing, and nothing here is used.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Protocol
from weakref import WeakSet

__all__ = ["SHORTEST", "Watched", "watch"]

TICK = 1.0
"""Seconds between two looks."""
SHORTEST = 5.0
"""Seconds of silence from which on a look each ``TICK`` is exact enough.  A shorter one is waited
for with a timer, as one is with plain threads."""


class Watched(Protocol):
    """A connection on which somebody may be waiting."""

    sock: Any
    waiting_since: float
    """When the wait began (monotonic time), infinity when nobody waits for long."""
    patience: float
    """Seconds after which the wait is interrupted."""


def watch(reader: Watched) -> None:
    """Interrupt ``reader`` with a TimeoutError whenever its patience is over.

    Ends by itself when the reader is gone.
    """
    _READERS.add(reader)
    if not _looking:
        _start()


_READERS: WeakSet[Watched] = WeakSet()
_START = threading.Lock()
_looking = False
"""Whether this process has the loop."""


def _start() -> None:
    global _looking
    with _START:
        if not _looking:
            threading.Thread(target=_look, name="silence", daemon=True).start()
            _looking = True


def _forget() -> None:
    """In a child process: a fork takes no thread along."""
    global _looking
    _looking = False


os.register_at_fork(after_in_child=_forget)


def _look() -> None:
    pause = threading.Event()
    while True:
        pause.wait(TICK)
        now = time.monotonic()
        for reader in list(_READERS):
            if now - reader.waiting_since >= reader.patience:
                sock = reader.sock
                # Nothing happens unless a greenlet is waiting there right now.
                sock.hub.cancel_wait(sock._read_event, TimeoutError("timed out"))
