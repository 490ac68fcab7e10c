"""How long to wait before the next attempt."""

from __future__ import annotations

from typing import Final

__all__ = ["Backoff"]

_GOLDEN: Final = (1 + 5**0.5) / 2


class Backoff:
    """Grows by the golden ratio from ``floor`` to ``ceiling``; seconds.

    The first attempt is immediate.  coderd's own gateway waits the same times: 0, 0.081,
    0.131, 0.212, … 10.
    """

    def __init__(self, floor: float = 0.05, ceiling: float = 10.0) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._delay: float | None = None

    def next(self) -> float:
        """The wait before the next attempt."""
        if self._delay is None:
            self._delay = self._floor
            return 0.0
        self._delay = min(self._delay * _GOLDEN, self._ceiling)
        return self._delay

    def reset(self) -> None:
        """It worked: the next attempt is immediate again."""
        self._delay = None
