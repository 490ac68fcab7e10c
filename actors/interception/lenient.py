"""Answers that are not quite what they say they are.

Labels are wrong at times, so the first bytes of an answer have the last word on what it is.
Some upstreams end their events with one line end instead of two.  They are recognised by two
``data`` lines in a row of which the first is a document of its own; from there on each ``data``
line ends a piece.  And proxies write lines into a stream that are no field of an event: a
message of theirs, a bare JSON document.  Each is a piece of its own, and kept: should the
stream end early, it may say why.
"""

from __future__ import annotations

import re

from aigateway.actors.codec.reading import is_json
from aigateway.actors.codec.sse import EVENT_LIMIT, EventReader
from aigateway.actors.interception.interface import Outcome
from aigateway.actors.interception.outcomes import outcome_of

__all__ = [
    "BARE",
    "FOREIGN_TYPES",
    "SNIFFED",
    "LenientReader",
    "Stray",
    "documents",
    "is_junk",
    "sniff",
]

BARE = tuple(bytes([each]) for each in b'{}[] \t"')
"""What a line of JSON begins with that stands in a stream without being an event's data."""
FOREIGN_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/xml", "text/xml"})
"""What proxies answer with, and no provider."""
SNIFFED = 1024
"""Bytes to look at.  If all of them are blank, the label is believed."""
_STREAM_STARTS = (b"event:", b"data:", b"id:", b"retry:", b":")
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_STRAY_LIMIT = 64 * 1024
"""Bytes of a stream kept that are no events of its API."""

_SHORT = 1024
"""Bytes that are searched faster again than with a note of how far they have been searched."""
_USUAL = (b"event:", b"data:", b":")
_NAMES = (b"event", b"data", b"id", b"retry")
_FIELD = re.compile(rb"(?:event|data|id|retry)?[:\r\n]")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DATA_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))data:([^\r\n]*)(?:\r\n|\n|\r)")
_NEXT_DATA = re.compile(rb"(?:\A|[\r\n])data:")


def sniff(head: bytes, *, labelled: bool) -> bool | None:
    """Whether a body that begins with ``head`` is an event stream.

    ``labelled`` says that its content type is an event stream's: then fields that no standard
    knows may come first.  ``None`` when more bytes are needed to tell.
    """
    if len(head) < len(_BOM) and _BOM.startswith(head):
        return None
    start = head.removeprefix(_BOM).lstrip(_BLANK)
    if not start:
        return labelled if len(head) >= SNIFFED else None
    if labelled and not start.startswith((b"{", b"[")):
        if any(line.startswith(_STREAM_STARTS) for line in start.splitlines()):
            return True
        return None if len(head) < SNIFFED else False
    if any(name.startswith(start) and name != start for name in _STREAM_STARTS):
        return None
    return start.startswith(_STREAM_STARTS)


class LenientReader(EventReader):
    """Cuts as :class:`EventReader` does, and what that would never cut."""

    __slots__ = ("_short",)

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        super().__init__(limit)
        self._short = min(_SHORT, limit)

    def _wait(self) -> list[bytes]:
        pending = self._pending
        # PERF: nearly all that waits is half an event, and short enough to be searched again.
        if len(pending) <= self._short and not (self._skipped or self._has_cr):
            named = pending.startswith(b"event:")
            if (named or pending.startswith(b"data:")) and pending.count(b"\ndata:") <= named:
                return []
        # ``_looked`` is -1 when it is one event, however many lines it has.
        if self._looked >= 0 and not self._skipped:
            if not pending.startswith(_USUAL) and is_junk(pending):
                if end := self._first_line():
                    junk = self._taken()
                    return [junk[:end], *self._cut(junk[end:])]
            elif not self.by_line and self._has_two_events():
                self.by_line = True
                return self._cut(self._taken())
        return super()._wait()

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

    def _end_of_line(self, buffer: bytes | bytearray, start: int) -> int:
        line = _DATA_LINE.search(buffer, start)
        return -1 if line is None else line.end()

    def _has_two_events(self) -> bool:
        """Whether what waits for a blank line holds the whole of one event and more."""
        pending = self._pending
        searched, self._looked = max(0, self._looked - len(b"\ndata:")), len(pending)
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
        first = _DATA_LINE.search(pending)
        if first is None or _NEXT_DATA.search(pending, first.end() - 1) is None:
            return False
        if _is_document(first[1]):
            return True
        # One event of several lines of data, as the standard has them.
        self._looked = -1
        return False


def _is_document(value: bytes) -> bool:
    """Whether the value of a ``data`` line is all that an event of some API tells."""
    value = value.strip()
    return value == b"[DONE]" or (value.startswith(b"{") and is_json(value))


def is_junk(start: bytes | bytearray) -> bool:
    """Whether bytes that begin a line begin no field of an event."""
    if not start or _FIELD.match(start):
        return False
    return not any(name.startswith(start) for name in _NAMES)


def documents(piece: bytes) -> list[bytes]:
    """The data of a piece that should have been several events; none when it is only one."""
    values = [line[1] for line in _DATA_LINE.finditer(piece)]
    return values if len(values) > 1 and all(map(_is_document, values)) else []


class Stray:
    """What came in a stream and is no event of its API, a line of its own each."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def note(self, data: bytes) -> None:
        """Keep this, if there is room."""
        if len(self._kept) + len(data) <= _STRAY_LIMIT:
            self._kept += data + b"\n"

    def note_lines(self, piece: bytes) -> None:
        """Keep those lines of a piece that are no field of an event."""
        for line in piece.splitlines():
            if is_junk(line):
                self.note(line)

    def outcome(self) -> Outcome | None:
        """The error that is told here, if one is."""
        whole = bytes(self._kept)
        # A document of several lines, or several documents: the last one counts.
        documents = [whole, *reversed(whole.splitlines())]
        told = (outcome_of(each) for each in documents if each[:1] in (b"{", b"["))
        return next(filter(None, told), None)
