"""One thread that does things when their time has come."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

import structlog

__all__ = ["Alarm", "Alarms"]

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
