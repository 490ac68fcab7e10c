"""Text that arrives in many small pieces and is wanted as one."""

from __future__ import annotations

import io

__all__ = ["TEXT_LIMIT", "Text"]

TEXT_LIMIT = 4 * 1024 * 1024
"""Characters kept of one text.

A record of more than 4 MiB cannot travel: that is the largest packet a control plane takes."""


class Text:
    """Collects the parts of a text, up to a limit; the rest is dropped and noted."""

    __slots__ = ("_parts", "truncated")

    def __init__(self, first: str = "") -> None:
        self._parts = io.StringIO()
        self.truncated = False
        self.write(first)

    def write(self, part: str) -> None:
        room = TEXT_LIMIT - self._parts.tell()
        if len(part) > room:
            self.truncated = True
            part = part[:room]
        self._parts.write(part)

    def value(self) -> str:
        return self._parts.getvalue()
