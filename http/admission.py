"""The concurrency cap of a worker process, with a short bounded queue before it."""

from __future__ import annotations

import threading

__all__ = ["Admission"]


class Admission:
    """Counts requests; ``limit`` 0 means no cap.  Safe to use from many threads."""

    def __init__(self, limit: int, depth: int, wait: float) -> None:
        """``depth`` requests may wait for a place, ``wait`` seconds each."""
        self._limit = limit
        self._depth = depth
        self._wait = wait
        self._condition = threading.Condition()
        self.running = 0
        self.waiting = 0

    def enter(self) -> bool:
        """Take a place; False when there is none in time."""
        if not self._limit:
            self.running += 1
            return True
        with self._condition:
            if self.running >= self._limit and not self._wait_for_place():
                return False
            self.running += 1
            return True

    def leave(self) -> None:
        """Give the place back."""
        if not self._limit:
            self.running -= 1
            return
        with self._condition:
            self.running -= 1
            self._condition.notify()

    def _wait_for_place(self) -> bool:
        if self.waiting >= self._depth:
            return False
        self.waiting += 1
        try:
            return self._condition.wait_for(lambda: self.running < self._limit, self._wait)
        finally:
            self.waiting -= 1
