"""The concurrency cap of a worker process, with a short bounded queue before it."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Admission"]


class Admission:
    """Counts requests; ``limit`` 0 means no cap.  Safe to use from many threads.

    Whoever waits longest gets the next place: a place that becomes free is handed over, so
    nobody who comes later can take it.
    """

    def __init__(self, limit: int, depth: int, wait: float) -> None:
        """``depth`` requests may wait for a place, ``wait`` seconds each."""
        self._limit = limit
        self._depth = depth
        self._wait = wait
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self.running = 0

    @property
    def limited(self) -> bool:
        """Whether anybody may have to wait."""
        return bool(self._limit)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place now."""
        return len(self._queue)

    def enter(self) -> bool:
        """Take a place; False when there is none in time."""
        with self._lock:
            if not self._limit or self.running < self._limit:
                self.running += 1
                return True
            if len(self._queue) >= self._depth or self._wait <= 0:
                return False
            turn = threading.Event()
            self._queue.append(turn)
        try:
            got = turn.wait(self._wait)
        except BaseException:
            # The request is being ended from outside, and with it its claim.
            if not self._withdraw(turn):
                self.leave()
            raise
        return got or not self._withdraw(turn)

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self.running -= 1

    def _withdraw(self, turn: threading.Event) -> bool:
        """Stop waiting; False when the place was handed over at the last moment."""
        with self._lock:
            if turn.is_set():
                return False
            self._queue.remove(turn)
            return True
