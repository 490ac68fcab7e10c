"""One HTTP/1.1 request and its answer on a kept-alive connection.

The parser is httptools; this file adds what a relay needs beside it: hand over whatever
has arrived in one piece, know whether the end of a body was proven (a length, a final
chunk) or only a closed connection, and know whether the connection is clean enough for
another request.

An exchange belongs to its holder; only the holder may touch it.  Given back, it is
detached: it can do nothing any more to the connection, which may carry another by then.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import re
import socket
import termios
import time
from collections.abc import Iterable
from typing import Protocol

import httptools

from aigateway.actors.codec.headers import HeaderList, Headers
from aigateway.actors.upstream import silence
from aigateway.actors.upstream.duplex import Duplex, duplex_of
from aigateway.actors.upstream.errors import (
    AnswerTimeout,
    BadHead,
    ClosedUnanswered,
    GatewayEnds,
    HeadCut,
    Quiet,
    SendFailed,
    UpstreamCut,
    UpstreamError,
)
from aigateway.actors.upstream.sending import READ_SIZE, send_request
from aigateway.actors.upstream.waiting import (
    Looking,
    Receiver,
    is_cooperative,
    looking_at,
    patient,
)

__all__ = [
    "MAX_HEAD",
    "SWITCHED",
    "TURN",
    "AnswerCopy",
    "Exchange",
    "UpstreamConnection",
    "idle_limit",
    "request_head",
]

SWITCHED = 101
"""The status behind which a connection speaks another protocol."""
MAX_HEAD = 256 * 1024
"""Bytes of an answer's head, interim answers included, before it is taken for an attack."""
IDLE_LIMIT = 14.0
"""Seconds that a connection may have been idle and still be used again.  Servers and proxies
close idle ones after 15 s or more, and one that is being closed takes a request along."""
_KEEP_ALIVE_TIMEOUT = re.compile(r"(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,6})", re.IGNORECASE)
_ESTABLISHED = 1  # TCP_ESTABLISHED, linux/include/net/tcp_states.h
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_NO_BYTES = bytes(4)


def request_head(method: str, target: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request in wire form.

    Header text holds one character for each byte.  Raises ValueError, which names no value,
    for bytes that could split the request and for other characters.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines.extend([f"{name}: {value}" for name, value in headers])
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    if text.count("\n") != breaks or text.count("\r") != breaks or "\0" in text:
        raise ValueError("a header of the request contains a line break or a NUL")
    try:
        return f"{text}\r\n\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("a header of the request contains characters above 255") from None


TURN = 0.002
"""Seconds of work on one answer after which other requests have their turn."""
_WAIT = 0.0002
"""Seconds from which on a read counts as one that has waited, and so has given way."""
_NEXT_TURN = 1e-9
"""Seconds of sleep that let everybody on.  With 0 gevent resumes the sleeper up to a thousand times
before it looks who else may read or write; a timer that is due at once waits for that look."""


class AnswerCopy(Protocol):
    """Is shown an answer's body as it is read."""

    def data(self, data: bytes) -> None:
        """This was read."""

    def close(self) -> None:
        """Nothing more is read."""


class UpstreamConnection:
    """A connection to an upstream that carries one exchange after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming: Receiver = patient(sock)
        self.duplex: Duplex | None = None
        """Once it was switched."""
        self.cooperative = is_cooperative(sock)
        self._looking: Looking | None = None
        self.exchanges = 0
        self.idle_until = math.inf
        """Monotonic time from which on it is not used again."""
        self.waiting_since = math.inf
        """When its exchange began to wait for more; infinity: nobody waits."""
        self.patience = math.inf
        """Seconds after which the watch over silence ends that wait."""
        self._watched = False

    def watch(self) -> None:
        """Have the watch over silence know it.  PERF: once, not for each of its exchanges."""
        if not self._watched:
            self._watched = True
            silence.watch(self)

    def is_alive(self) -> bool:
        """Whether it can carry another request, as far as can be seen without waiting.

        It must not have been idle for long, and the peer must not have closed it, nor said
        anything that nobody asked for: that would be taken for the next answer.  Where the
        platform does not tell, the answer is yes.
        """
        sock = self.sock
        if time.monotonic() >= self.idle_until:
            return False
        try:
            if self.cooperative:
                if self._looking is None:
                    self._looking = looking_at(sock)
                # PERF: one system call and no exception, where peeking raises one each time.
                return sock.fileno() >= 0 and not self._looking.poll(0)
            if _TCP_INFO is not None and sock.family != socket.AF_UNIX:
                state = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0]
                if state != _ESTABLISHED:
                    return False
            return fcntl.ioctl(sock.fileno(), termios.FIONREAD, _NO_BYTES) == _NO_BYTES
        except (OSError, ValueError):
            return False

    def begin(
        self, head: bytes, body: bytes, *, bodiless_answer: bool = False, upgrade: bool = False
    ) -> Exchange:
        """Send a request.  Raises NotSent or SendFailed.

        ``bodiless_answer``: the method was HEAD.  ``upgrade``: another protocol was asked for.
        An answer that came before all was sent is in the exchange already.
        """
        self.exchanges += 1
        exchange = Exchange(self, bodiless_answer, upgrade)
        try:
            if not send_request(self.sock, head, body, exchange._receive_early):
                exchange._keep_alive = False
                if not exchange.touched:
                    raise ClosedUnanswered("the upstream broke off while the request was sent")
                if not exchange.status:
                    raise SendFailed("the upstream broke off while the request was sent")
        except SendFailed:
            self.close()
            raise
        return exchange

    def switch(self) -> None:
        """Another protocol is spoken from here on, in both directions at once."""
        self.incoming = self.duplex = duplex_of(self.sock)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    def shut(self) -> None:
        """Break the connection from outside; a reader that waits on it wakes up."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _Misplaced(Exception):
    """Something came where nothing may come."""


class _Head:
    """What httptools calls while it parses one answer."""

    __slots__ = ("_exchange", "_headers", "_reason", "on_body")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._reason: list[bytes] = []
        self._headers: list[tuple[str, str]] = []
        self.on_body = exchange._spoil if exchange._bodiless else exchange._parts.append

    def on_message_begin(self) -> None:
        if self._exchange.complete:
            # A second answer to one request.
            self._exchange._keep_alive = False
            raise _Misplaced

    def on_status(self, reason: bytes) -> None:
        self._reason.append(reason)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        parser = exchange._parser
        status = parser.get_status_code()
        if status < 200:
            if status == SWITCHED and exchange._upgrade:
                exchange.reason = b"".join(self._reason).decode("latin-1")
                exchange.headers = HeaderList(self._headers)
                exchange._keep_alive = False
                exchange.status = status
                exchange._connection.switch()
                return
            if status < 100 or status == SWITCHED:
                raise _Misplaced
            # An interim answer (100 Continue, 103 Early Hints): the real one follows.
            self._reason, self._headers = [], []
            return
        exchange.reason = b"".join(self._reason).decode("latin-1")
        exchange.headers = HeaderList(self._headers)
        # Trailers are not part of the head that was handed over.
        self._headers = []
        exchange._keep_alive = exchange._keep_alive and parser.should_keep_alive()
        exchange.status = status
        if exchange._bodiless:
            exchange._end()

    def on_message_complete(self) -> None:
        if self._exchange.status and not self._exchange.switched:
            self._exchange._end()


class Exchange:
    """An answer that is being read.  ``status`` is 0 until the head has arrived."""

    __slots__ = (
        "__weakref__",
        "_bodiless",
        "_closed_well",
        "_connection",
        "_fault",
        "_framed",
        "_idle_limit",
        "_interrupted",
        "_keep_alive",
        "_parser",
        "_parts",
        "_turn_began",
        "_upgrade",
        "broken",
        "complete",
        "copy",
        "detached",
        "head_at",
        "headers",
        "last_data_at",
        "reason",
        "reused",
        "status",
        "touched",
    )

    def __init__(
        self, connection: UpstreamConnection, bodiless: bool, upgrade: bool = False
    ) -> None:
        self._connection = connection
        self._bodiless = bodiless
        self._upgrade = upgrade
        self._parts: list[bytes] = []
        self._keep_alive = True
        self._closed_well = False
        self._fault = ""
        self._interrupted = ""
        connection.patience = connection.waiting_since = math.inf
        self._turn_began = 0.0
        self.status = 0
        self.reason = ""
        self.headers: Headers = ()
        self._framed: bool | None = None
        """What headers that are forgotten said of the body's end, and below of the connection's."""
        self._idle_limit: float | None = None
        self.complete = False
        """The end of the body was proven by its framing."""
        self.broken = False
        """Nothing more can be read than what was read already."""
        self.detached = False
        """It was given back."""
        self.copy: AnswerCopy | None = None
        self.reused = connection.exchanges > 1
        """The connection had carried another exchange before."""
        self.touched = False
        """Some byte of an answer has come."""
        self.head_at = 0.0
        self.last_data_at = time.monotonic()
        self._parser = httptools.HttpResponseParser(_Head(self))

    def read_head(self, timeout: float) -> None:
        """Wait for the head.  Raises AnswerTimeout (after ``timeout`` seconds) or HeadCut."""
        try:
            self._read_head(timeout)
        except UpstreamError:
            self.close()
            raise
        self.head_at = self.last_data_at = time.monotonic()

    def _read_head(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        size = 0
        while not self.status:
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self.set_quiet(left)
                data = self._receive()
            except TimeoutError as ex:
                raise AnswerTimeout(f"the upstream gave no answer within {timeout:g} s") from ex
            except (OSError, ValueError) as ex:
                cut = HeadCut if self.touched else ClosedUnanswered
                raise cut(f"the upstream broke off before its answer: {_text_of(ex)}") from ex
            size += len(data)
            if not data:
                cut = HeadCut if self.touched else ClosedUnanswered
                raise cut("the upstream closed the connection before its answer")
            self._feed(data)
            if self.broken and not self.status:
                raise BadHead(f"the upstream's answer is not HTTP: {self._fault}")
            if size > MAX_HEAD and not self.status:
                raise BadHead(f"the head of the upstream's answer is over {MAX_HEAD} bytes")

    def set_quiet(self, seconds: float) -> None:
        """Let :meth:`read` raise Quiet after about this many seconds without data; after
        infinity, never."""
        connection = self._connection
        sock = connection.sock
        if connection.cooperative and seconds >= silence.SHORTEST:
            if connection.patience == math.inf:
                connection.watch()
                sock.settimeout(None)
            connection.patience = seconds
        else:
            connection.patience = math.inf
            duplex = connection.duplex
            if duplex is not None and not connection.cooperative:
                duplex.patience = seconds
                return
            sock.settimeout(None if seconds == math.inf else seconds)

    def read(self) -> bytes:
        """Whatever has arrived of the body, in one piece; empty at its end.

        Raises Quiet when nothing came for a while, UpstreamCut when the connection broke, and
        GatewayEnds after :meth:`interrupt`.  After the end, ``complete`` says whether framing
        proved it.
        """
        parts = self._parts
        while True:
            if parts:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()
                if self.copy is not None:
                    self.copy.data(data)
                return data
            if self.complete:
                return b""
            if self._interrupted:
                raise self._cut("")
            if self._closed_well:
                return b""
            if self.broken:
                raise UpstreamCut("the framing of the upstream's answer is broken")
            connection = self._connection
            began = connection.waiting_since = time.monotonic()
            try:
                arrived = connection.incoming.recv(READ_SIZE)
            except TimeoutError as ex:
                raise Quiet from ex
            except (OSError, ValueError) as ex:
                # ValueError: another thread has closed a TLS socket.
                raise self._cut(f"the upstream broke off: {_text_of(ex)}") from ex
            if not arrived:
                return self._closed()
            now = self.last_data_at = time.monotonic()
            if now - began > _WAIT:
                self._turn_began = now
            elif now - self._turn_began > TURN:
                # While there is something to read and room to write, neither waits, and nobody else
                # has a turn.
                time.sleep(_NEXT_TURN)
                self._turn_began = time.monotonic()
            if self.status == SWITCHED:
                return arrived
            self._feed(arrived)

    @property
    def switched(self) -> bool:
        """Whether the connection speaks another protocol from here on, by which it has no end
        but that of the connection: :meth:`read` returns its bytes, and :meth:`send`, which another
        thread may call meanwhile, takes them."""
        return self.status == SWITCHED

    def send(self, data: bytes) -> None:
        """Send bytes on a connection that has switched.  Raises UpstreamCut."""
        duplex = self._connection.duplex
        assert duplex is not None
        try:
            duplex.send_all(data)
        except (OSError, ValueError) as ex:
            raise self._cut(f"the upstream took no more: {_text_of(ex)}") from ex

    def _receive(self) -> bytes:
        connection = self._connection
        connection.waiting_since = time.monotonic()
        return connection.incoming.recv(READ_SIZE)

    def _feed(self, data: bytes) -> None:
        self.touched = self.touched or bool(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as ex:
            if self.switched:
                # What follows the head is of the other protocol.
                self.unread(data[ex.args[0] :])
                return
            self._spoiled(ex)
        except httptools.HttpParserError as ex:
            self._spoiled(ex)

    def _spoiled(self, ex: Exception) -> None:
        # What was parsed before the fault is still good, or the fault is behind a
        # complete answer: the connection is not used again.
        self._keep_alive = False
        self.broken = True
        self._fault = str(ex)

    def _end(self) -> None:
        self.complete = True
        limit = self._idle_limit
        if limit is None:
            limit = idle_limit(self.headers)
        self._connection.idle_until = time.monotonic() + limit

    def _receive_early(self, data: bytes) -> bool:
        """Take what came while the request was sent; an error means: send no more."""
        self._feed(data)
        return self.status >= 300 or self.broken

    def _spoil(self, _data: bytes) -> None:
        self._keep_alive = False

    def _cut(self, text: str) -> UpstreamCut:
        self.broken = True
        return GatewayEnds(self._interrupted) if self._interrupted else UpstreamCut(text)

    def _closed(self) -> bytes:
        self.broken = True
        if self._interrupted:
            raise GatewayEnds(self._interrupted)
        if _is_framed(self.headers) if self._framed is None else self._framed:
            raise UpstreamCut("the upstream closed the connection inside its answer")
        self._closed_well = True
        return b""

    def forget_headers(self) -> None:
        """Nobody reads them any more, and the answer may take long."""
        if not self.complete:
            self._framed = _is_framed(self.headers)
            self._idle_limit = idle_limit(self.headers)
            self.headers = ()

    def unread(self, data: bytes) -> None:
        """Let :meth:`read` return this next: what it returned before, perhaps edited."""
        if data:
            self._parts.insert(0, data)

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
        if not self.detached:
            self._connection.close()
            if self.copy is not None:
                self.copy.close()

    def interrupt(self, reason: str) -> None:
        """From outside: the reader, now or next, gets GatewayEnds with this text.

        The one method that may be called by somebody who does not hold the exchange.  What
        has arrived already can still be read.
        """
        if not self.detached:
            self._interrupted = reason
            self._connection.shut()

    def detach(self) -> None:
        """The holder is done: from now on the connection is none of this exchange's business."""
        if self.detached:
            return
        self.detached = True
        self._connection.waiting_since = math.inf
        if self.copy is not None:
            self.copy.close()
        # The parser knows the exchange: without this only the garbage collector would end them.
        del self._parser


def _is_framed(headers: Headers) -> bool:
    """Whether they tell where the body ends."""
    for name, value in headers:
        name = name.lower()
        if name == "content-length" or (name == "transfer-encoding" and "chunked" in value.lower()):
            return True
    return False


def idle_limit(headers: Iterable[tuple[str, str]]) -> float:
    """Seconds after which a connection is not used again, by the headers of its last answer:
    a bit less than what ``Keep-Alive: timeout=`` says, else :data:`IDLE_LIMIT`."""
    for name, value in headers:
        if name.lower() == "keep-alive" and (found := _KEEP_ALIVE_TIMEOUT.search(value)):
            told = float(found[1])
            return told - min(max(1.0, told / 10), told / 2)
    return IDLE_LIMIT


def _text_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
