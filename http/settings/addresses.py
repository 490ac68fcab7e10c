"""Addresses to listen on: how they are reached from this machine, and waiting for those that a
gateway before this one may be about to let go.

The main process imports this: nothing here may import what gevent patches.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["reachable", "when_free"]

LET_GO_WAIT = 3.0
"""Seconds that an address may be in use.  What is left of a gateway whose main process was killed
lets go of it within one."""
LOOK = 0.05

T = TypeVar("T")


def reachable(address: str) -> str:
    """HOST:PORT by which what listens at one is called here: of all addresses it is one of them."""
    host, _, port = address.rpartition(":")
    named = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"{named}:{port}"


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
