"""gunicorn's response object, where WSGI has no word for what an answer needs.

``start_response`` is a method of that object; under another server the functions here do
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from gunicorn import util
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import Response

__all__ = ["GatewayResponse", "begin_anew", "close_behind", "keep_own_headers"]

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
    events 1.7 times (``python -m bench.own_parts``).
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
        if not self._is_plain(arg):
            super().write(arg)
            return
        head = b""
        if not self.headers_sent:
            head = self._head()
            self.headers_sent = True
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


def begin_anew(start_response: Any, status: str, headers: Sequence[tuple[str, str]]) -> bool:
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
