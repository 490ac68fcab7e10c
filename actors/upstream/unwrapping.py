"""A plain socket in front of a connection that speaks TLS.

Through a proxy that is spoken to by TLS there is TLS within TLS, which no socket of Python's does,
and what waits for an upstream waits on descriptors: bytes that an outer layer has decrypted
already would go unnoticed there.  So a thread (a greenlet, where sockets belong to these) carries
the bytes between the outer layer and one end of a pair of sockets; the holder of the other end sees
a connection like any other.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from typing import Final

from aigateway.actors.upstream.sending import SEND_PATIENCE

__all__ = ["unwrapped"]

_SIZE: Final = 64 * 1024
"""Bytes carried at once, in either direction; while they wait, no more are read."""
_NOTHING: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def unwrapped(outer: ssl.SSLSocket) -> socket.socket:
    """A socket whose bytes go through ``outer``, which belongs to the carrier from now on.

    When either is closed, so is the other, after what was on its way.
    """
    inner, carried = socket.socketpair()
    outer.setblocking(False)
    carried.setblocking(False)
    threading.Thread(target=_carry, args=(outer, carried), name="tls-proxy", daemon=True).start()
    return inner


def _carry(outer: ssl.SSLSocket, inner: socket.socket) -> None:
    with outer, inner, contextlib.suppress(OSError):
        out, back = _Way(inner, outer), _Way(outer, inner)
        while not (out.over or back.over):
            moved = out.move()
            if back.move() or moved:
                continue
            poll = select.poll()
            for sock, reads, writes in ((outer, back, out), (inner, out, back)):
                events = 0 if reads.waiting else select.POLLIN
                if writes.waiting:
                    events |= select.POLLOUT
                if events:
                    poll.register(sock.fileno(), events)
            # A proxy that takes nothing any more is not told from one that is slow; what has a
            # limit of its own has closed its end by then, which cannot be seen from here.
            ready = poll.poll(SEND_PATIENCE * 1000 if out.waiting else None)
            if not ready:
                return


class _Way:
    """One direction."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source, self._target = source, target
        self.waiting = b""
        """Read, and not taken yet."""
        self.over = False
        """The source has ended, and the target has all of it."""

    def move(self) -> bool:
        """Carry what can be carried without waiting; says whether that was anything."""
        try:
            if not self.waiting:
                self.waiting = self._source.recv(_SIZE)
                self.over = not self.waiting
                return True
            sent = self._target.send(self.waiting)
        except _NOTHING:
            return False
        self.waiting = self.waiting[sent:]
        return bool(sent)
