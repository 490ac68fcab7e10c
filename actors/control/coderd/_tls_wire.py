"""TLS between a wire and its socket.

PERF: coderd sends four TLS records per answer.  A TLS socket reads them one by one, with two
system calls for each; here TLS works in memory, on whatever the socket had to give.  That also
lets one thread wait for bytes while another sends some, which OpenSSL does not allow on one
TLS socket.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from aigateway.actors.control.coderd._wire_socket import Wire

__all__ = ["TlsContext", "TlsWire"]

_READ = 64 * 1024


class TlsContext:
    """What the WebSocket library takes for an ``ssl.SSLContext``."""

    def __init__(self, context: ssl.SSLContext, deadline: float) -> None:
        self._context = context
        self._deadline = deadline

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str, **_more: Any) -> TlsWire:
        """Make the TLS handshake.  Raises OSError."""
        wire = TlsWire(sock, self._deadline, self._context, server_hostname)
        wire.shake_hands()
        return wire


class TlsWire(Wire):
    """A wire whose bytes are encrypted on their way."""

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
