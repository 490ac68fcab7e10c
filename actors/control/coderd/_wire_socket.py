"""The connection under a WebSocket: read in large pieces, used by several threads at once.

While the handshake lasts it is what the WebSocket library takes for its connected socket: the
library asks for one byte at a time and knows no limit on the whole.  After that one thread
waits in ``receive``, and others send what the socket takes without waiting.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time

from aigateway.actors.upstream.waiting import time_left

__all__ = ["TlsWire", "Wire"]

_MAX_HANDSHAKE = 64 * 1024
_READ = 64 * 1024


class Wire:
    """A connection without TLS.  The handshake must end by ``deadline`` (monotonic time)."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self._buffer = b""
        self._at = 0
        self._deadline = deadline
        self.handshake = bytearray()
        """What has been read; only while the handshake lasts."""
        self._lock = threading.Lock()
        """Never held while waiting."""
        self._unsent = b""

    # -- a socket, while the handshake lasts

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
        """Send the bytes and say how many."""
        self.send_now(data)
        self.flush(self._deadline)
        return len(data)

    def _time_left(self) -> float:
        # A limit on the whole, not on each read: a peer that drips one byte at a time must
        # not hold us.
        return time_left(self._deadline)

    def gettimeout(self) -> float:
        """Seconds that are left."""
        return max(self._deadline - time.monotonic(), 0.001)

    def settimeout(self, _seconds: float | None) -> None:
        """Nothing: the deadline holds for all of it."""

    def close(self) -> None:
        """Nothing: the library closes after a refusal that still has to be read."""

    def replayed(self) -> Wire:
        """Itself, from the first byte of the handshake on."""
        self._buffer = bytes(self.handshake) + self._buffer[self._at :]
        self._at = 0
        self.handshake.clear()
        return self

    # -- and after it

    def established(self) -> None:
        """The handshake is over; from now on reading is not limited in time."""
        self.handshake.clear()
        self.sock.settimeout(None)

    def receive(self) -> bytes:
        """Wait for bytes; ``b""`` is the end."""
        data, self._buffer = self._buffer[self._at :], b""
        return data or self._read(None)

    def send_now(self, data: bytes) -> bool:
        """Send as much as can leave without waiting, and say whether that is all.

        The rest stays here: more is sent behind it, or it is flushed.
        """
        with self._lock:
            self._unsent = self._unsent + data if self._unsent else data
            return self._push()

    def flush(self, deadline: float | None) -> None:
        """Send what has stayed here, by ``deadline`` (TimeoutError) or however long it takes."""
        while not self.send_now(b""):
            poll = select.poll()
            poll.register(self.sock.fileno(), select.POLLOUT)
            poll.poll(None if deadline is None else time_left(deadline) * 1000)

    def discard(self) -> None:
        """Have the kernel forget what was sent and has not left, when the wire is released."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def end(self) -> None:
        """End both directions: the one who waits returns, and receives what had arrived."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Give the descriptor back; nobody may be using the wire any more."""
        self.sock.close()

    # -- the socket

    def _read(self, timeout: float | None) -> bytes:
        if timeout is not None:
            self.sock.settimeout(timeout)
        return self.sock.recv(_READ)

    def _push(self) -> bool:
        """Send what can leave, with the lock held; say whether that is all."""
        if self._unsent:
            try:
                # Not `send`, which gevent makes wait in spite of the flag.
                sent = self.sock.sendmsg((self._unsent,), (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return not self._unsent


class TlsWire(Wire):
    """A wire whose bytes are encrypted on their way.

    PERF: coderd sends four TLS records per answer.  A TLS socket reads them one by one, with two
    system calls for each; here TLS works in memory, on whatever the socket had to give.  That
    also lets one thread wait for bytes while another sends some, which OpenSSL does not allow on
    one TLS socket.
    """

    def __init__(
        self, sock: socket.socket, deadline: float, context: ssl.SSLContext, hostname: str
    ) -> None:
        super().__init__(sock, deadline)
        self._arrived = ssl.MemoryBIO()
        self._leaving = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=hostname)
        self._ended = False

    def shake_hands(self) -> None:
        """Make the TLS handshake.  Raises OSError."""
        while not self._try_to_shake_hands():
            if data := super()._read(self._time_left()):
                self._arrived.write(data)
            else:
                self._arrived.write_eof()

    def _try_to_shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            # Also when it has failed: the peer is told why.
            self.flush(self._deadline)
        return True

    def send_now(self, data: bytes) -> bool:
        with self._lock:
            rest = memoryview(data)
            while rest:
                # One record at a time.
                rest = rest[self._tls.write(rest) :]
            return self._push()

    def _push(self) -> bool:
        self._unsent += self._leaving.read()
        return super()._push()

    def _read(self, timeout: float | None) -> bytes:
        while not self._ended:
            if self._arrived.pending:
                with self._lock:
                    data = self._decrypt()
                    # TLS may have an answer of its own to what has arrived.  Whether it can be
                    # sent is for those to find out who send.
                    with contextlib.suppress(OSError):
                        self._push()
                if data:
                    return data
            elif arrived := super()._read(timeout):
                self._arrived.write(arrived)
            else:
                self._ended = True
        return b""

    def _decrypt(self) -> bytes:
        """Read every record that has arrived as a whole."""
        pieces = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self._tls.read(_READ):
                pieces.append(piece)
            self._ended = True
        return b"".join(pieces)
