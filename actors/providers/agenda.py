"""What an actor has to do later, in one list with one timer."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count
from threading import Timer
from typing import Generic, TypeVar

__all__ = ["Agenda", "Alarm"]

T = TypeVar("T")


class Agenda(Generic[T]):
    """Items and the times at which they are due; pure, the time is passed in."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: float, item: T) -> bool:
        """Note ``item``; True when it is now the first one due, so the timer must be set."""
        heapq.heappush(self._heap, (due, next(self._numbers), item))
        return self._heap[0][2] is item

    def due(self, now: float) -> list[T]:
        """Take out what is due, in order."""
        items = []
        while self._heap and self._heap[0][0] <= now:
            items.append(heapq.heappop(self._heap)[2])
        return items

    def next_due(self) -> float | None:
        """When the first item is due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def clear(self) -> list[T]:
        """Take out everything."""
        items = [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2])]
        self._heap.clear()
        return items


class Alarm(Generic[T]):
    """An agenda on a real clock.  ``ring`` is called in a thread of its own when it is time to
    ask for :meth:`due`; everything else belongs to one thread."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._agenda: Agenda[T] = Agenda()
        self._timer: Timer | None = None

    def add(self, seconds: float, item: T) -> None:
        """Note that ``item`` is due in so many seconds."""
        if self._agenda.add(time.monotonic() + seconds, item):
            self._set()

    def due(self, now: float) -> list[T]:
        """Take out what is due."""
        items = self._agenda.due(now)
        self._set()
        return items

    def clear(self) -> list[T]:
        """Take out everything; rings no more."""
        items = self._agenda.clear()
        self._set()
        return items

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._agenda.next_due()
        if due is not None:
            self._timer = Timer(max(0.0, due - time.monotonic()), self._ring)
            self._timer.daemon = True
            self._timer.start()
