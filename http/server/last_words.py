"""Why a worker had the whole gateway end, told to the master, which writes the last line of log."""

from __future__ import annotations

import contextlib
import os

__all__ = ["LAST_WORDS", "LastWords"]

_LONGEST = 4000
"""Bytes; less than a pipe takes in one piece, whoever else writes into it."""


class LastWords:
    """A pipe from the workers to the master; nothing is said or heard before :meth:`listen`."""

    def __init__(self) -> None:
        self._ear: int | None = None
        self._mouth: int | None = None

    def listen(self) -> None:
        """Make the pipe: in the master, before it forks."""
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._ear, False)
        os.set_blocking(self._mouth, False)

    def say(self, reason: str) -> None:
        """In a worker that is about to exit."""
        if self._mouth is not None:
            text = reason.encode(errors="replace")[:_LONGEST]
            # It is full when others have said enough.
            with contextlib.suppress(OSError):
                os.write(self._mouth, text + b"\0")

    def heard(self) -> str:
        """In the master: what the first worker said, if any said something."""
        if self._ear is None:
            return ""
        try:
            said = os.read(self._ear, 2 * _LONGEST)
        except OSError:
            return ""
        return said.partition(b"\0")[0].decode(errors="replace")


LAST_WORDS = LastWords()
