"""When something is to be done: alarms, in one thread, and how long until the next attempt."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

__all__ = ["Alarm", "Alarms", "Backoff"]

log = structlog.get_logger("ai-gateway.coderd")


class Alarm:
    """Something that will be done unless it is cancelled."""

    __slots__ = ("_action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not do it.  It may be under way already in the other thread."""
        self._action = None

    def ring(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


class Alarms:
    """Rings alarms at monotonic times, in one thread; actions must not block."""

    def __init__(self, name: str) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def at(self, when: float, action: Callable[[], None]) -> Alarm:
        """Do ``action`` at ``when``, or at once if that is past."""
        alarm = Alarm(action)
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._numbers), alarm))
            if self._heap[0][2] is alarm:
                self._changed.notify()
        return alarm

    def stop(self) -> None:
        """Ring no more."""
        with self._changed:
            self._stopped = True
            self._heap.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (alarm := self._wait()) is not None:
            try:
                alarm.ring()
            except Exception:
                # The other alarms must not be lost with this one.
                log.exception("an alarm failed")

    def _wait(self) -> Alarm | None:
        with self._changed:
            while not self._stopped:
                if not self._heap:
                    self._changed.wait()
                    continue
                left = self._heap[0][0] - time.monotonic()
                if left <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(left)
        return None


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
