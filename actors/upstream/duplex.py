"""A connection that one thread reads while another one writes.

With greenlets any socket will do.  With threads a TLS socket will not: OpenSSL does not bear two
threads in one connection.  So here nobody waits inside of the socket: it never blocks, it is
touched under a lock only, and waiting is done outside.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from aigateway.actors.upstream.sending import SEND_PATIENCE
from aigateway.actors.upstream.waiting import is_cooperative, patient

__all__ = ["Duplex", "duplex_of"]

T = TypeVar("T")


class Duplex(Protocol):
    """What is read by one and written by others, who take turns by themselves."""

    patience: float
    """Seconds that :meth:`recv` waits; only with threads."""

    def recv(self, size: int, /) -> bytes:
        """Whatever has arrived; raises TimeoutError, and what a socket raises."""

    def send_all(self, data: bytes) -> None:
        """Send all of it; raises OSError."""


def duplex_of(sock: socket.socket) -> Duplex:
    """The connection of ``sock``, which nobody else touches from here on."""
    return _OfGreenlets(sock) if is_cooperative(sock) else _OfThreads(sock)


class _OfGreenlets:
    """A socket that waits with the event loop; how long, others watch (:mod:`.silence`)."""

    __slots__ = ("_incoming", "_sock", "patience")

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        self._sock = sock
        self._incoming = patient(sock)
        self.patience = math.inf

    def recv(self, size: int, /) -> bytes:
        return self._incoming.recv(size)

    def send_all(self, data: bytes) -> None:
        # PERF: `sendall` asks for the size of the socket's buffer each time.
        sent = self._sock.send(data)
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])


class _OfThreads:
    __slots__ = ("_lock", "_sock", "patience")

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0.0)
        self._sock = sock
        self._lock = threading.Lock()
        self.patience = math.inf

    def recv(self, size: int, /) -> bytes:
        return self._until(partial(self._sock.recv, size), select.POLLIN, self.patience)

    def send_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            sent = self._until(partial(self._sock.send, rest), select.POLLOUT, SEND_PATIENCE)
            rest = rest[sent:]

    def _until(self, attempt: Callable[[], T], event: int, patience: float) -> T:
        deadline = time.monotonic() + patience
        while True:
            wanted = event
            with self._lock:
                try:
                    return attempt()
                except ssl.SSLWantWriteError:
                    wanted = select.POLLOUT
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except BlockingIOError:
                    pass
                fd = self._sock.fileno()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            poll = select.poll()
            poll.register(fd, wanted)
            poll.poll(None if left == math.inf else left * 1000)
