"""The client's end of a WebSocket: messages in, frames out."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from aigateway.actors.codec.websocket import Message, MessageReader, WrongMessage, close_frame
from aigateway.actors.upstream.duplex import duplex_of
from aigateway.http.request.inbound import Bodies, TooManyBodies

__all__ = ["SocketClient"]

READ_SIZE = 64 * 1024
TOO_SLOW = 1008
TRY_LATER = 1013
KEEPALIVE_IDLE = 60
"""Seconds of silence after which the kernel asks whether the client is still there."""
KEEPALIVE_EVERY = 15


class SocketClient:
    """A client's connection behind its handshake.

    One thread reads it, another one writes to it: see
    :mod:`aigateway.actors.providers.socket_session`.
    """

    def __init__(
        self, sock: socket.socket, ahead: bytes, *, limit: int, bodies: Bodies, timeout: float
    ) -> None:
        """``ahead`` was read already.  A message has at most ``limit`` bytes, which count among
        those of ``bodies`` until it is whole, and ``timeout`` seconds to come."""
        self._sock = sock
        self._duplex = duplex_of(sock)
        self._reader = MessageReader(masked=True, limit=limit)
        self._reader.feed(ahead)
        self._bodies = bodies
        self._timeout = timeout
        self._held = 0
        self._since = 0.0
        self._writing = threading.Lock()
        self._closed = False
        self._ended = threading.Event()
        self.sent = 0
        """Bytes."""
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY)

    # -- by the one who reads

    def read(self) -> Message | None:
        """The next message or control frame; None: the client has gone.

        Raises WrongMessage, with the code to close with.
        """
        while True:
            message = self._reader.next()
            if message is not None:
                self._hold(self._reader.held)
                return message
            try:
                data = self._duplex.recv(READ_SIZE)
            except (OSError, ValueError):
                return None
            if not data:
                return None
            self._reader.feed(data)
            self._hold(self._reader.held)

    def _hold(self, held: int) -> None:
        now = time.monotonic()
        if held <= self._held:
            self._bodies.release(self._held - held)
        else:
            if not self._held:
                self._since = now
            elif now - self._since > self._timeout:
                raise WrongMessage(f"a message was not there in {self._timeout:g} s", TOO_SLOW)
            try:
                self._bodies.hold(held - self._held)
            except TooManyBodies:
                raise WrongMessage("too many messages are being read", TRY_LATER) from None
        self._held = held

    def end(self) -> None:
        """Nobody reads any more."""
        self._bodies.release(self._held)
        self._held = 0
        self._ended.set()

    # -- by both

    def send(self, data: bytes) -> bool:
        """Send frames; False when the client has gone, or was told that it is over."""
        with self._writing:
            return not self._closed and self._send(data)

    def _send(self, data: bytes) -> bool:
        try:
            self._duplex.send_all(data)
        except (OSError, ValueError):
            # ValueError: another thread has closed a TLS socket.
            self._closed = True
            return False
        self.sent += len(data)
        return True

    def close(self, code: int | None, reason: str) -> None:
        """Say why it ends; the first time counts."""
        with self._writing:
            if not self._closed:
                self._send(close_frame(code, reason))
                self._closed = True

    def wait(self, seconds: float) -> bool:
        """Whether its reader has ended within so many seconds."""
        return self._ended.wait(seconds)

    def shut(self) -> None:
        """Break the connection: its reader wakes up."""
        with contextlib.suppress(OSError, ValueError):
            self._sock.shutdown(socket.SHUT_RDWR)
