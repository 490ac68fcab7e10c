"""Who may look: a link that works once becomes a cookie; and what is sealed, for other cookies."""

from __future__ import annotations

import hashlib
import hmac
import mmap
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["SESSION_SECONDS", "Door"]

SESSION_SECONDS: Final = 12 * 3600
"""How long a cookie lets somebody in."""
_MOST_LEFT: Final = 10_000
"""Cookies that were signed out and are remembered; each was let in before."""


_TEXT: Final = "text\n"
"""So that a text's seal is no cookie's."""


class Door:
    """Made before the fork, so that a worker that comes after another knows the same cookies.

    ``now`` gives Unix seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time, who: str = "console") -> None:
        self._now = now
        self.who = who
        """Who opens the link, for the table of changes."""
        self._secret = secrets.token_bytes(32)
        self.link_token = secrets.token_urlsafe(32)
        """What the sign-in link carries."""
        # Shared by all processes that are forked from this one.
        self._used = mmap.mmap(-1, 1)
        self._lock = threading.Lock()
        self._left: set[str] = set()

    def enter(self, token: str) -> str | None:
        """A cookie for the link's token; None when it is another, or was used before."""
        if not hmac.compare_digest(token.encode(), self.link_token.encode()):
            return None
        with self._lock:
            if self._used[0]:
                return None
            self._used[0] = 1
        told = f"{round(self._now()) + SESSION_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{told}.{self._seal(told)}"

    def knows(self, cookie: str) -> bool:
        """Whether this cookie is ours, not yet over, and nobody has signed out with it."""
        told, _, seal = cookie.rpartition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(told).encode()):
            return False
        return int(told.partition(".")[0]) > self._now() and told not in self._left

    def leave(self, cookie: str) -> None:
        """Sign out: the cookie is worth nothing from now on."""
        if self.knows(cookie) and len(self._left) < _MOST_LEFT:
            self._left.add(cookie.rpartition(".")[0])

    def sealed(self, text: str, seconds: float) -> str:
        """A text that this console alone can have written, good for so many seconds.  It may be
        read by whoever holds it; ``text`` is ASCII."""
        told = f"{round(self._now() + seconds)}.{text}"
        return f"{told}.{self._seal(_TEXT + told)}"

    def unsealed(self, sealed: str) -> str | None:
        """The text; None: it is not ours, or too old."""
        told, _, seal = sealed.rpartition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(_TEXT + told).encode()):
            return None
        until, _, text = told.partition(".")
        return text if int(until) > self._now() else None

    def _seal(self, told: str) -> str:
        return hmac.new(self._secret, told.encode(), hashlib.sha256).hexdigest()
