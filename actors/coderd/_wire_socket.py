"""The socket under a WebSocket: read in large pieces, used by two threads at once.

The WebSocket library makes the handshake: it asks its socket for a few bytes at a time and
knows no limit on the whole; :class:`Wire` stands between the two.  After that one thread
waits in ``receive``, and others send what the socket takes without waiting.

:class:`TlsWire` does the same for TLS, where one thread must not read while another writes:
OpenSSL allows one user of a connection at a time.  So the TLS socket never blocks; whoever
has to wait does so outside the lock, for the plain socket below to become ready.
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
        self._deadline = deadline
        self.handshake = bytearray()
        """What has been read; only while the handshake lasts."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    # -- for the library, while the handshake lasts

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end."""
        if self._at >= len(self._buffer):
            self._buffer = self._read(self._time_left())
            self._at = 0
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        self.handshake += data
        if len(self.handshake) > _MAX_HANDSHAKE:
            raise ValueError(f"an answer of more than {_MAX_HANDSHAKE} bytes")
        return data

    def send(self, data: bytes) -> int:
        """Send some of the bytes and say how many."""
        return self._write(data, self._time_left())

    def _time_left(self) -> float:
        # A limit on the whole, not on each read: a peer that drips one byte at a time must
        # not hold us.
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def close(self) -> None:
        """For the library, which closes after a refusal that still has to be read: nothing."""

    # -- and after it

    def established(self) -> None:
        """The handshake is over; from now on nothing is limited in time."""
        self.handshake.clear()
        self.sock.settimeout(None)

    def receive(self) -> bytes:
        """Wait for bytes; ``b""`` is the end."""
        data, self._buffer = self._buffer[self._at :], b""
        return data or self._read(None)

    def send_now(self, data: bytes) -> int:
        """Send as many of the bytes as can leave without waiting, and say how many."""
        try:
            # Not `send`, which gevent makes wait in spite of the flag.
            return self.sock.sendmsg((data,), (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def wait_to_send(self, timeout: float | None) -> None:
        """Wait until more may be sent.  Raises TimeoutError after ``timeout`` seconds."""
        self._wait(select.POLLOUT, timeout)

    def abort(self) -> None:
        """End both directions; whoever waits returns."""
        with contextlib.suppress(OSError):
            # Not a TLS socket's own shutdown, which takes the TLS state away under a reader.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def release(self) -> None:
        """Give the descriptor back; nobody may be using the wire any more."""
        self.sock.close()

    # -- the socket

    def _read(self, timeout: float | None) -> bytes:
        if timeout is not None:
            self.sock.settimeout(timeout)
        return self.sock.recv(_READ)

    def _write(self, data: bytes, timeout: float) -> int:
        self.sock.settimeout(timeout)
        return self.sock.send(data)

    def _wait(self, event: int, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self.sock.fileno(), event)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError("timed out")


class TlsWire(Wire):
    """A TLS socket that two threads may use."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__(sock, deadline)
        self._lock = threading.Lock()
        self._send_waits_for = select.POLLOUT
        sock.settimeout(0.0)

    def established(self) -> None:
        self.handshake.clear()

    def send_now(self, data: bytes) -> int:
        with self._lock:
            self._send_waits_for = select.POLLOUT
            try:
                # gevent's TLS socket says 0 where the standard library's says WantWrite.
                return self.sock.send(data)
            except ssl.SSLWantWriteError:
                return 0
            except ssl.SSLWantReadError:
                self._send_waits_for = select.POLLIN
                return 0

    def wait_to_send(self, timeout: float | None) -> None:
        self._wait(self._send_waits_for, timeout)

    def _read(self, timeout: float | None) -> bytes:
        return self._when_ready(partial(self.sock.recv, _READ), timeout)

    def _write(self, data: bytes, timeout: float) -> int:
        while not (sent := self.send_now(data)):
            self.wait_to_send(timeout)
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
