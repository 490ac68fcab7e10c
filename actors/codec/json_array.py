"""An incremental reader of one JSON array, for APIs that stream their answer as one.

It cuts the bytes of an array into *pieces*, each of which ends with one element, an object or an
array, and begins with what separates that from the one before: a bracket, a comma, blanks.
Pieces are exact: joined, they are the stream, but for what has not ended yet (``tail`` bytes)
and for elements over the limit.

The bracket that closes the array is never part of a piece.  Who relays an array can so keep it
back until it is certain that the array is whole; :attr:`ArrayReader.closed` says that it is there.

The reader looks at quotes and brackets only.  Whether an element is JSON is for its reader to say.
"""

from __future__ import annotations

import re

from aigateway.actors.codec.sse import BOM, EVENT_LIMIT, SNIFFED

__all__ = ["ArrayReader", "begins_array", "element_of"]

_STRUCTURE = re.compile(rb'["\[\]{}]')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_OPENING = b"[{"
_BLANK = b" \t\r\n"
_BEFORE_ELEMENT = BOM + _BLANK + b",["


class ArrayReader:
    """Cut an array that arrives in reads of any size into pieces."""

    __slots__ = ("_at", "_depth", "_in_string", "_limit", "_over", "_pending", "_skipped", "closed")

    by_line = False
    overflowed = b""

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        """Of an element of more than ``limit`` bytes no piece comes."""
        self._limit = limit
        self._pending = bytearray()
        self._skipped = 0
        self._at = 0
        """How far what waits has been looked at."""
        self._depth = 0
        self._in_string = False
        self._over = False
        self.closed = False
        """The array's closing bracket has come."""

    @property
    def tail(self) -> int:
        """How many bytes have come that belong to no element that has ended."""
        return self._skipped + len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, return the pieces they completed."""
        pending = self._pending
        pending += data
        pieces: list[bytes] = []
        start = 0
        while (end := self._end_of_element()) > 0:
            if self._skipped:
                self._skipped = 0
            else:
                pieces.append(bytes(memoryview(pending)[start:end]))
            start = end
        del pending[:start]
        self._at -= start
        if len(pending) > self._limit:
            self._skipped += self._at
            del pending[: self._at]
            self._at = 0
        return pieces

    def flush(self) -> bytes:
        """Return, at the end of the stream, what belongs to no element that has ended."""
        rest = b"" if self._skipped else bytes(self._pending)
        self._skipped = 0
        self._at = 0
        self._pending.clear()
        return rest

    def _end_of_element(self) -> int:
        """Look on until an element of the array ends, and say where; 0 when none does."""
        pending = self._pending
        while not self._over:
            if self._in_string:
                found = _IN_STRING.match(pending, self._at)
                assert found is not None
                self._at = found.end()
                if pending[self._at : self._at + 1] != b'"':
                    break
                self._in_string = False
                self._at += 1
                continue
            mark = _STRUCTURE.search(pending, self._at)
            if mark is None:
                self._at = len(pending)
                break
            self._at = mark.end()
            if mark[0] == b'"':
                self._in_string = True
            elif mark[0] in _OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 1:
                    return self._at
                if self._depth < 1:
                    self._over = True
                    self.closed = mark[0] == b"]" and self._depth == 0
        return 0


def begins_array(head: bytes) -> bool:
    """Whether a body that begins with ``head`` is an array; false also as long as nobody can tell.

    It looks at as many bytes as :func:`~.sse.sniff` does, so that both agree however they arrive.
    """
    return head[:SNIFFED].removeprefix(BOM).lstrip(_BLANK).startswith(b"[")


def element_of(piece: bytes) -> bytes:
    """The element that a piece ends with.

    Of nested arrays the outer brackets are taken for those of the stream.
    """
    return piece.lstrip(_BEFORE_ELEMENT)
