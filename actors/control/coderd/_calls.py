"""What is asked of coderd: at once while it is there, else when it is back, within bounds.

A call that a line has swallowed is made again, on the same line or on the next one, until its time
is over.  One that coderd does not answer though the line is well is not: it would only add to what
coderd has to do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from attrs import define

from aigateway.actors.control.call_counters import CallCounters
from aigateway.actors.control.coderd._alarms import Alarm, Alarms
from aigateway.actors.control.coderd._session import Session
from aigateway.actors.control.coderd.versions import ApiVersion
from aigateway.actors.control.rpc_results import Failure, RpcResult, Run

__all__ = ["RpcCall", "Calls"]

_ATTEMPTS = 3
"""How often a call is sent whose stream breaks each time while the session goes on."""


@define(eq=False, kw_only=True)
class RpcCall:
    """One call that somebody waits for; ``done`` runs in the actor's thread.

    It waits for a coderd that is away, and starts again when that goes away in the middle.
    """

    rpc: str
    request: bytes | Callable[[ApiVersion], bytes]
    """Made, if it has to be, when the version that coderd speaks is known."""
    done: Callable[[RpcResult], None]
    timeout: float
    """Seconds for coderd to answer."""
    sent: int = 0
    """How often it was sent; more than once means that coderd may have acted on it before."""
    broken: int = 0
    """How often its stream broke while the session went on."""
    asked: float = 0.0
    expires: float = 0.0
    _alarm: Alarm | None = None


class Calls:
    """The calls of one actor, used in the actor's thread only."""

    def __init__(
        self, run: Run, alarms: Alarms, counters: CallCounters, *, max_wait: float
    ) -> None:
        self._run = run
        self._counters = counters
        self._alarms = alarms
        self._max_wait = max_wait
        self._session: Session | None = None
        self._why_away = "coderd has not been reached yet"
        self._final: str | None = None
        self._waiting: dict[int, RpcCall] = {}

    @property
    def session(self) -> Session | None:
        """The session that takes calls now."""
        return self._session

    def ask(self, call: RpcCall) -> None:
        """Make a call; its ``done`` runs exactly once, never before this returns."""
        call.asked = time.monotonic()
        call.expires = call.asked + self._max_wait
        self._place(call)

    def send(
        self, rpc: str, request: bytes, timeout: float, done: Callable[[RpcResult], None]
    ) -> None:
        """Make a call whose answer nobody waits for: once, if coderd is there now.

        It may be held back for a moment.  ``done`` runs as for :meth:`ask`.
        """
        if self._session is None:
            reason = self._final or f"coderd is away: {self._why_away}"
            self._run(partial(self._sent, rpc, time.monotonic(), done, Failure(reason, sent=False)))
            return
        done = partial(self._sent, rpc, time.monotonic(), done)
        self._session.call(rpc, request, timeout, done, can_wait=True)

    def _sent(
        self, rpc: str, asked: float, done: Callable[[RpcResult], None], outcome: RpcResult
    ) -> None:
        self._counters.add(rpc, outcome, time.monotonic() - asked)
        done(outcome)

    def connected(self, session: Session) -> None:
        """Send what has waited, in the order in which it came."""
        self._session = session
        waiting, self._waiting = deque(self._waiting.values()), {}
        while waiting:
            self._place(waiting.popleft())

    def disconnected(self, session: Session, reason: str) -> None:
        if self._session is session:
            self._session = None
        self._why_away = reason

    def unreachable(self, reason: str) -> None:
        """Another attempt to reach coderd has failed."""
        self._why_away = reason

    def give_up(self, reason: str) -> None:
        """coderd will never be reached: fail what waits and whatever comes."""
        self._final = reason
        self._session = None
        waiting, self._waiting = self._waiting, {}
        for call in waiting.values():
            self._conclude(call, Failure(reason))

    def _place(self, call: RpcCall) -> None:
        session = self._session
        if session is not None:
            if call._alarm is not None:
                call._alarm.cancel()
                call._alarm = None
            timeout = call.timeout
            if call.sent:
                timeout = min(timeout, max(0.0, call.expires - time.monotonic()))
            call.sent += 1
            request = call.request
            session.call(
                call.rpc,
                request if isinstance(request, bytes) else request(session.version),
                timeout,
                partial(self._answered, call, session),
            )
        elif self._final is not None:
            self._conclude(call, Failure(self._final, sent=call.sent > 0))
        else:
            self._wait(call)

    def _wait(self, call: RpcCall) -> None:
        self._waiting[id(call)] = call
        call._alarm = self._alarms.at(call.expires, lambda: self._run(lambda: self._expire(call)))

    def _expire(self, call: RpcCall) -> None:
        if self._waiting.pop(id(call), None) is not None:
            self._conclude(
                call,
                Failure(f"coderd was away for {self._max_wait:g} s: {self._why_away}"),
            )

    def _answered(self, call: RpcCall, session: Session, outcome: RpcResult) -> None:
        if isinstance(outcome, Failure) and (outcome.away or outcome.silent):
            # Lost with its session, or with what the line carried as it stood still.
            lost = self._session is not session or session.ended
            if lost:
                self.disconnected(session, outcome.text)
            call.broken += outcome.broken
            again = lost or outcome.silent or (outcome.broken and call.broken < _ATTEMPTS)
            if again and time.monotonic() < call.expires:
                self._place(call)
                return
        self._end(call, outcome)

    def _conclude(self, call: RpcCall, outcome: RpcResult) -> None:
        if call._alarm is not None:
            call._alarm.cancel()
        self._run(lambda: self._end(call, outcome))

    def _end(self, call: RpcCall, outcome: RpcResult) -> None:
        self._counters.add(call.rpc, outcome, time.monotonic() - call.asked)
        call.done(outcome)
