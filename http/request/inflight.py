"""What is under way in this process, so that its end can break it off.

Requests wait in two places: for an actor's reply, and for bytes of an upstream's answer.
Both are noted here.  A process that has to end breaks them off in two steps:

- :meth:`Inflight.cut`: whoever reads an answer gets GatewayEnds, and whoever waits for a
  reply gets :class:`Stopping`.  From there each request takes its usual way: an error event
  or an error answer, and its records to the disk.  Only the start of an interception is
  waited for: nobody could say whether it was recorded.
- :meth:`Inflight.let_go`: those do not wait any longer either.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakSet

from aigateway.actors.actor.base import Reply, fail
from aigateway.actors.providers.recording import Recording
from aigateway.actors.upstream.exchange import Exchange

__all__ = ["STOPPING", "Inflight", "Stopping"]

STOPPING = "AI Gateway is shutting down"
"""What clients are told."""


class Stopping(Exception):
    """This process ends, and does not wait for an answer any more."""

    def __init__(self) -> None:
        super().__init__(STOPPING)


class Inflight:
    """Replies, answers and recordings of this process.  Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: dict[int, tuple[Reply[Any], bool]] = {}
        self._exchanges: WeakSet[Exchange] = WeakSet()
        self._recordings: WeakSet[Recording] = WeakSet()
        self._cut = False
        self._let_go = False

    # -- noted by requests

    def expect(self, reply: Reply[Any], *, patient: bool = False) -> None:
        """Before somebody is asked: the answer will be waited for, until :meth:`forget`.

        ``patient`` waits are only broken off by :meth:`let_go`.  Raises Stopping.
        """
        # Noted first: whoever cuts says so first, and then looks here.
        self._replies[id(reply)] = (reply, patient)
        if self._let_go if patient else self._cut:
            self.forget(reply)
            raise Stopping

    def forget(self, reply: Reply[Any]) -> None:
        """The answer is there, or nobody waits for it any more."""
        self._replies.pop(id(reply), None)

    def hold(self, exchange: Exchange) -> None:
        """An answer is being read, by its request or by whoever it is given to later."""
        with self._lock:
            self._exchanges.add(exchange)
            over = self._cut
        if over:
            exchange.interrupt(STOPPING)

    def record(self, recording: Recording) -> None:
        """An interception has begun, and its end is to be recorded."""
        with self._lock:
            self._recordings.add(recording)

    # -- asked by who ends the process

    @property
    def recordings(self) -> int:
        """Interceptions whose end is not recorded yet, those drained after the client has
        left included."""
        with self._lock:
            return sum(not recording.closed for recording in self._recordings)

    def cut(self) -> None:
        """Break off what is running, now and from now on."""
        with self._lock:
            self._cut = True
            exchanges = list(self._exchanges)
        self._break_off(patient=False)
        for exchange in exchanges:
            exchange.interrupt(STOPPING)

    def let_go(self) -> None:
        """Wait for nothing any more."""
        self._let_go = True
        self._break_off(patient=True)

    def _break_off(self, *, patient: bool) -> None:
        for reply, is_patient in list(self._replies.values()):
            if patient or not is_patient:
                # Whoever answers now finds the reply taken, and lets go of what it holds.
                fail(reply, Stopping())
