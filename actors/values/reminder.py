"""When to say again what goes on."""

from __future__ import annotations

__all__ = ["Reminder"]


class Reminder:
    """Tells when what may go on for long is to be said: at once, then every ``every`` seconds."""

    __slots__ = ("_every", "_next_at")

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._next_at = 0.0

    def is_due(self, now: float) -> bool:
        """Whether to say it at this monotonic time; then it counts as said."""
        if now < self._next_at:
            return False
        self._next_at = now + self._every
        return True
