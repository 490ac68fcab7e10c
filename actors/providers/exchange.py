"""One HTTP/1.1 request and its answer on a kept-alive connection.

The parser is httptools; this file adds what a relay needs beside it: hand over whatever
has arrived in one piece, know whether the end of a body was proven (a length, a final
chunk) or only a closed connection, and know whether the connection is clean enough for
another request.

An exchange belongs to whoever holds it; only the holder may touch it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable

import httptools

from aigateway.actors.providers.errors import (
    AnswerTimeout,
    HeadCut,
    Quiet,
    SendFailed,
    UpstreamCut,
)

__all__ = ["Exchange", "UpstreamConnection", "request_head"]

READ_SIZE = 65536
"""Bytes read at once: what a busy stream's socket buffer holds, a small part of a worker."""
MAX_HEAD = 256 * 1024
"""Bytes of an answer's head before it is taken for an attack."""
JOIN_LIMIT = 16 * 1024
"""A body up to this size travels in the same packet as its head."""
_ESTABLISHED = 1  # TCP_ESTABLISHED, linux/include/net/tcp_states.h
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)


def request_head(method: str, target: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request in wire form.  Raises ValueError on bytes that could split it."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines.extend(f"{name}: {value}" for name, value in headers)
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header of the request contains a line break")
    return f"{text}\r\n\r\n".encode("latin-1")


class UpstreamConnection:
    """A connection to an upstream that carries one exchange after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.exchanges = 0

    def is_alive(self) -> bool:
        """Whether the peer has not closed it while it was idle, as far as can be seen.

        One system call that never blocks; where the platform does not tell, the answer is yes.
        """
        if _TCP_INFO is None:
            return True
        try:
            return self.sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _ESTABLISHED
        except OSError:
            return False

    def begin(self, head: bytes, body: bytes, *, bodiless_answer: bool = False) -> Exchange:
        """Send a request.  Raises SendFailed.  ``bodiless_answer``: the method was HEAD."""
        self.exchanges += 1
        try:
            if len(body) <= JOIN_LIMIT:
                self.sock.sendall(head + body)
            else:
                self.sock.sendall(head)
                self.sock.sendall(body)
        except OSError as ex:
            self.close()
            raise SendFailed(f"the upstream broke off while the request was sent: {ex}") from ex
        return Exchange(self, bodiless_answer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def shut(self) -> None:
        """Break the connection from outside; a reader that waits on it wakes up."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _Head:
    """What httptools calls while it parses one answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._reason: list[bytes] = []
        self._headers: list[tuple[str, str]] = []
        self.on_body = exchange._parts.append

    def on_status(self, reason: bytes) -> None:
        self._reason.append(reason)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        parser = exchange._parser
        status = parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            # An interim answer (100 Continue, 103 Early Hints): the real one follows.
            self._reason, self._headers = [], []
            return
        exchange.status = status
        exchange.reason = b"".join(self._reason).decode("latin-1")
        exchange.headers = self._headers
        exchange._keep_alive = parser.should_keep_alive()
        if exchange._bodiless:
            exchange.complete = True

    def on_message_complete(self) -> None:
        if self._exchange.status:
            self._exchange.complete = True


class Exchange:
    """An answer that is being read.  ``status`` is 0 until the head has arrived."""

    __slots__ = (
        "_bodiless",
        "_connection",
        "_keep_alive",
        "_parser",
        "_parts",
        "broken",
        "complete",
        "head_at",
        "headers",
        "last_data_at",
        "reason",
        "status",
    )

    def __init__(self, connection: UpstreamConnection, bodiless: bool) -> None:
        self._connection = connection
        self._bodiless = bodiless
        self._parts: list[bytes] = []
        self._keep_alive = False
        self.status = 0
        self.reason = ""
        self.headers: list[tuple[str, str]] = []
        self.complete = False
        """The end of the body was proven by its framing."""
        self.broken = False
        self.head_at = 0.0
        self.last_data_at = time.monotonic()
        self._parser = httptools.HttpResponseParser(_Head(self))

    def _has_head(self) -> bool:
        return self.status != 0

    def read_head(self, timeout: float) -> None:
        """Wait for the head.  Raises AnswerTimeout (after ``timeout`` seconds) or HeadCut."""
        sock = self._connection.sock
        deadline = time.monotonic() + timeout
        size = 0
        while not self._has_head():
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(left)
                data = sock.recv(READ_SIZE)
            except TimeoutError as ex:
                self.close()
                raise AnswerTimeout(f"the upstream gave no answer within {timeout:g} s") from ex
            except OSError as ex:
                self.close()
                raise HeadCut(f"the upstream broke off before its answer: {ex}") from ex
            size += len(data)
            if not data:
                self.close()
                raise HeadCut("the upstream closed the connection before its answer")
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as ex:
                if not self._has_head():
                    self.close()
                    raise HeadCut(f"the upstream's answer is no HTTP: {ex}") from ex
                self.broken = True
                break
            if size > MAX_HEAD and not self._has_head():
                self.close()
                raise HeadCut(f"the head of the upstream's answer is over {MAX_HEAD} bytes")
        self.head_at = self.last_data_at = time.monotonic()

    def set_quiet(self, seconds: float) -> None:
        """Let :meth:`read` raise Quiet after this many seconds without data."""
        self._connection.sock.settimeout(seconds)

    def read(self) -> bytes:
        """Whatever has arrived of the body, in one piece; empty at its end.

        Raises Quiet when nothing came for a while and UpstreamCut when the connection broke.
        After the end, ``complete`` says whether framing proved it.
        """
        parts = self._parts
        while True:
            if parts:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()
                return data
            if self.complete:
                return b""
            if self.broken:
                raise UpstreamCut("the framing of the upstream's answer is broken")
            try:
                arrived = self._connection.sock.recv(READ_SIZE)
            except TimeoutError as ex:
                raise Quiet from ex
            except OSError as ex:
                self.broken = True
                raise UpstreamCut(f"the upstream broke off: {ex}") from ex
            if not arrived:
                return self._closed()
            self.last_data_at = time.monotonic()
            try:
                self._parser.feed_data(arrived)
            except httptools.HttpParserError:
                # What was parsed before the fault is still good, or the fault is behind a
                # complete answer: the connection is not used again.
                self._keep_alive = False
                self.broken = True

    def _closed(self) -> bytes:
        self.broken = True
        names = {name.lower() for name, _ in self.headers}
        if "content-length" in names or "transfer-encoding" in names:
            raise UpstreamCut("the upstream closed the connection inside its answer")
        return b""

    @property
    def reusable(self) -> bool:
        """Whether the connection is clean: the answer was read to a proven end."""
        return self.complete and self._keep_alive and not self.broken and not self._parts

    @property
    def connection(self) -> UpstreamConnection:
        return self._connection

    def close(self) -> None:
        """Close the connection; nobody reads the rest."""
        self.broken = True
        self._connection.close()
