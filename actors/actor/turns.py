"""Waiting for one's turn: somebody waits once, and somebody else lets it go on.

PERF: where threads are greenlets, a lock with a timeout makes an exception, a timer and a
context in Python for each wait, which is more than all else that waiting for an actor's
answer costs.  There the event loop does it.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Turn", "new_turn"]


class Turn(Protocol):
    """Made by who will wait, in its own thread or greenlet."""

    def wait(self, timeout: float | None) -> None:
        """Return when :meth:`give` is or was called, or after ``timeout`` seconds."""

    def give(self) -> None:
        """End the wait.  From any thread, as often as one likes."""


class _ThreadTurn:
    """A lock that is held until it is given."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> None:
        self._lock.acquire(True, -1 if timeout is None else timeout)

    def give(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            return


class _GreenletTurn:
    """Switches to the event loop, which switches back."""

    __slots__ = ("_given", "_hub", "_waiting")

    def __init__(self) -> None:
        self._hub = gevent.get_hub()
        self._given = False
        self._waiting: Any = None

    def wait(self, timeout: float | None) -> None:
        if self._given:
            return
        hub = self._hub
        self._waiting = gevent.getcurrent()
        try:
            if timeout is None:
                hub.switch()
            else:
                with hub.loop.timer(timeout) as timer:
                    timer.start(self._go_on)
                    hub.switch()
        finally:
            # What comes now, after a timeout or a kill, must not switch here any more.
            self._waiting = None

    def give(self) -> None:
        if self._given:
            return
        self._given = True
        hub = self._hub
        if _this_thread() == hub.thread_ident:
            hub.loop.run_callback(self._go_on)
        else:
            hub.loop.run_callback_threadsafe(self._go_on)

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.switch()


new_turn: Callable[[], Turn] = _ThreadTurn
"""Makes one; which kind is known when this module is imported, since gevent patches first."""

_monkey = sys.modules.get("gevent.monkey")
if _monkey is not None and _monkey.is_module_patched("_thread"):
    import gevent

    _this_thread = _monkey.get_original("_thread", "get_ident")
    new_turn = _GreenletTurn
