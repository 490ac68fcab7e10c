"""Waiting for bytes before they are read, where sockets belong to greenlets.

PERF: a cooperative socket reads first and waits when there is nothing.  Of an answer that was
just asked for, of the next event of a stream, of a client's next request there is nothing
yet, so the first try is a system call and an exception for nothing.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = [
    "Looking",
    "Receiver",
    "is_cooperative",
    "looking_at",
    "patient",
    "time_left",
    "waiter_for",
]


def time_left(deadline: float) -> float:
    """Seconds until ``deadline``; raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def is_cooperative(sock: object) -> bool:
    """Whether ``sock`` belongs to greenlets: who waits on it waits with the event loop."""
    return hasattr(sock, "_read_event") and hasattr(sock, "hub")


class Looking(Protocol):
    """Of ``select``, where that was not made to wait with the event loop."""

    def poll(self, milliseconds: int, /) -> list[tuple[int, int]]:
        """What there is to be read, which may be that the peer has closed."""


def looking_at(sock: socket.socket) -> Looking:
    """What tells at any time whether ``sock``, which belongs to greenlets, has anything to say.

    Not for longer than the socket is open: it knows only its descriptor.
    """
    from gevent import monkey

    looking: select.poll = monkey.get_original("select", "poll")()
    looking.register(sock, select.POLLIN)
    return looking


def waiter_for(sock: socket.socket) -> Callable[[], object] | None:
    """What waits until ``sock`` can be read, for as long as that takes; None when reading is
    to wait by itself: with plain threads, and under TLS, which may hold bytes already.

    The waiter raises OSError when the socket is closed, also when that happens meanwhile.
    """
    if not is_cooperative(sock) or hasattr(sock, "_sslobj"):
        return None
    theirs: Any = sock  # gevent says nothing of types
    wait = theirs.hub.wait

    def wait_for_bytes() -> None:
        # It is gone once the socket is closed: the event loop aborts the process when it is
        # to wait for a descriptor that is none any more.
        event = theirs._read_event
        if event is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        wait(event)

    return wait_for_bytes


def patient(sock: socket.socket) -> Receiver:
    """What to receive from instead of ``sock``, which it is itself when reading is to wait."""
    wait = waiter_for(sock)
    return sock if wait is None else _Patient(sock, wait)


class Receiver(Protocol):
    """A socket, as far as receiving goes."""

    def recv(self, size: int, /) -> bytes:
        """Whatever has arrived, up to ``size`` bytes; what a socket raises."""


class _Patient:
    """Waits before it receives, unless there was so much that there may be more."""

    __slots__ = ("_more", "_sock", "_wait")

    def __init__(self, sock: socket.socket, wait: Callable[[], object]) -> None:
        self._sock = sock
        self._wait = wait
        self._more = False

    def recv(self, size: int, /) -> bytes:
        sock = self._sock
        # The waiter knows nothing of timeouts.
        if not self._more and sock.timeout is None:
            self._wait()
        data = sock.recv(size)
        self._more = len(data) == size
        return data
