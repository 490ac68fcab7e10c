"""An incremental reader of server-sent events that keeps every byte.

The reader cuts a byte stream into *pieces*.  A piece is one whole event with the blank line
that ends it, or bytes that belong to no event (extra blank lines, comments between events,
the byte order mark).  Pieces are exact: joined, they are the stream, but for the event that
is still arriving (``tail`` bytes of it) and for events over the limit.

Lines end with LF, CRLF or CR, as the HTML standard says (section "Server-sent events",
"Parsing an event stream").  A CR at the end of a read ends its line at once: should an LF
follow, it is handed out as a piece of its own, which means nothing.

Cutting is cheap and knows nothing of fields; :func:`parse_event` reads the fields of a piece
and is left to those who need them.
"""

from __future__ import annotations

import re

__all__ = ["EVENT_LIMIT", "IGNORABLE", "EventReader", "parse_event"]

EVENT_LIMIT = 32 * 1024 * 1024
"""Bytes of one event kept for reading.  A longer one passes unread.

The largest events known are the last ones of image generation: a few images in base64."""

LOST_HEAD = 1024
"""Bytes kept of the beginning of such an event: its name is there."""

IGNORABLE = re.compile(rb"(?:[\r\n]|:[^\r\n]*[\r\n])+")
"""Whole lines that are blank or comments."""

_BOM = b"\xef\xbb\xbf"
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_OVERLAP = 3
"""A blank line and the end of the line before it span four bytes at most."""


class EventReader:
    """Cut a stream of server-sent events into pieces.

    ``overflowed`` is the beginning (``LOST_HEAD`` bytes) of the newest event if that went over
    ``limit`` bytes, so that no piece came of it; else it is empty.
    """

    __slots__ = (
        "_after_cr",
        "_has_cr",
        "_limit",
        "_looked",
        "_pending",
        "_skipped",
        "_started",
        "by_line",
        "overflowed",
    )

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._skipped = 0
        self._started = False
        self._has_cr = False
        self._after_cr = False
        self._looked = 0
        """How far what waits has been searched by a subclass that looks into it."""
        self.by_line = False
        """A subclass has found that events end with one line end."""
        self.overflowed = b""

    @property
    def tail(self) -> int:
        """How many bytes have been received of the event that is still arriving."""
        return self._skipped + len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, return the pieces they completed."""
        if not self._started:
            return self._start(data)
        if self._has_cr or b"\r" in data:
            self._has_cr = True
            if self._after_cr and data:
                self._after_cr = False
                if data.startswith(b"\n"):
                    return [b"\n", *self.feed(data[1:])]
            pieces = self._continue(data) if self._pending else self._cut(data)
            self._after_cr = data.endswith(b"\r") and not self._pending
            return pieces
        if self._pending:
            return self._continue(data)
        # PERF: nearly every read is exactly one event.
        if data.find(b"\n\n") == len(data) - 2 and len(data) > 2 and not self.overflowed:
            return [data]
        return self._cut(data)

    def flush(self) -> bytes:
        """Return, at the end of the stream, the event that no blank line ended."""
        rest = b"" if self._skipped else bytes(self._pending)
        self._skipped = 0
        self._looked = 0
        self._pending.clear()
        return rest

    def _start(self, data: bytes) -> list[bytes]:
        head = bytes(self._pending) + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._pending[:] = head
            return []
        self._started = True
        self._pending.clear()
        if head.startswith(_BOM):
            return [_BOM, *self.feed(head[len(_BOM) :])]
        return self.feed(head)

    def _continue(self, data: bytes) -> list[bytes]:
        pending = self._pending
        searched = 0 if self.by_line else max(0, len(pending) - _OVERLAP)
        pending += data
        end = self._end(pending, searched)
        if end < 0:
            return self._wait()
        buffer = bytes(pending)
        pending.clear()
        self._looked = 0
        # PERF: mostly it is the end of all that has arrived.
        if end == len(buffer) and not (self._skipped or self.overflowed):
            return [buffer]
        if self._skipped:
            self._skipped = 0
            return self._cut(buffer[self._end(buffer, 0) :])
        return self._cut(buffer)

    def _cut(self, buffer: bytes) -> list[bytes]:
        pieces = []
        start = 0
        while (end := self._end(buffer, start)) > 0:
            pieces.append(buffer[start:end])
            start = end
        if self.overflowed and any(not IGNORABLE.fullmatch(piece) for piece in pieces):
            self.overflowed = b""
        if start < len(buffer):
            self._pending += memoryview(buffer)[start:]
            pieces += self._wait()
        return pieces

    def _wait(self) -> list[bytes]:
        """Keep the event that is still arriving, unless it is none or too large."""
        pending = self._pending
        if not self._skipped and pending[0] in b":\r\n" and IGNORABLE.fullmatch(pending):
            piece = bytes(pending)
            pending.clear()
            return [piece]
        if len(pending) > self._limit:
            if not self._skipped:
                self.overflowed = bytes(memoryview(pending)[:LOST_HEAD])
            self._skipped += len(pending) - _OVERLAP
            del pending[:-_OVERLAP]
        return []

    def _end(self, buffer: bytes | bytearray, start: int) -> int:
        """Where the first event from ``start`` on ends, behind its blank line, or -1."""
        if self.by_line:
            return self._end_of_line(buffer, start)
        if not self._has_cr:
            found = buffer.find(b"\n\n", start)
            return -1 if found < 0 else found + 2
        match = _BLANK_LINE.search(buffer, start)
        return -1 if match is None else match.end()

    def _end_of_line(self, buffer: bytes | bytearray, start: int) -> int:
        """The same where one line end ends an event."""
        raise NotImplementedError


def parse_event(piece: bytes) -> tuple[bytes, bytes]:
    """Read the event name and the data of a piece; both empty when it has none.

    Several ``data`` lines are joined with LF.  ``id``, ``retry`` and unknown fields are
    left out, nobody here needs them.
    """
    name = b""
    data: bytes | None = None
    for line in piece.splitlines():
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            data = value if data is None else data + b"\n" + value
        elif line.startswith(b"event:"):
            name = line[7:] if line.startswith(b"event: ") else line[6:]
        elif line == b"data":
            data = b"" if data is None else data + b"\n"
        elif line == b"event":
            name = b""
    return name, data or b""
