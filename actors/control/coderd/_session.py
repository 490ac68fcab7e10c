"""A session with coderd: the sans-IO client, a channel, and the threads between them.

Theory of operation
===================

:class:`~.wire.rpc_client.RpcClient` knows the protocol; this gives it bytes, time
and a lock.  Three threads take part:

* The *reader* waits in ``Channel.receive``, feeds the client and finds out what became of
  calls.  It never waits for sending, so a peer that does not read cannot keep it from reading.
* The *writer* waits in ``Channel.flush`` for a peer that does not read fast enough, sends what
  was queued meanwhile, and says goodbye at the end.
* The *alarms'* thread, shared with the rest of the actor, gives up on calls whose time is
  over and sends keepalive pings.  When the writer is stuck the ping is not answered, and
  this thread ends the session.

PERF: changing threads costs more than anything else here.  So a thread that has something to send
sends it, as far as that goes without waiting, and leaves only the rest to the writer.  The
owner's calls are just kept until it says ``flush``, which it does when it has no more of them
for the moment, and leave in one message.  Calls that nobody waits for are kept a little longer
while there are others all the time, and leave with those.  What became of all calls that one piece
of bytes answers is told to the owner in one go.

Every call has exactly one outcome, however the session ends.  A session that coderd wants
to leave (go-away) takes no new calls, lets the running ones finish for a while, and counts
as ended for its owner at once.

A record whose answer is lost is sent again, and coderd cannot tell it from another one.  So
no answer that has arrived may be lost: when sending fails, what was received is read to its
end before the other calls are given up.  And nothing may arrive there after it was given up:
when coderd is silent, what has not left the machine is thrown away with the connection.

A call that is not answered in time is either one that coderd is slow to answer, or one that a line
has swallowed that stood still for a while.  So while calls wait and nothing at all arrives, coderd
is asked for a sign of life now and then.  One that is late says that the line stood still.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf

import structlog
from attrs import define, field

from aigateway.actors.control.coderd._alarms import Alarm, Alarms
from aigateway.actors.control.coderd._channel import Channel, ChannelError
from aigateway.actors.control.coderd.versions import ApiVersion
from aigateway.actors.control.coderd.wire import LocalProtocolError, NeedData, RemoteProtocolError
from aigateway.actors.control.coderd.wire._yamux_events import PeerGoingAway, SessionEnded
from aigateway.actors.control.coderd.wire.rpc_client import (
    Answered,
    ErrorAnswered,
    Finished,
    Lost,
    RpcClient,
)
from aigateway.actors.control.rpc_results import Failure, Refusal, RpcAnswer, RpcResult, Run

__all__ = ["Session", "Writer"]

log = structlog.get_logger("ai-gateway.coderd")

_LEAVING_PATIENCE = 10.0
"""Seconds that running calls get when coderd goes away."""
_CLOSING_PATIENCE = 2.0
"""Seconds for the last bytes and the goodbye."""
_QUIET = 2.0
"""Seconds without a byte, while calls wait, after which coderd is asked for a sign of life."""
_HOLD, _HELD = 0.01, 32
"""Seconds that calls which can wait are held for others to leave with, and how many of them.

PERF: to send is a fifth of what a call costs here while requests come one by one."""
_EMPTY = RpcAnswer(b"")
_LATE = 1.0
"""Seconds after which that sign is late: it takes a round trip and no more."""


@define(eq=False)
class _Call:
    rpc: str
    request: bytes = field(repr=False)
    """Until it has been made."""
    timeout: float
    done: Callable[[RpcResult], None]
    signal: Callable[[], None] | None = None
    since: float = 0.0
    due: float = inf


class Session:
    """A connection to coderd that takes the calls of one owner.

    What became of them is told through ``run``.  ``on_end`` is called once, in any thread,
    with the reason, when no more calls are taken.
    """

    def __init__(
        self,
        channel: Channel,
        version: ApiVersion,
        alarms: Alarms,
        run: Run,
        on_end: Callable[[str], None],
        *,
        client: Callable[[float], RpcClient] = RpcClient,
        name: str = "coderd",
    ) -> None:
        self.version = version
        self._channel = channel
        self._alarms = alarms
        self._run = run
        self._on_end: Callable[[str], None] | None = on_end
        self._client = client(time.monotonic())
        self._lock = threading.Lock()
        self._writer = Writer(channel, self._lock, self._client.data_to_send)
        self._kept: list[_Call] = []
        """Calls that the owner has not flushed; touched by its thread only, as what follows."""
        self._pressing = False
        """Whether somebody waits for one of them."""
        self._pressed_at = -inf
        """When the last such call was sent."""
        self._holding = False
        """Whether an alarm is set for those that can wait."""
        self._waiting: dict[int, _Call] = {}
        self._watching = 0
        """How many of them are streaming, and wait for no answer in particular."""
        self._first_due = inf
        """No call that waits is due before."""
        self._alarm: Alarm | None = None
        self._alarm_at = 0.0
        self._last_answer = 0.0
        self._answers = 0
        self._quiet_since = 0.0
        """The last byte, or the call that was the first to wait after it."""
        self._probed_at = inf
        """When coderd was asked for a sign of life, if nothing has arrived since."""
        self._still_at = -inf
        """When something arrived last on a line that had stood still."""
        self._leaving = False
        self._cut: str | None = None
        """Why nothing can be sent any more; what has arrived is still read."""
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
        return self._leaving or self._cut is not None or self._ended is not None

    def call(
        self,
        rpc: str,
        request: bytes,
        timeout: float,
        done: Callable[[RpcResult], None],
        *,
        can_wait: bool = False,
    ) -> None:
        """Call, with the next :meth:`flush`.

        ``done`` is told the outcome, at most ``timeout`` seconds after that.  ``can_wait``:
        :meth:`flush_pressing` may leave it for later.
        """
        self._kept.append(_Call(rpc, request, timeout, done))
        if not can_wait:
            self._pressing = True

    def watch(
        self,
        rpc: str,
        request: bytes,
        signal: Callable[[], None],
        done: Callable[[RpcResult], None],
    ) -> None:
        """Make a streaming call, with the next :meth:`flush`.

        ``signal`` is called for each answer and ``done`` when it has ended: an
        :class:`Answer` without data is its regular end.
        """
        self._kept.append(_Call(rpc, request, inf, done, signal))
        self._pressing = True

    def flush_pressing(self) -> None:
        """Send the calls that were made, unless all of them can wait for one that cannot.

        That one is expected within a moment if the last one was a moment ago; without it they
        are sent then.
        """
        if not self._kept:
            return
        if not self._pressing and len(self._kept) < _HELD:
            now = time.monotonic()
            if now - self._pressed_at < _HOLD:
                if not self._holding:
                    self._holding = True
                    self._alarms.at(now + _HOLD, partial(self._run, self._let_go))
                return
        self.flush()

    def _let_go(self) -> None:
        self._holding = False
        if self._kept:
            self.flush()

    def flush(self) -> None:
        """Send the calls that were made.  Does not wait for it."""
        calls, self._kept = self._kept, []
        if self._pressing:
            self._pressing, self._pressed_at = False, time.monotonic()
        news: list[Callable[[], None]] = []
        try:
            with self._lock:
                if self.ended or not self._client.accepts_calls:
                    reason = self._ended or self._cut or "coderd is going away"
                    lost = Failure(reason, sent=False)
                    news += [partial(call.done, lost) for call in calls]
                else:
                    now = time.monotonic()
                    for call in calls:
                        self._begin(call, now, news)
                self._set_alarm()
                self._send_queued()
        except ChannelError as ex:
            self._cannot_send(str(ex))
        self._tell(news)

    def close(self) -> None:
        """Send what was flushed, say goodbye and end.  Does not wait for it."""
        self._finish("the connection was closed here")

    def _begin(self, call: _Call, now: float, news: list[Callable[[], None]]) -> None:
        """Give a call to the client, with the lock held."""
        streaming = call.signal is not None
        call.since = now
        try:
            number = self._client.call(call.rpc, call.request, now, streaming=streaming)
        except LocalProtocolError as ex:
            news.append(partial(call.done, Refusal(f"invalid request: {ex}")))
            return
        if streaming:
            self._watching += 1
        elif not self._someone_waits():
            self._quiet_since = now
        self._waiting[number] = call
        call.request = b""
        call.due = due = now + call.timeout
        if due < self._first_due:
            self._first_due = due

    def _someone_waits(self) -> bool:
        """Whether any call waits for its answer."""
        return len(self._waiting) > self._watching

    def _tell(self, news: Sequence[Callable[[], None]]) -> None:
        if news:
            self._run(partial(_do_all, deque(news)))

    # -- sending

    def _send_queued(self) -> None:
        """Send what the client has queued, with the lock held.  Raises ChannelError."""
        if self._cut is None:
            self._writer.send_queued()

    def _cannot_send(self, reason: str) -> None:
        with self._lock:
            first = self._cut is None and self._ended is None
            if first:
                self._cut = reason
        # The reader comes to the end of what has arrived.
        self._channel.end()
        if first:
            self._tell_end(reason)

    def _write(self) -> None:
        try:
            self._writer.run()
        except ChannelError as ex:
            self._cannot_send(str(ex))
        finally:
            self._leave()

    # -- receiving

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
            for number, waiting in list(self._waiting.items()):
                if waiting.due <= now:
                    # Never a streaming one, which has all the time there is.
                    self._client.give_up(number, now)
                    del self._waiting[number]
                    overdue.append(waiting)
            self._first_due = min((one.due for one in self._waiting.values()), default=inf)
            if self._quiet_until() <= now:
                self._client.probe()
                self._probed_at = now
        self._tell([partial(one.done, self._overdue(one, now)) for one in overdue])
        self._run_events()

    def _overdue(self, call: _Call, now: float) -> Failure:
        away = self._last_answer < call.since
        silent = self._still_at > call.since or now - self._probed_at > _LATE
        return Failure(f"no answer within {call.timeout:g} s", away, silent=silent)

    def _quiet_until(self) -> float:
        """When coderd is to be asked for a sign of life if nothing arrives."""
        if self._probed_at < inf or not self._someone_waits():
            return inf
        return self._quiet_since + _QUIET

    def _heard(self, now: float) -> None:
        """Something has arrived."""
        if now - self._probed_at > _LATE:
            self._still_at = now
        self._probed_at = inf
        self._quiet_since = now

    def _run_events(self, data: bytes | None = None) -> None:
        """Do what the client has to tell, after ``data``, and see what is due next."""
        now = time.monotonic()
        news: list[Callable[[], None]] = []
        with self._lock:
            reason = self._ended
            cut = None
            leaving = silent = False
            if data is not None:
                self._heard(now)
                self._client.receive_data(data)
            try:
                while not isinstance(event := self._client.next_event(now), NeedData):
                    # PERF: nearly all are answers.
                    if isinstance(event, Answered):
                        self._read_outcome(event, now, news)
                    elif isinstance(event, SessionEnded):
                        reason = event.reason
                        silent = data is None
                    elif isinstance(event, PeerGoingAway):
                        self._leaving = leaving = True
                    else:
                        self._read_outcome(event, now, news)
                self._send_queued()
            except RemoteProtocolError as ex:
                reason = f"coderd broke the protocol: {ex}"
            except ChannelError as ex:
                cut = str(ex)
            self._set_alarm()
            idle = self._leaving and not self._waiting
        self._tell(news)
        if cut is not None:
            self._cannot_send(cut)
        if leaving:
            self._start_leaving()
        if reason is not None or idle:
            self._finish(reason or "coderd has gone away", silent=silent)

    def _read_outcome(
        self,
        event: Answered | ErrorAnswered | Finished | Lost,
        now: float,
        news: list[Callable[[], None]],
    ) -> None:
        if not isinstance(event, Lost):
            self._last_answer = now
            self._answers += 1
        waiting = self._waiting.get(event.call)
        if waiting is None:
            # Closed here while the answer was on its way.
            return
        if waiting.signal is not None and isinstance(event, Answered):
            news.append(waiting.signal)
            return
        del self._waiting[event.call]
        if waiting.signal is not None:
            self._watching -= 1
        news.append(partial(waiting.done, _outcome(event)))

    # -- the end

    def _start_leaving(self) -> None:
        self._tell_end("coderd is going away")
        watches = []
        now = time.monotonic()
        with self._lock:
            for number, waiting in list(self._waiting.items()):
                if waiting.signal is not None:
                    watches.append(self._waiting.pop(number))
                    self._watching -= 1
                    self._client.give_up(number, now)
        self._tell([partial(one.done, Failure("coderd is going away")) for one in watches])
        self._alarms.at(now + _LEAVING_PATIENCE, lambda: self._finish("coderd has gone away"))

    def _finish(self, reason: str, *, silent: bool = False) -> None:
        with self._lock:
            if self._ended is not None:
                return
            reason = self._ended = self._cut or reason
            lost = list(self._waiting.values())
            self._waiting.clear()
            self._watching = 0
            if self._alarm is not None:
                self._alarm.cancel()
            self._writer.close()
        if silent:
            self._channel.reset()
        # The writer says goodbye; should it be stuck, that would take for ever.
        self._alarms.at(time.monotonic() + _CLOSING_PATIENCE, self._channel.abort)
        self._tell([partial(one.done, Failure(reason)) for one in lost])
        self._tell_end(reason)

    def _tell_end(self, reason: str) -> None:
        with self._lock:
            on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(reason)

    def _set_alarm(self) -> None:
        """Have :meth:`_ring` called when something is due; the lock is held."""
        due = self._client.deadline
        if self._ended is not None or due is None:
            return
        # PERF: of calls that were answered too.  An alarm that rings too early only looks
        # and sets the next.
        due = min(due, self._first_due, self._quiet_until())
        if self._alarm is not None:
            if self._alarm_at <= due:
                return
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = self._alarms.at(due, self._ring)


def _do_all(actions: deque[Callable[[], None]]) -> None:
    """Do each once; called again after an error it goes on with the next."""
    while actions:
        actions.popleft()()


def _outcome(event: Answered | ErrorAnswered | Finished | Lost) -> RpcResult:
    if isinstance(event, Answered):
        return RpcAnswer(event.data) if event.data else _EMPTY
    if isinstance(event, ErrorAnswered):
        return Refusal(event.text, event.code)
    if isinstance(event, Finished):
        return RpcAnswer(b"")
    return Failure(event.reason, broken=True)


class Writer:
    """Sends what ``take`` returns until it returns nothing.

    ``lock`` guards ``take`` and belongs to the session; :meth:`run` is for a thread of its own.
    """

    def __init__(self, channel: Channel, lock: threading.Lock, take: Callable[[], bytes]) -> None:
        self._channel = channel
        self._lock = lock
        self._take = take
        self._wake = threading.Condition(lock)
        """There is a rest, or it is time to close."""
        self._rest = False
        """Whether the channel has one, so that only the thread may send."""
        self._closing = False

    def send_queued(self) -> None:
        """Send what fits, with the lock held.  Raises ChannelError."""
        if self._rest or self._closing:
            return
        while chunk := self._take():
            if not self._channel.send_now(chunk):
                self._rest = True
                self._wake.notify()
                return

    def close(self) -> None:
        """Have the thread send all there is, say goodbye and return; with the lock held."""
        self._closing = True
        self._wake.notify()

    def run(self) -> None:
        """Wait for a peer that does not read fast enough.  Raises ChannelError."""
        while self._wait():
            self._send_all()
        self._send_all()
        self._channel.close()

    def _wait(self) -> bool:
        """Wait until there is a rest, or return False when it is time to close."""
        with self._wake:
            while not self._rest and not self._closing:
                self._wake.wait()
            return not self._closing

    def _send_all(self) -> None:
        self._channel.flush()
        while chunk := self._next():
            self._channel.send_now(chunk)
            self._channel.flush()

    def _next(self) -> bytes:
        with self._lock:
            chunk = self._take()
            self._rest = bool(chunk)
        return chunk
