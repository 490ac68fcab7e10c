"""Events that are like one that has been read, but for the text of one string.

PERF: nearly all events of a stream differ from the one before in a bit of text only.  Such an
event says what the one before said, with other text, so that it need not be read.
"""

from __future__ import annotations

import itertools
import re

from aigateway.actors.codec.reading import text
from aigateway.actors.interception._record_maker import Text

__all__ = ["Pattern"]

_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The inside of a JSON string."""


_VALUE = re.compile(rb':[ ]?(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|(\d++)(?=[,}]))', re.DOTALL)
"""A member's value behind its name: a string, or a whole number."""

_PADDING = b'"obfuscation"'
"""OpenAI hides the lengths of texts by it."""
_TIME = b'"created"'
"""Some say when the chunk was made, instead of the answer."""


class Pattern:
    """Knows events again that say what one said before, with other text in one place."""

    __slots__ = ("_begin", "_end", "_fixed", "_head", "_left", "_tail", "_taken", "sink")

    MISSES = 16
    """Patterns in a row that fitted nothing, until no more are made."""

    def __init__(self) -> None:
        self._left = self.MISSES
        self.forget()

    @property
    def learns(self) -> bool:
        """Whether patterns are of use here, as far as has been seen."""
        return self._left > 0

    def forget(self) -> None:
        """Fit nothing."""
        self._head, self._tail = b"\0", b""
        self._begin = self._end = self._taken = 0
        self._fixed: tuple[bytes, ...] = ()
        self.sink: Text | None = None

    def learn(
        self,
        piece: bytes,
        name: bytes,
        sink: Text | None = None,
        said: str = "",
        also: tuple[bytes, ...] = (),
    ) -> None:
        """Take a piece that says nothing but text, in its first member of this name.

        The text of pieces that fit goes to ``sink``; then ``said`` is that of this piece.
        ``also`` are members whose values say nothing more.
        """
        taken = _value_of(piece, name)
        if taken is None:
            return
        if sink is not None and text(piece[taken[0] - 1 : taken[1] + 1]) != said:
            # It stands elsewhere.
            return
        if self._left < self.MISSES:
            also = (_TIME, *also)
        found = [value for each in (_PADDING, *also) if (value := _value_of(piece, each))]
        spans = sorted({taken, *found})
        self._left -= 1
        self._taken = spans.index(taken)
        self._begin, self._end = spans[0][0], len(piece) - spans[-1][1]
        self._head, self._tail = piece[: self._begin], piece[spans[-1][1] :]
        self._fixed = tuple(
            piece[before[1] : after[0]] for before, after in itertools.pairwise(spans)
        )
        self.sink = sink

    def fits(self, piece: bytes) -> bool:
        """Whether this piece is such a one; then its text has been taken."""
        if not piece.startswith(self._head) or not piece.endswith(self._tail):
            return False
        begin, end = self._begin, len(piece) - self._end
        if end < begin:
            return False
        if self._fixed:
            spans = self._spans(piece, begin, end)
            if spans is None:
                return False
            begin, end = spans
        elif piece.find(b'"', begin, end) >= 0 and not _STRING.fullmatch(piece, begin, end):
            return False
        self._left = self.MISSES
        if self.sink is not None:
            self.sink.write(text(piece[begin - 1 : end + 1]) or "")
        return True

    def _spans(self, piece: bytes, begin: int, end: int) -> tuple[int, int] | None:
        """Where the text stands among other values that vary; None when the piece is another."""
        taken = begin, end
        for place, fixed in enumerate((*self._fixed, b"")):
            stop = piece.find(fixed, begin, end) if fixed else end
            if stop < 0:
                return None
            if piece.find(b'"', begin, stop) >= 0 and not _STRING.fullmatch(piece, begin, stop):
                return None
            if place == self._taken:
                taken = begin, stop
            begin = stop + len(fixed)
        return taken


def _value_of(piece: bytes, name: bytes) -> tuple[int, int] | None:
    """Where the value of the first member of this name begins and ends, within its quotes."""
    at = piece.find(name)
    found = None if at < 0 else _VALUE.match(piece, at + len(name))
    if found is None:
        return None
    return found.span(1 if found[1] is not None else 2)
