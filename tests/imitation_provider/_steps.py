"""What a scripted provider can do to a client, step by step.

A script is a sequence of steps (plain ``bytes`` stand for :class:`Send`).  The functions here
make the usual scripts; anything else is spelled out with the steps themselves.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias

import brotli
import zstandard
from attrs import field, frozen

__all__ = [
    "LAST_CHUNK",
    "Close",
    "Pairs",
    "Reset",
    "Send",
    "Stall",
    "Step",
    "Steps",
    "Tell",
    "WaitFor",
    "answer",
    "cut",
    "chunk",
    "encoded",
    "error",
    "event",
    "head",
    "pieces",
    "stream",
]

Pairs: TypeAlias = Sequence[tuple[str, str]]

LAST_CHUNK = b"0\r\n\r\n"


@frozen
class Send:
    """Hand ``data`` to the kernel in one call, without delay.

    Two sends may still reach the client as one read: put a :class:`WaitFor` between them when
    the boundary must be real.
    """

    data: bytes


@frozen
class WaitFor:
    """Go on when the test sets ``event``; give up (and say so at the end) after ``timeout`` s."""

    event: threading.Event
    timeout: float = 60.0


@frozen
class Tell:
    """Let the test know that the script got here."""

    event: threading.Event


@frozen
class Stall:
    """Stay silent until the client goes away, then set ``hangup``."""

    hangup: threading.Event = field(factory=threading.Event)


@frozen
class Close:
    """Close the connection in good order (FIN)."""


@frozen
class Reset:
    """Break the connection (RST): the client's next read or write fails."""


Step: TypeAlias = Send | WaitFor | Tell | Stall | Close | Reset | bytes
Steps: TypeAlias = Sequence[Step]


def head(status: int = 200, headers: Pairs = (), *, reason: str | None = None) -> bytes:
    """A response head with exactly these headers."""
    if reason is None:
        reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Custom"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding; ``data`` must not be empty."""
    assert data, "an empty chunk would end the body"
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event; ``data`` other than text becomes JSON."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    lines = [f"data: {line}" for line in text.split("\n")]
    if name is not None:
        lines.insert(0, f"event: {name}")
    return ("\n".join(lines) + "\n\n").encode()


def pieces(data: bytes, size: int) -> list[bytes]:
    """``data`` cut every ``size`` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def _compressor(encoding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """Functions that compress so that everything so far can be read, and that end the data."""
    if encoding in ("gzip", "deflate"):
        z = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        return lambda data: z.compress(data) + z.flush(zlib.Z_SYNC_FLUSH), z.flush
    if encoding == "br":
        b = brotli.Compressor()
        return lambda data: b.process(data) + b.flush(), b.finish
    if encoding == "zstd":
        s = zstandard.ZstdCompressor().compressobj()
        flush_block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        return lambda data: s.compress(data) + s.flush(flush_block), s.flush
    raise ValueError(f"unknown content coding {encoding!r}: use gzip, deflate, br or zstd")


def encoded(data: bytes, encoding: str) -> bytes:
    """``data`` in a content coding: gzip, deflate, br or zstd."""
    compress, end = _compressor(encoding)
    return compress(data) + end()


def answer(
    body: bytes | str | dict[str, Any] | list[Any],
    status: int = 200,
    headers: Pairs = (),
    *,
    content_type: str | None = "application/json",
    encoding: str | None = None,
    framing: str = "length",
) -> list[Step]:
    """A whole answer: ``framing`` is length, chunked, or close (ended by the closed connection)."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    fields = list(headers)
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    if encoding is not None:
        fields.append(("Content-Encoding", encoding))
        body = encoded(body, encoding)
    if framing == "length":
        return [Send(head(status, [*fields, ("Content-Length", str(len(body)))]) + body)]
    if framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
        chunks = chunk(body) if body else b""
        return [Send(head(status, fields) + chunks + LAST_CHUNK)]
    if framing == "close":
        return [Send(head(status, [*fields, ("Connection", "close")]) + body), Close()]
    raise ValueError(f"unknown framing {framing!r}: use length, chunked or close")


def error(
    status: int, body: dict[str, Any] | None = None, *, retry_after: str | None = None
) -> list[Step]:
    """An error answer, in Anthropic's shape unless a body is given."""
    if body is None:
        kinds = {429: "rate_limit_error", 529: "overloaded_error"}
        detail = {"type": kinds.get(status, "api_error"), "message": f"scripted {status}"}
        body = {"type": "error", "error": detail}
    headers = [] if retry_after is None else [("Retry-After", retry_after)]
    return answer(body, status, headers)


def stream(
    parts: Iterable[Step],
    status: int = 200,
    headers: Pairs = (),
    *,
    content_type: str | None = "text/event-stream; charset=utf-8",
    encoding: str | None = None,
    end: bool = True,
) -> list[Step]:
    """A chunked answer: each ``bytes`` part is one chunk and one send, steps come between them.

    With ``end`` false the final chunk is left out: follow with Close, Reset or Stall.
    """
    return list(_stream(parts, status, headers, content_type, encoding, end))


def cut(parts: Iterable[Step], how: Step | None = None) -> list[Step]:
    """A stream that breaks off after ``parts``: by a reset unless ``how`` says otherwise."""
    return [*stream(parts, end=False), Reset() if how is None else how]


def _stream(
    parts: Iterable[Step],
    status: int,
    headers: Pairs,
    content_type: str | None,
    encoding: str | None,
    end: bool,
) -> Iterator[Step]:
    fields = list(headers)
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    if encoding is not None:
        fields.append(("Content-Encoding", encoding))
    yield Send(head(status, [*fields, ("Transfer-Encoding", "chunked")]))
    compress, finish = _compressor(encoding) if encoding else (bytes, bytes)
    for part in parts:
        if isinstance(part, bytes):
            yield Send(chunk(compress(part)))
        else:
            yield part
    if end:
        rest = finish()
        yield Send((chunk(rest) if rest else b"") + LAST_CHUNK)
