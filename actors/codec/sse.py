"""An incremental reader of server-sent events that keeps every byte.

The reader cuts a byte stream into *pieces*.  A piece is one whole event with the blank line
that ends it, or bytes that belong to no event (extra blank lines, comments between events,
the byte order mark).  Pieces are exact: joined, they are the stream, but for the event that
is still arriving (``tail`` bytes of it) and for events over the limit.

Lines end with LF, CRLF or CR, as the HTML standard says (section "Server-sent events",
"Parsing an event stream").  A CR at the end of a read ends its line at once: should an LF
follow, it is handed out as a piece of its own, which means nothing.

Not every upstream keeps to that, and a ``lenient`` reader cuts what the standard would never
cut.  Some end their events with one line end instead of two.  They
are recognised by two ``data`` lines in a row of which the first is a document of its own; from
there on each ``data`` line ends a piece.  And proxies write lines into a stream that are no
field of an event: a message of theirs, a bare JSON document.  Each is a piece of its own.
Labels are wrong at times too, so the first bytes of an answer have the last word on what it is
(:func:`sniff`).

Pieces with a meaning are the same however the bytes arrive.

Cutting is cheap and knows nothing of fields; :func:`parse_event` reads the fields of a piece
and is left to those who need them.
"""

from __future__ import annotations

import re

from aigateway.actors.codec.reading import is_json

__all__ = [
    "BARE",
    "BOM",
    "EVENT_LIMIT",
    "FOREIGN_TYPES",
    "IGNORABLE",
    "SNIFFED",
    "EventReader",
    "is_junk",
    "parse_event",
    "sniff",
]

EVENT_LIMIT = 32 * 1024 * 1024
"""Bytes of one event kept for reading.  A longer one passes unread.

The largest events known are the last ones of image generation: a few images in base64."""

LOST_HEAD = 1024
"""Bytes kept of the beginning of such an event: its name is there."""

IGNORABLE = re.compile(rb"(?:[\r\n]|:[^\r\n]*[\r\n])+")
"""Whole lines that are blank or comments."""

BOM = b"\xef\xbb\xbf"
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_OVERLAP = 3
"""A blank line and the end of the line before it span four bytes at most."""


BARE = tuple(bytes([each]) for each in b'{}[] \t"')
"""What a line of JSON begins with that stands in a stream without being an event's data."""
FOREIGN_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/xml", "text/xml"})
"""What proxies answer with, and no provider."""
SNIFFED = 1024
"""Bytes to look at.  If all of them are blank, the label is believed."""
_STREAM_STARTS = (b"event:", b"data:", b"id:", b"retry:", b":")
_LONGEST_START = max(map(len, _STREAM_STARTS))
_BLANK = b" \t\r\n"

_SHORT = 1024
"""Bytes that are searched faster again than with a note of how far they have been searched."""
_NAMED = (b"event:", b"data:")
_NAMES = (b"event", b"data", b"id", b"retry")
_FIELD = re.compile(rb"(?:event|data|id|retry)?[:\r\n]")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DATA_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))data:([^\r\n]*)(?:\r\n|\n|\r)")
_NEXT_DATA = re.compile(rb"(?:\A|[\r\n])data: ?[^\r\n ]")
"""A further line of data that says something: an empty one is not an event."""


class EventReader:
    """Cut a stream of server-sent events into pieces.

    ``overflowed`` is the beginning (``LOST_HEAD`` bytes) of the newest event if that went over
    ``limit`` bytes, so that no piece came of it; else it is empty.  A ``lenient`` reader takes
    events that end with one line end, and lines that are no field, for pieces of their own.
    """

    __slots__ = (
        "_after_cr",
        "_has_cr",
        "_lenient",
        "_limit",
        "_looked",
        "_pending",
        "_short",
        "_skipped",
        "_started",
        "by_line",
        "overflowed",
    )

    def __init__(self, limit: int = EVENT_LIMIT, *, lenient: bool = False) -> None:
        self._limit = limit
        self._lenient = lenient
        self._short = min(_SHORT, limit)
        self._pending = bytearray()
        self._skipped = 0
        self._started = False
        self._has_cr = False
        self._after_cr = False
        self._looked = 0
        """How far what waits has been searched for what is not an event, or several; -1: it is
        one."""
        self.by_line = False
        """Whether events end with one line end."""
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
            usual = _is_one_event(data) and not self.by_line
            return [data] if usual else self._cut(data)
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
        if len(head) < len(BOM) and BOM.startswith(head):
            self._pending[:] = head
            return []
        self._started = True
        self._pending.clear()
        if head.startswith(BOM):
            return [BOM, *self.feed(head[len(BOM) :])]
        return self.feed(head)

    def _continue(self, data: bytes) -> list[bytes]:
        pending = self._pending
        searched = 0 if self.by_line else max(0, len(pending) - _OVERLAP)
        pending += data
        end = self._end(pending, searched)
        if end < 0:
            return self._wait()
        buffer = self._taken()
        # PERF: mostly it is the end of all that has arrived.
        if end == len(buffer) and not (self._skipped or self.overflowed or self._has_cr):
            return [buffer] if _is_one_event(buffer) else self._cut(buffer)
        if self._skipped:
            self._skipped = 0
            return self._cut(buffer[self._end(buffer, 0) :])
        return self._cut(buffer)

    def _cut(self, buffer: bytes) -> list[bytes]:
        pieces = []
        start = 0
        while (end := self._end_of_piece(buffer, start)) > 0:
            pieces.append(buffer[start:end])
            start = end
        if self.overflowed and any(not IGNORABLE.fullmatch(piece) for piece in pieces):
            self.overflowed = b""
        if start < len(buffer):
            self._pending += memoryview(buffer)[start:]
            pieces += self._wait()
        return pieces

    def _wait(self) -> list[bytes]:
        """Keep the event that is still arriving, unless it is none, several or too large."""
        pending = self._pending
        # PERF: nearly all that waits is half an event, and short enough to be searched again.
        short = len(pending) <= self._short and not (self._skipped or self._has_cr)
        if short and _is_one_event(pending):
            return []
        # ``_looked`` is -1 when it is one event, however many lines it has.
        if self._lenient and self._looked >= 0 and not self._skipped:
            if ignored := IGNORABLE.match(pending):
                # Who reads an event may then look at how it begins.
                taken, end = self._taken(), ignored.end()
                return [taken[:end], *self._cut(taken[end:])]
            if not pending.startswith(_NAMED) and is_junk(pending):
                if end := self._first_line():
                    junk = self._taken()
                    return [junk[:end], *self._cut(junk[end:])]
            elif not self.by_line and self._has_two_events():
                self.by_line = True
                return self._cut(self._taken())
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

    def _end_of_piece(self, buffer: bytes, start: int) -> int:
        """Where the first piece from ``start`` on ends, or -1.

        It is where the piece would have ended had each byte come alone: what an answer is taken
        for must not depend on how it arrives.
        """
        end = self._end(buffer, start)
        if not self._lenient:
            return end
        named = buffer.startswith(b"event:", start)
        if not named and not buffer.startswith(b"data:", start):
            if ignored := IGNORABLE.match(buffer, start):
                return ignored.end()
            if is_junk(buffer[start : start + _LONGEST_START]):
                line = _LINE_END.search(buffer, start)
                return line.end() if line else -1
        if end < 0 or self.by_line:
            return end
        # PERF: nearly all have one line of data.
        usual = not self._has_cr and buffer.count(b"\ndata:", start, end) <= named
        if not usual and _are_two_events(buffer[start:end]):
            self.by_line = True
            return self._end(buffer, start)
        return end

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
        """The same where one line end ends an event, and so does a blank line without data."""
        line, blank = _DATA_LINE.search(buffer, start), _BLANK_LINE.search(buffer, start)
        return min((found.end() for found in (line, blank) if found), default=-1)

    def _taken(self) -> bytes:
        """All that waits, to be cut again."""
        taken = bytes(self._pending)
        self._pending.clear()
        self._looked = 0
        return taken

    def _first_line(self) -> int:
        """Where the first line that waits ends; 0 as long as it does not."""
        end = _LINE_END.search(self._pending, self._looked)
        self._looked = len(self._pending)
        return 0 if end is None else end.end()

    def _has_two_events(self) -> bool:
        """Whether what waits for a blank line holds the whole of one event and more."""
        pending = self._pending
        searched, self._looked = max(0, self._looked - len(b"\ndata: {")), len(pending)
        if self._has_cr:
            found = _NEXT_DATA.search(pending, searched) is not None
        else:
            at = pending.find(b"\ndata:", searched)
            if at >= 0 and pending.startswith(b"event:") and pending.find(b"\ndata:") == at:
                # PERF: that is the first one, behind the event's name.
                at = pending.find(b"\ndata:", at + 1)
            found = at >= 0
        if not found:
            return False
        first = _first_of_two(pending)
        if first is None:
            return False
        if _is_document(first):
            return True
        # One event of several lines of data, as the standard has them.
        self._looked = -1
        return False


def _is_one_event(piece: bytes | bytearray) -> bool:
    """Whether the piece is certainly one event, and not several; it may also be when this is false.

    Lines end with LF in it.
    """
    named = piece.startswith(b"event:")
    return (named or piece.startswith(b"data:")) and piece.count(b"\ndata:") <= named


def _are_two_events(piece: bytes) -> bool:
    """Whether the piece should have been several events: its first line of data is all of one."""
    first = _first_of_two(piece)
    return first is not None and _is_document(first)


def _first_of_two(piece: bytes | bytearray) -> bytes | None:
    """The value of the first ``data`` line, if another one follows."""
    first = _DATA_LINE.search(piece)
    if first is None or _NEXT_DATA.search(piece, first.end() - 1) is None:
        return None
    return bytes(first[1])


def _is_document(value: bytes) -> bool:
    """Whether the value of a ``data`` line is all that an event of some API tells."""
    value = value.strip()
    return value == b"[DONE]" or (value.startswith(b"{") and is_json(value))


def is_junk(start: bytes | bytearray) -> bool:
    """Whether bytes that begin a line begin no field of an event."""
    if not start or _FIELD.match(start):
        return False
    return not any(name.startswith(start) for name in _NAMES)


def sniff(head: bytes, *, labelled: bool) -> bool | None:
    """Whether a body that begins with ``head`` is an event stream.

    ``labelled`` says that its content type is an event stream's: then fields that no standard
    knows may come first.  ``None`` when more bytes are needed to tell.
    """
    if len(head) < len(BOM) and BOM.startswith(head):
        return None
    start = head.removeprefix(BOM).lstrip(_BLANK)
    if not start:
        return labelled if len(head) >= SNIFFED else None
    if labelled and not start.startswith((b"{", b"[")):
        if any(line.startswith(_STREAM_STARTS) for line in start.splitlines()):
            return True
        return None if len(head) < SNIFFED else False
    # PERF: nearly all that comes is longer than the longest of them, 2 us less for each answer.
    if len(start) < _LONGEST_START and any(
        name.startswith(start) and name != start for name in _STREAM_STARTS
    ):
        return None
    return start.startswith(_STREAM_STARTS)


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
