"""The socket under a WebSocket: read in large pieces, used by two threads at once.

The WebSocket library asks its socket for a few bytes at a time and knows no limit on a
whole handshake; :class:`Wire` stands between the two.  :class:`TlsWire` does the same for
TLS, where one thread must not read while another writes: OpenSSL allows one user of a
connection at a time.  So the TLS socket never blocks; whoever has to wait does so outside
the lock, for the plain socket below to become ready.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

__all__ = ["TlsWire", "Wire", "wrap"]

_MAX_HANDSHAKE = 64 * 1024
_READ = 64 * 1024

T = TypeVar("T")


def wrap(sock: socket.socket, deadline: float) -> Wire:
    """Put a wire around a connected socket whose handshake must end by ``deadline``."""
    return (TlsWire if isinstance(sock, ssl.SSLSocket) else Wire)(sock, deadline)


class Wire:
    """A plain socket; whatever is not defined here goes to the socket itself."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self._buffer = b""
        self._at = 0
        self._deadline: float | None = deadline
        self.handshake = bytearray()
        """What has been read; only while the handshake lasts."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end."""
        if self._at >= len(self._buffer):
            self._buffer = self._read(self._time_left())
            self._at = 0
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        if self._deadline is not None:
            self.handshake += data
            if len(self.handshake) > _MAX_HANDSHAKE:
                raise ValueError(f"an answer of more than {_MAX_HANDSHAKE} bytes")
        return data

    def send(self, data: bytes) -> int:
        """Send some of the bytes and say how many."""
        return self._write(data, self._time_left())

    def _time_left(self) -> float | None:
        # A limit on the whole, not on each read: a peer that drips one byte at a time must
        # not hold us.
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def _read(self, timeout: float | None) -> bytes:
        self.sock.settimeout(timeout)
        return self.sock.recv(_READ)

    def _write(self, data: bytes, timeout: float | None) -> int:
        self.sock.settimeout(timeout)
        return self.sock.send(data)

    def established(self) -> None:
        """The handshake is over; from now on nothing is limited in time."""
        self._deadline = None
        self.handshake.clear()

    def end_by(self, deadline: float) -> None:
        """What is sent from now on must get through by ``deadline``."""
        self._deadline = deadline

    def close(self) -> None:
        """For the library, which closes after a refusal that still has to be read: nothing."""

    def abort(self) -> None:
        """End both directions; a blocked send or receive returns."""
        with contextlib.suppress(OSError):
            # Not a TLS socket's own shutdown, which takes the TLS state away under a reader.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def release(self) -> None:
        """Give the descriptor back; nobody may be using the wire any more."""
        self.sock.close()


class TlsWire(Wire):
    """A TLS socket that two threads may use."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__(sock, deadline)
        self._lock = threading.Lock()
        sock.settimeout(0.0)

    def _read(self, timeout: float | None) -> bytes:
        return self._when_ready(partial(self.sock.recv, _READ), timeout)

    def _write(self, data: bytes, timeout: float | None) -> int:
        # gevent's TLS socket says 0 where the standard library's says SSLWantWriteError.
        while not (sent := self._when_ready(partial(self.sock.send, data), timeout)):
            self._wait(select.POLLOUT, timeout)
        return sent

    def _when_ready(self, operation: Callable[[], T], timeout: float | None) -> T:
        while True:
            with self._lock:
                try:
                    return operation()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
            self._wait(event, timeout)

    def _wait(self, event: int, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self.sock.fileno(), event)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError("timed out")
