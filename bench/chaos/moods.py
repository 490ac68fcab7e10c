"""Which faults last at this moment, for those who act them out: provider and clients."""

from __future__ import annotations

import random

__all__ = ["Moods"]


class Moods:
    """Set by the run, read from any thread."""

    def __init__(self) -> None:
        self._now: frozenset[str] = frozenset()

    def begin(self, kind: str) -> None:
        self._now |= {kind}

    def end(self, kind: str) -> None:
        self._now -= {kind}

    def pick(self, prefix: str, share: float) -> str:
        """One that lasts and begins with ``prefix``, for this part of the askers; else empty."""
        found = sorted(kind for kind in self._now if kind.startswith(prefix))
        return random.choice(found) if found and random.random() < share else ""
