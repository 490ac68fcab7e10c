"""How much may be sent to a control plane that is, or was, in trouble."""

from __future__ import annotations

__all__ = ["Flow"]

PAUSE_FLOOR, PAUSE_CEILING, PAUSE_GROWTH = 0.05, 10.0, 1.618
"""Back-off in seconds, the same as of the connection to the control plane (spec)."""
PROBE = 4
"""Parcels on their way, at most, until a control plane that was in trouble stores one."""
MANY_REFUSALS = 32
"""Refusals in a row, without anything stored, that are taken for trouble."""


class Flow:
    """Stops all for a while when there is trouble, and then lets a little through."""

    def __init__(self) -> None:
        self.probing = False
        self._refusals = 0
        self._pause = 0.0
        self._until: float | None = None

    def paused_until(self, now: float) -> float | None:
        """The end of the pause, or None when there is none now."""
        until = self._until
        return None if until is None or until <= now else until

    def stored(self) -> None:
        """Something got through."""
        self._refusals = 0
        self._pause = 0.0
        self._until = None
        self.probing = False

    def refused(self, now: float) -> None:
        """Something was refused, and nothing has got through since the last refusal."""
        self._refusals += 1
        if self.probing or self._refusals >= MANY_REFUSALS:
            self.away(now)

    def away(self, now: float) -> None:
        """Nobody was there.  What was sent before the pause may say so many times."""
        if self.paused_until(now) is not None:
            return
        self._pause = min(PAUSE_CEILING, max(PAUSE_FLOOR, self._pause * PAUSE_GROWTH))
        self._until = now + self._pause
        self.probing = True

    def hurry(self) -> None:
        """End the pause."""
        self._until = None

    def allowed(self, flying: int) -> int | None:
        """How many more may be sent while ``flying`` are on their way; None: any number."""
        return PROBE - flying if self.probing else None
