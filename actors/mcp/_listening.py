"""When a session keeps a stream open to hear of changes, and when it opens it again."""

from __future__ import annotations

from aigateway.actors.mcp.errors import BadAnswer, HttpRefused, McpError, RpcRefused
from aigateway.actors.mcp.line import Cutter

__all__ = ["Listening"]

_FLOOR, _CEILING = 1.0, 60.0
"""Seconds before a stream that broke is opened again."""


class Listening:
    """Decides and does nothing: the session opens the streams."""

    def __init__(self) -> None:
        self.wanted = False
        self.again_at: float | None = None
        """When to open the next stream (monotonic time); None: at once, or never."""
        self._stream: Cutter | None = None
        self._pause = _FLOOR

    def open(self) -> Cutter | None:
        """Take note that a stream is opened now; None when it should not be."""
        if not self.wanted or self._stream is not None or self.again_at is not None:
            return None
        self._stream = Cutter()
        return self._stream

    def ended(self, error: McpError, lasted: float, now: float) -> bool:
        """The stream ended after ``lasted`` seconds; say whether there may be another one."""
        self._stream = None
        if not self.wanted or isinstance(error, RpcRefused | HttpRefused | BadAnswer):
            return False
        if lasted > _CEILING:
            self._pause = _FLOOR
        self.again_at = now + self._pause
        self._pause = min(self._pause * 2, _CEILING)
        return True

    def is_due(self, now: float) -> bool:
        """Whether it is time for the next stream; once true, it may be opened."""
        if self.again_at is None or self.again_at > now:
            return False
        self.again_at = None
        return True

    def stop(self) -> None:
        """Want no stream any more, and cut the one there is."""
        self.wanted = False
        self.again_at = None
        if self._stream is not None:
            self._stream.cut()
