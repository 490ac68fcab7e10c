"""A session with coderd: the sans-IO client, a channel, and the threads between them.

Theory of operation
===================

:class:`~aigateway.actors.coderd.wire.rpc_client.RpcClient` knows the protocol; this gives it
bytes, time and a lock.  Three threads take part:

* The *reader* waits in ``Channel.receive``, feeds the client and completes calls.  It never
  sends, so a peer that does not read cannot keep it from reading.
* The *writer* takes what the client has queued and waits in ``Channel.send``.
* The *alarms'* thread, shared with the rest of the actor, gives up on calls whose time is
  over and sends keepalive pings.  When the writer is stuck the ping is not answered, and
  this thread ends the session.

Whoever calls only queues and wakes the writer, so a call never blocks.  Its outcome comes
later in one of these threads, outside the lock: the callback must not block either.

Every call has exactly one outcome, however the session ends.  A session that coderd wants
to leave (go-away) takes no new calls, lets the running ones finish for a while, and counts
as ended for its owner at once.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from math import inf
from typing import TypeAlias

import structlog
from attrs import define, frozen

from aigateway.actors.coderd._alarms import Alarm, Alarms
from aigateway.actors.coderd._channel import Channel, ChannelError
from aigateway.actors.coderd.versions import ApiVersion
from aigateway.actors.coderd.wire import LocalProtocolError, NeedData, RemoteProtocolError
from aigateway.actors.coderd.wire._yamux_events import PeerGoingAway, SessionEnded
from aigateway.actors.coderd.wire.rpc_client import (
    Answered,
    ClientEvent,
    Finished,
    Lost,
    Refused,
    RpcClient,
)

__all__ = ["Answer", "Failure", "Outcome", "Refusal", "Session"]

_LEAVING_PATIENCE = 10.0
"""Seconds that running calls get when coderd goes away."""
_CLOSING_PATIENCE = 2.0
"""Seconds for the last bytes and the goodbye."""

log = structlog.get_logger("ai-gateway.coderd")


@frozen
class Answer:
    """What coderd answered."""

    data: bytes


@frozen
class Refusal:
    """coderd answered with an error; ``code`` is 0 when it has none."""

    text: str
    code: int = 0


@frozen
class Failure:
    """There is no answer, and whether coderd has acted on the call is not known."""

    text: str
    away: bool = True
    """False when coderd answers other calls, just not this one."""


Outcome: TypeAlias = Answer | Refusal | Failure


@define(eq=False)
class _Waiting:
    done: Callable[[Outcome], None]
    signal: Callable[[], None] | None
    timeout: float
    since: float


class Session:
    """A connection to coderd that takes calls from any thread.

    ``on_end`` is called once, with the reason, when no more calls are taken.
    """

    def __init__(
        self,
        channel: Channel,
        version: ApiVersion,
        alarms: Alarms,
        on_end: Callable[[str], None],
        *,
        client: Callable[[float], RpcClient] = RpcClient,
        name: str = "coderd",
    ) -> None:
        self.version = version
        self._channel = channel
        self._alarms = alarms
        self._on_end: Callable[[str], None] | None = on_end
        self._client = client(time.monotonic())
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: dict[int, _Waiting] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._alarm: Alarm | None = None
        self._alarm_at = 0.0
        self._last_answer = 0.0
        self._answers = 0
        self._leaving = False
        self._ended: str | None = None
        self._users = 2
        with self._lock:
            self._set_alarm()
        for role, target in (("reader", self._read), ("writer", self._write)):
            threading.Thread(target=target, name=f"{name}-{role}", daemon=True).start()

    # -- for the owner

    @property
    def answers(self) -> int:
        """Calls that coderd has answered, in whatever way."""
        return self._answers

    @property
    def ended(self) -> bool:
        """Whether it takes no more calls."""
        return self._leaving or self._ended is not None

    def call(
        self, rpc: str, request: bytes, timeout: float, done: Callable[[Outcome], None]
    ) -> None:
        """Call, and call ``done`` with the outcome within ``timeout`` seconds."""
        self._begin(rpc, request, timeout, done, None)

    def watch(
        self,
        rpc: str,
        request: bytes,
        signal: Callable[[], None],
        done: Callable[[Outcome], None],
    ) -> None:
        """Call ``signal`` for each answer of a streaming call, ``done`` when it has ended.

        An :class:`Answer` without data is its regular end.
        """
        self._begin(rpc, request, 0.0, done, signal)

    def close(self) -> None:
        """Send what is queued, say goodbye and end.  Does not wait for it."""
        self._finish("the connection was closed here")

    def _begin(
        self,
        rpc: str,
        request: bytes,
        timeout: float,
        done: Callable[[Outcome], None],
        signal: Callable[[], None] | None,
    ) -> None:
        now = time.monotonic()
        failed: Outcome | None = None
        with self._lock:
            if self._ended is not None or not self._client.accepts_calls:
                failed = Failure(self._ended or "coderd is going away")
            else:
                try:
                    number = self._client.call(rpc, request, now, streaming=signal is not None)
                except LocalProtocolError as ex:
                    failed = Refusal(f"invalid request: {ex}")
                else:
                    self._waiting[number] = _Waiting(done, signal, timeout, now)
                    if signal is None:
                        heapq.heappush(self._deadlines, (now + timeout, number))
                    self._set_alarm()
                    self._wake.notify()
        if failed is not None:
            done(failed)

    # -- threads

    def _read(self) -> None:
        try:
            data = b"-"
            while data and self._ended is None:
                data = self._channel.receive()
                self._run_events(data)
        except ChannelError as ex:
            self._finish(str(ex))
        except Exception as ex:
            # Nobody would ever be answered again.
            log.exception("reading from coderd failed")
            self._finish(f"reading from coderd failed: {ex!r}")
        finally:
            self._leave()

    def _write(self) -> None:
        try:
            while chunk := self._next_chunk():
                self._channel.send(chunk)
            self._channel.close()
        except ChannelError as ex:
            self._finish(str(ex))
            self._channel.abort()
        finally:
            self._leave()

    def _next_chunk(self) -> bytes:
        with self._wake:
            while not (chunk := self._client.data_to_send()) and self._ended is None:
                self._wake.wait()
        return chunk

    def _leave(self) -> None:
        """The last of reader and writer gives the descriptor back."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._channel.release()

    def _ring(self) -> None:
        """The alarm's thread: something is due."""
        now = time.monotonic()
        overdue = []
        with self._lock:
            self._alarm = None
            self._client.advance(now)
            while self._first_deadline() <= now:
                _, number = heapq.heappop(self._deadlines)
                self._client.give_up(number, now)
                overdue.append(self._waiting.pop(number))
        for waiting in overdue:
            away = self._last_answer < waiting.since
            waiting.done(Failure(f"no answer within {waiting.timeout:g} s", away))
        self._run_events()

    def _run_events(self, data: bytes | None = None) -> None:
        """Do what the client has to tell, after ``data``, and see what is due next."""
        now = time.monotonic()
        todo: list[Callable[[], None]] = []
        with self._lock:
            reason = self._ended
            if data is not None:
                self._client.receive_data(data)
            try:
                while not isinstance(event := self._client.next_event(now), NeedData):
                    if isinstance(event, SessionEnded):
                        reason = event.reason
                    else:
                        self._handle(event, now, todo)
            except RemoteProtocolError as ex:
                reason = f"coderd broke the protocol: {ex}"
            self._set_alarm()
            self._wake.notify()
            idle = self._leaving and not self._waiting
        for action in todo:
            action()
        if reason is not None or idle:
            self._finish(reason or "coderd has gone away")

    def _handle(self, event: ClientEvent, now: float, todo: list[Callable[[], None]]) -> None:
        if isinstance(event, PeerGoingAway):
            self._leaving = True
            todo.append(self._start_leaving)
            return
        assert not isinstance(event, SessionEnded)
        if isinstance(event, Answered | Refused | Finished):
            self._last_answer = now
            self._answers += 1
        waiting = self._waiting.get(event.call)
        if waiting is None:
            # Closed here while the answer was on its way.
            return
        if isinstance(event, Answered) and waiting.signal is not None:
            todo.append(waiting.signal)
            return
        del self._waiting[event.call]
        outcome = _outcome(event)
        todo.append(lambda: waiting.done(outcome))

    # -- the end

    def _start_leaving(self) -> None:
        self._tell_end("coderd is going away")
        watches = []
        now = time.monotonic()
        with self._lock:
            for number, waiting in list(self._waiting.items()):
                if waiting.signal is not None:
                    watches.append(self._waiting.pop(number))
                    self._client.give_up(number, now)
            self._wake.notify()
        for waiting in watches:
            waiting.done(Failure("coderd is going away"))
        self._alarms.at(now + _LEAVING_PATIENCE, lambda: self._finish("coderd has gone away"))

    def _finish(self, reason: str) -> None:
        with self._lock:
            if self._ended is not None:
                return
            self._ended = reason
            lost = list(self._waiting.values())
            self._waiting.clear()
            self._deadlines.clear()
            if self._alarm is not None:
                self._alarm.cancel()
            self._wake.notify()
        # The writer says goodbye; should it be stuck, that would take for ever.
        self._alarms.at(time.monotonic() + _CLOSING_PATIENCE, self._channel.abort)
        for waiting in lost:
            waiting.done(Failure(reason))
        self._tell_end(reason)

    def _tell_end(self, reason: str) -> None:
        with self._lock:
            on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(reason)

    def _first_deadline(self) -> float:
        """Of the calls that wait; those of answered calls are dropped."""
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else inf

    def _set_alarm(self) -> None:
        """Have :meth:`_ring` called when something is due; the lock is held."""
        due = self._client.deadline
        if self._ended is not None or due is None:
            return
        due = min(due, self._first_deadline())
        if self._alarm is not None:
            # One that rings too early only looks and sets the next.
            if self._alarm_at <= due:
                return
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._alarms.at(due, self._ring)


def _outcome(event: Answered | Refused | Finished | Lost) -> Outcome:
    if isinstance(event, Answered):
        return Answer(event.data)
    if isinstance(event, Refused):
        return Refusal(event.text, event.code)
    if isinstance(event, Finished):
        return Answer(b"")
    return Failure(event.reason)
