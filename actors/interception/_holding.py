"""Which bytes of a relayed stream leave at once, later, or never."""

from __future__ import annotations

from aigateway.actors.codec.sse import IGNORABLE

__all__ = ["HOLD_LIMIT", "Outlet"]

HOLD_LIMIT = 64 * 1024
"""Bytes of an unfinished event that are held back."""


class Outlet:
    """Lets whole events out and keeps the beginning of one that is not whole.

    ``held`` are the bytes that wait for the rest of their event, ``withheld`` the pieces
    that must not leave.
    """

    __slots__ = ("_swallow_lf", "held", "withheld")

    def __init__(self) -> None:
        self.held = bytearray()
        self.withheld: list[bytes] = []
        self._swallow_lf = False

    @property
    def idle(self) -> bool:
        """Whether nothing is held, withheld or about to be."""
        return not (self.held or self.withheld or self._swallow_lf)

    def release(self, data: bytes, pieces: list[bytes], tail: int) -> bytes:
        """Choose what leaves of the bytes at hand.

        ``data`` is what has just arrived, ``pieces`` what it completed, and ``tail`` how many
        bytes of an unfinished event are there now.
        """
        if self._swallow_lf and pieces:
            self._swallow_lf = False
            if pieces[0] == b"\n":
                data, pieces = data[1:], pieces[1:]
        waiting = self.held
        waiting += data
        boundary = len(waiting) - tail
        leaving = boundary if tail <= HOLD_LIMIT else len(waiting)
        if self.withheld:
            leaves = self._without_withheld(boundary, pieces) + waiting[boundary:leaving]
        else:
            leaves = waiting[:leaving]
        del waiting[:leaving]
        return bytes(leaves)

    def _without_withheld(self, boundary: int, pieces: list[bytes]) -> bytearray:
        """Join what ends at ``boundary``, without the pieces to withhold."""
        waiting = self.held
        # Of a long event some may have left before, so that it begins before these bytes.
        start = boundary - sum(map(len, pieces))
        kept = waiting[: max(start, 0)]
        for piece in pieces:
            end = start + len(piece)
            if any(piece is withheld for withheld in self.withheld):
                comments = IGNORABLE.match(piece)
                kept += comments[0] if comments else b""
                # The other half of a CRLF that a read cut in two.
                self._swallow_lf = piece.endswith(b"\r") and end == len(waiting)
            else:
                kept += waiting[max(start, 0) : end]
            start = end
        self.withheld.clear()
        return kept

    def take(self) -> bytes:
        """Let out what is held."""
        held = bytes(self.held)
        self.held.clear()
        return held

    def drop(self) -> None:
        """Forget what is held or withheld: it will never leave."""
        self.held.clear()
        self.withheld.clear()
