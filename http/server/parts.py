"""gunicorn with the gateway's request and response in the place of its own.

PERF: gunicorn reads headers line by line with half a dozen checks for each: that takes twice as
long, 7 % of a request's CPU more (``python -m bench run own-parts``).  Here one pass of a regular
expression does it where nothing about the headers is special.  Everything else, every error among
it, is gunicorn's: what :class:`GatewayRequest` does not recognise it leaves alone.

WSGI has no word for some of what an answer needs.  ``start_response`` is a method of gunicorn's
response object; under another server the functions here do nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

from gunicorn import util
from gunicorn.http import parser, wsgi
from gunicorn.http.body import MAX_READ_STEP, Body, ChunkedReader, LengthReader
from gunicorn.http.message import TOKEN_RE, Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import Response

from aigateway.actors.upstream.waiting import patient
from aigateway.http.request.inbound import Pace
from aigateway.http.server.wrong_protocol import begins_tls, note_tls

__all__ = [
    "GatewayRequest",
    "GatewayResponse",
    "GatewayUnreader",
    "begin_again",
    "close_behind",
    "keep_own_headers",
    "plain_headers",
    "use_own_parts",
]


_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE: Final = r"[^\x00-\x08\x0a-\x1f\x7f]*"
_FIELD = re.compile(rf"({_NAME}):({_VALUE})")
"""A whole line, without the old way of folding one; the grammar is that of RFC 9110, 5.5."""
_ACTED_UPON: Final = frozenset(
    {"EXPECT", "X-FORWARDED-PROTO", "X-FORWARDED-PROTOCOL", "X-FORWARDED-SSL"}
)
"""Headers that gunicorn acts upon when it reads them."""
_LINE: Final = ("method", "uri", "path", "query", "fragment", "version")
"""What a request line says."""
_KEPT_LINE: Final = 200
_KEPT_LINES: Final = 256
"""Length and number of the request lines that are remembered, in this process."""
_lines: dict[bytes, tuple[tuple[str, Any], ...]] = {}


class GatewayRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """A request that is read as gunicorn reads it, only quicker."""

    body: Any

    def parse_request_line(self, line_bytes: bytes) -> None:
        """Read method, target and version; a line that was read before is known."""
        known = _lines.get(line_bytes)
        if known is not None:
            for name, value in known:
                setattr(self, name, value)
            return
        super().parse_request_line(line_bytes)
        # A query may hold a secret, and is seldom the same twice.
        if len(line_bytes) <= _KEPT_LINE and b"?" not in line_bytes and len(_lines) < _KEPT_LINES:
            _lines[bytes(line_bytes)] = tuple((name, getattr(self, name)) for name in _LINE)

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:
        """The header lines in ``data`` as upper-case names and values, in order."""
        if not from_trailer and len(data) <= self.limit_request_field_size:
            headers = plain_headers(data)
            if (
                headers is not None
                and len(headers) <= self.limit_request_fields
                and self.cfg.header_map == "dangerous"
                and self._knows_schemes()
            ):
                return headers
        slowly: list[tuple[str, str]] = super().parse_headers(data, from_trailer)
        return slowly

    def set_body_reader(self) -> None:
        """Decide how the body is read: chunks are counted as soon as their size is known."""
        super().set_body_reader()
        reader = self.body.reader
        if isinstance(reader, ChunkedReader):
            self.body.reader = CountedChunks(self, self.unreader)
        elif isinstance(reader, LengthReader):
            self.body = MeasuredBody(reader)

    def _knows_schemes(self) -> bool:
        """Whether the headers that tell the scheme are those that are looked out for here."""
        return _ACTED_UPON.issuperset(self.cfg.secure_scheme_headers)


class MeasuredBody(Body):  # type: ignore[misc]  # gunicorn has no types
    """A body whose length is known, mostly read at once.

    PERF: gunicorn's own copies it into a buffer and out of it again, three times."""

    def read(self, size: int | None = None) -> bytes:
        """As a file does it."""
        left = self.reader.length
        if self.buf.tell() or (left and (size is None or not left <= size <= MAX_READ_STEP)):
            some: bytes = super().read(size)
            return some
        whole: bytes = self._read_reader(left) if left else b""
        return whole


class CountedChunks(ChunkedReader):  # type: ignore[misc]  # gunicorn has no types
    """Chunks of which too large a one is refused by its size, not once its bytes are there."""

    def parse_chunk_size(self, unreader: Any, data: bytes | None = None) -> tuple[int, Any]:
        """The next chunk's size, and what has come of it.  Raises BodyTooLarge."""
        size, rest = super().parse_chunk_size(unreader, data)
        # Only the gateway's own unreader knows the limit, while it reads a body.
        if (pace := getattr(unreader, "pace", None)) is not None:
            pace.announce(size)
        return size, rest


def plain_headers(data: bytes) -> list[tuple[str, str]] | None:
    """Header lines without the last line's end, or None when anything about them is special."""
    text = data.decode("latin-1")
    found = _FIELD.findall(text)
    # What does not give the same text again has something between the fields, or around them.
    if not found or "\r\n".join([f"{name}:{value}" for name, value in found]) != text:
        return None
    headers = [(name.upper(), value.strip(" \t")) for name, value in found]
    names = [name for name, _ in headers]
    if not _ACTED_UPON.isdisjoint(names) or names.count("HOST") > 1:
        return None
    return headers if names.count("CONTENT-TYPE") <= 1 else None


OWNED = frozenset({"server", "date"})
"""Headers that gunicorn writes itself and takes from no application."""
_JOINED_UP_TO: Final = 64 * 1024
"""Bytes of a body's first piece up to which copying it is cheaper than a second system call."""
_BODYLESS: Final = frozenset({204, 304})
_SPECIAL: Final = frozenset({"content-length", *util.hop_headers})
"""Headers that gunicorn acts upon, or leaves out."""


class GatewayResponse(Response):  # type: ignore[misc]  # gunicorn has no types
    """A response whose head leaves together with the first piece of the body.

    PERF: each write is a system call that wakes the client, and the client of a head without
    a body can do nothing yet.  And gevent's ``sendall`` asks for the size of the socket's
    buffer each time, so what ``send`` takes at once, nearly always all, goes that way.  A
    blocking answer takes 1.6 times as long without, 4 to 5 % of a request's CPU, a stream of ten
    events 1.7 times (``python -m bench run own-parts``).
    """

    headers_sent: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own: dict[str, tuple[str, str]] = {}
        """Relayed headers to be sent in the place of gunicorn's, by lower-case name."""

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Take headers as gunicorn does; those that are nothing special at once."""
        for name, value in headers:
            if _is_plain_name(name) and value.isascii() and value.isprintable():
                self.headers.append((name, value.strip()))
            else:
                super().process_headers([(name, value)])

    def write(self, arg: bytes) -> None:
        """Send a piece of the body, and the head if it is the first one."""
        if self.headers_sent and self.chunked and arg:
            # PERF: the next piece of a stream, at three calls less.
            self.sent += len(arg)
            data = b"%X\r\n%b\r\n" % (len(arg), arg)
            if (sent := self.sock.send(data)) < len(data):
                self.sock.sendall(memoryview(data)[sent:])
            return
        if not self._is_plain(arg):
            super().write(arg)
            return
        head = b""
        if not self.headers_sent:
            head = self._head()
            self.headers_sent = True
            # The rest of the answer may take long.
            self.headers.clear()
            if len(arg) > _JOINED_UP_TO:
                self._send(head)
                head = b""
        self.sent += len(arg)
        if self.chunked:
            self._send(b"".join((head, b"%X\r\n" % len(arg), arg, b"\r\n")))
        else:
            self._send(head + arg if head else arg)

    def _is_plain(self, piece: bytes) -> bool:
        """Whether the piece is to be sent whole, as nearly all are."""
        if not piece or self.status_code < 200 or self.status_code in _BODYLESS:
            return False
        length = self.response_length
        return self.req.method != "HEAD" and (length is None or self.sent + len(piece) <= length)

    def _send(self, data: bytes) -> None:
        sent = self.sock.send(data)
        if sent < len(data):
            self.sock.sendall(memoryview(data)[sent:])

    def _head(self) -> bytes:
        lines = self.default_headers()
        lines.extend([f"{name}: {value}\r\n" for name, value in self.headers])
        lines.append("\r\n")
        return "".join(lines).encode("latin-1")

    def default_headers(self) -> list[str]:
        """The status line and gunicorn's own headers, or what was relayed in their place."""
        if self.upgrade:
            lines: list[str] = super().default_headers()
            return lines
        major, minor = self.req.version
        server, date = self.own.get("server"), self.own.get("date")
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"{server[0]}: {server[1]}\r\n" if server else f"Server: {self.version}\r\n",
            f"{date[0]}: {date[1]}\r\n" if date else _date_line(int(time.time())),
            f"Connection: {'close' if self.should_close() else 'keep-alive'}\r\n",
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines


# PERF: the same names stand in every answer.
@lru_cache(maxsize=256)
def _is_plain_name(name: str) -> bool:
    """Whether gunicorn takes a header of this name, and does nothing about it."""
    return bool(TOKEN_RE.fullmatch(name)) and name.lower() not in _SPECIAL


_dated = (0, "")


def _date_line(second: int) -> str:
    global _dated
    if _dated[0] != second:
        _dated = second, f"Date: {util.http_date(second)}\r\n"
    return _dated[1]


def close_behind(start_response: Any) -> None:
    """Close the connection behind this answer: WSGI servers own the Connection header."""
    response = getattr(start_response, "__self__", None)
    force_close = getattr(response, "force_close", None)
    if force_close is not None:
        force_close()


def keep_own_headers(start_response: Any, headers: Sequence[tuple[str, str]]) -> None:
    """Send a relayed Server or Date in the place of gunicorn's, which drops them otherwise."""
    response = getattr(start_response, "__self__", None)
    if isinstance(response, GatewayResponse):
        for name, value in headers:
            if name.lower() in OWNED:
                response.own[name.lower()] = (name, value)


def begin_again(start_response: Any, status: str, headers: Sequence[tuple[str, str]]) -> bool:
    """Replace a head that was begun but not sent yet; False where that cannot be done."""
    response = getattr(start_response, "__self__", None)
    if not isinstance(response, GatewayResponse) or response.headers_sent:
        return False
    response.own.clear()
    response.headers.clear()
    response.response_length = None
    response.force_close()
    # What stands in the place of an exception lets a head be set a second time.
    start_response(status, list(headers), (None, None, None))
    return True


def use_own_parts(config: Any) -> None:
    """Have gunicorn make them from now on, in this process: it has no setting for that.

    PERF: ``config`` looks each setting up in two steps, a dozen times for each request; in a
    process that serves they do not change any more, so they become plain attributes.  That is
    2 to 3 % of a request's CPU, an errors wrapper kept half a percent
    (``python -m bench run own-parts``).
    """
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})
    wsgi.Response = GatewayResponse
    # What an application may write errors to: it asks logging for its outputs each time.
    wsgi.WSGIErrorsWrapper = cache(wsgi.WSGIErrorsWrapper)
    RequestParser.mesg_class = GatewayRequest
    parser.SocketUnreader = GatewayUnreader


class GatewayUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads from a client: with patience, and a request's body at its pace."""

    def __init__(self, sock: Any) -> None:
        super().__init__(patient(sock))
        self._plain = sock
        self._begun = False
        self.pace: Pace | None = None
        """Of the body that is being read."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.pace is None:
            data: bytes = super().chunk(size_hint)
            if not self._begun:
                self._begun = True
                if begins_tls(data):
                    note_tls(self._plain)
                    # As if it had left: it understands nothing that could be said.
                    return b""
            return data
        size = max(self.mxchunk, min(size_hint or 0, self.max_body_chunk))
        return self.pace.receive(self._plain, size)
