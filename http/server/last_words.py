"""What a worker process has to tell the main process before all of them end.

A pipe from before the fork: any worker may write the reason why no worker can go on, and the
main process finds it, whether that worker has ended by then or still drains.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["LOST", "LastWords"]

LOST = "lost: "
"""Before what a worker has lost: that is no reason for others to end."""

LONGEST = 2048
"""Bytes; up to 4096 (PIPE_BUF) a write is never mixed with another one."""


class LastWords:
    """Why the gateway ends by itself."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def say(self, reason: str) -> None:
        """In a worker: the gateway has to end."""
        line = reason.replace("\0", " ").encode("utf-8", "backslashreplace")[:LONGEST]
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, line + b"\0")

    def heard(self) -> str:
        """In the main process: the first reason that was given, empty while there is none."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._reader, LONGEST + 1)
            return data.split(b"\0", 1)[0].decode("utf-8", "replace")
        return ""
