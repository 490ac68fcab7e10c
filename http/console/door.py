"""Who may look: a link that works once becomes a cookie; and whom a request was meant for."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import mmap
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["SESSION_SECONDS", "Door", "is_local_name"]

SESSION_SECONDS: Final = 12 * 3600
"""How long a cookie lets somebody in."""
_MOST_LEFT: Final = 10_000
"""Cookies that were signed out and are remembered; each was let in before."""


def is_local_name(host: str) -> bool:
    """Whether a ``Host`` header names this machine by a name that no other page can have.

    APPSEC: a page elsewhere whose name an attacker's server points at 127.0.0.1 brings that name
    along.  The port may differ: of a tunnel, for example.
    """
    name = host.rsplit(":", 1)[0] if ":" in host and not host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


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

    def _seal(self, told: str) -> str:
        return hmac.new(self._secret, told.encode(), hashlib.sha256).hexdigest()
