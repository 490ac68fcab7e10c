"""Addresses to listen on that a gateway before this one may be about to let go.

The main process imports this: nothing here may import what gevent patches.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["when_free"]

LET_GO_WAIT = 3.0
"""Seconds that an address may be in use.  What is left of a gateway whose main process was killed
lets go of it within one."""
LOOK = 0.05

T = TypeVar("T")


def when_free(bind: Callable[[], T], say: Callable[[], None] = lambda: None) -> T:
    """What ``bind`` returns, tried again for a moment while it finds its address in use.

    ``say`` is called once if that happens.  Raises whatever else ``bind`` raises, and its OSError
    when the address stays in use.
    """
    until = time.monotonic() + LET_GO_WAIT
    told = False
    while True:
        try:
            return bind()
        except OSError as ex:
            if ex.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
        if not told:
            told = True
            say()
        time.sleep(LOOK)
