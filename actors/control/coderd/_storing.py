"""Storing records: in order per interception, many interceptions at once.

The recorder hands over *parcels*, of each interception one at a time.  Of a parcel one record
is on its way at a time; a limited number of parcels moves at once, so that records leave room
for the calls that requests wait for.  What became of a parcel is told when all of it is known.

coderd does not recognise a usage record that it has.  So each record is marked before it is
sent, and what became of it before anything else is done about it
(:mod:`~aigateway.actors.control.marks`): the successor of a dead recorder or of a dead
control plane knows by the marks what is stored and what is still in the air.  A control plane
that ends gives back what it has not sent, and goes on telling what becomes of the rest.

An interception's end is recognised: coderd refuses one that it has, and when an earlier attempt
may have stored it that refusal means "done".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import pykka
from attrs import define, field

from aigateway.actors.actor.base import tell_quietly
from aigateway.actors.control.coderd._calls import Calls, RpcCall
from aigateway.actors.control.coderd._translation import RecordError, encode_record
from aigateway.actors.control.marks import PARCEL_BITS, Fate, Marks
from aigateway.actors.control.messages import (
    Accepted,
    Begin,
    Denied,
    Spooled,
    Stored,
    StoreRecords,
    Unavailable,
)
from aigateway.actors.control.rpc_results import Failure, Refusal, RpcAnswer, RpcResult, Run
from aigateway.actors.values.records import InterceptionEnded

__all__ = ["Storing", "is_wrong"]

_WRONG: Final = ("invalid ", "failed to parse")
_STORED_BEFORE: Final = "duplicate key value"
_NOT_TRIED: Final = ""
"""The reason given for a record that only stands behind one that was not stored."""
_DOUBT: Final = 1.0
"""Seconds before a record is sent again whose stream broke in a session that goes on.  Such a
session often ends a moment later, with whatever is on its way."""
_ENDED_BEFORE: Final = ("end interception: ", "no rows in result set")
"""How coderd's refusal of an end begins, and what stands in it, when there is nothing to end: the
interception has an end, or does not exist."""
_HERE: Final = Fate.HERE
_FEW: Final = 4
"""Interceptions that move at once while there is no queue: what is in the air is in doubt when
the connection breaks."""

_Gathered = tuple[pykka.ActorRef[Any], object, list[int], dict[int, str]]
"""Who is told, about what, and what is stored or wrong of it."""

StartAnswerer = Callable[[Begin, Accepted | Denied | Unavailable], None]


def is_wrong(text: str) -> bool:
    """Whether coderd says that the record itself is wrong, so that it never will be stored."""
    return text.startswith(_WRONG)


@define(eq=False)
class _Parcel:
    """Records of one interception."""

    key: tuple[int, int]
    marks: Marks
    reply_to: pykka.ActorRef[Any]
    ticket: object
    waiting: dict[int, Spooled] = field(factory=dict)
    """By their numbers, in order.  The first may be on its way."""
    flying: bool = False
    done: list[int] = field(factory=list)
    """What is stored, and not told yet."""
    rejected: dict[int, str] = field(factory=dict)

    def add(self, records: Iterable[Spooled]) -> None:
        """Take records; one that is here already keeps its place."""
        for spooled in records:
            if spooled.seq not in self.done and spooled.seq not in self.rejected:
                self.waiting[spooled.seq] = spooled

    def first(self) -> Spooled:
        return next(iter(self.waiting.values()))

    def send_back(self, reason: str, *, away: bool, died: bool = False) -> None:
        """Report what was not stored, all but a first one that is in the air."""
        kept = self.flying
        text, retry = _NOT_TRIED if kept else reason, {}
        for seq in list(self.waiting)[kept:]:
            del self.waiting[seq]
            retry[seq], text = text, _NOT_TRIED
        if retry:
            self.report(retry, away=away, died=died)

    def report(self, retry: Mapping[int, str], *, away: bool = False, died: bool = False) -> None:
        """Tell what became of it; a recorder that died meanwhile sends its records again."""
        done, rejected = tuple(self.done), self.rejected
        self.done, self.rejected = [], {}
        stored = Stored(done, retry, rejected, away=away, died=died, ticket=self.ticket)
        tell_quietly(self.reply_to, stored)


class Storing:
    """Answers Begin and StoreRecords; used in the actor's thread only.

    ``run`` has something done in that thread, ``later`` after so many seconds.  ``timeout``
    (seconds) is for the records, ``start_timeout`` for the first one, which a request waits for;
    ``parallel`` is the number of interceptions whose records are on their way at once, at most.
    """

    def __init__(
        self,
        calls: Calls,
        answer: StartAnswerer,
        run: Run,
        later: Callable[[float, Callable[[], None]], None],
        *,
        timeout: float,
        start_timeout: float,
        parallel: int,
    ) -> None:
        self._calls = calls
        self._answer = answer
        self._run = run
        self._later = later
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._parallel = parallel
        self._parcels: dict[tuple[int, int], _Parcel] = {}
        """By the marks that they are in, and their numbers."""
        self._ready: deque[_Parcel] = deque()
        self._moving = 0
        self._gathered: dict[tuple[int, int], _Gathered] = {}
        """What is to be told when :meth:`tell` is called."""
        self._ended: Callable[[], None] | None = None
        """What is to be done when nothing is in the air any more; None: it goes on."""

    # -- the first record

    def begin(self, message: Begin) -> None:
        try:
            rpc, data = encode_record(message.record)
        except RecordError as ex:
            self._answer(message, Denied(str(ex), status=500))
            return
        call = RpcCall(
            rpc=rpc,
            request=data,
            done=lambda outcome: self._started(message, call, outcome),
            timeout=self._start_timeout,
        )
        self._calls.ask(call)

    def _started(self, message: Begin, call: RpcCall, outcome: RpcResult) -> None:
        again = call.sent > 1 or message.again
        if isinstance(outcome, RpcAnswer):
            self._answer(message, Accepted())
        elif isinstance(outcome, Refusal) and again and _STORED_BEFORE in outcome.text:
            # It was stored by the attempt whose answer was lost.
            self._answer(message, Accepted())
        elif isinstance(outcome, Refusal) and is_wrong(outcome.text):
            self._answer(message, Denied(outcome.text, status=500))
        else:
            self._answer(message, Unavailable(outcome.text))

    # -- the others

    def store(self, message: StoreRecords) -> None:
        marks = message.marks or Marks()
        for records in message.parcels:
            key = (id(marks), records[0].seq >> PARCEL_BITS)
            parcel = self._parcels.get(key)
            if parcel is None:
                parcel = _Parcel(key, marks, message.reply_to, message.ticket)
                self._parcels[key] = parcel
                self._ready.append(parcel)
            else:
                # From a recorder that was restarted.
                parcel.reply_to, parcel.ticket = message.reply_to, message.ticket
            parcel.add(records)
        self._move()

    def tell(self) -> None:
        """Tell what is known of whole parcels.  To be called before the actor waits.

        PERF: what one piece of coderd's answers says is told in one message.
        """
        if self._gathered:
            gathered, self._gathered = self._gathered, {}
            for reply_to, ticket, done, rejected in gathered.values():
                tell_quietly(reply_to, Stored(tuple(done), {}, rejected, ticket=ticket))

    def release(self, reason: str, ended: Callable[[], None], *, died: bool) -> None:
        """The actor ends: send back what was not sent, and say what becomes of the rest.

        ``ended`` is called when that is known of everything, perhaps at once.
        """
        self._ended = ended
        self.tell()
        self._ready.clear()
        for parcel in list(self._parcels.values()):
            parcel.send_back(reason, away=True, died=died)
            if not parcel.waiting:
                del self._parcels[parcel.key]
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._ended is not None and not self._parcels:
            ended, self._ended = self._ended, _nothing
            ended()

    def _move(self) -> None:
        ready, parallel = self._ready, self._parallel
        # The more may move, the longer the queue.
        while ready and self._moving < parallel and self._moving < _FEW + len(ready) // 2:
            self._go_on(ready.popleft())

    def _go_on(self, parcel: _Parcel) -> None:
        """Send the first record of a parcel, unless that is wrong or has been sent."""
        spooled, marks = parcel.first(), parcel.marks
        seq = spooled.seq
        fate = marks.fate(seq)
        # PERF: an enumeration finds its members by a call, and nearly all records are here.
        if fate is not _HERE:
            if fate is Fate.STORED:
                self._arrived(parcel, seq)
                return
            if fate is Fate.FLYING:
                # Sent by the control plane before this one.
                landed = partial(self._run, partial(self._landed, parcel))
                if not marks.on_landing(seq, landed):
                    self._ready.appendleft(parcel)
                return
        try:
            rpc, data = encode_record(spooled.record)
        except RecordError as ex:
            self._reject(parcel, seq, str(ex))
            return
        doubtful = fate is not _HERE and marks.doubtful(seq)
        if not marks.depart(seq):
            self._send_back(parcel, "too much waits to be deleted from the spool", away=True)
            return
        self._moving += 1
        parcel.flying = True
        done = partial(self._answered, parcel, spooled, doubtful)
        self._calls.send(rpc, data, self._timeout, done)

    def _answered(
        self, parcel: _Parcel, spooled: Spooled, doubtful: bool, outcome: RpcResult
    ) -> None:
        self._moving -= 1
        parcel.flying = False
        seq, marks = spooled.seq, parcel.marks
        if isinstance(outcome, RpcAnswer) or (doubtful and _has_ended(spooled, outcome)):
            marks.arrive(seq)
            self._arrived(parcel, seq)
        elif isinstance(outcome, Refusal) and is_wrong(outcome.text):
            # Wrong in itself: those behind it may be right.
            marks.refused(seq)
            self._reject(parcel, seq, outcome.text)
        elif isinstance(outcome, Failure) and outcome.broken and self._ended is None:
            marks.lost(seq)
            self._later(_DOUBT, partial(self._give_up, parcel, outcome.text))
        else:
            if isinstance(outcome, Failure) and outcome.sent:
                marks.lost(seq)
            else:
                marks.refused(seq)
            away = isinstance(outcome, Failure) and outcome.away
            self._send_back(parcel, outcome.text, away=away or self._ended is not None)
        self._move()

    def _landed(self, parcel: _Parcel) -> None:
        """What another control plane had sent of it is no longer in the air."""
        if self._parcels.get(parcel.key) is parcel and self._ended is None:
            self._ready.append(parcel)
            self._move()

    def _give_up(self, parcel: _Parcel, reason: str) -> None:
        if self._parcels.get(parcel.key) is parcel:
            self._send_back(parcel, reason, away=True)

    # -- what became of the first record of a parcel

    def _arrived(self, parcel: _Parcel, seq: int) -> None:
        parcel.done.append(seq)
        self._next(parcel, seq)

    def _reject(self, parcel: _Parcel, seq: int, reason: str) -> None:
        parcel.rejected[seq] = reason
        self._next(parcel, seq)

    def _next(self, parcel: _Parcel, seq: int) -> None:
        del parcel.waiting[seq]
        if not parcel.waiting:
            self._gather(parcel)
            self._forget(parcel)
        elif self._ended is not None:
            self._send_back(parcel, _NOT_TRIED, away=True)
        else:
            self._ready.append(parcel)

    def _gather(self, parcel: _Parcel) -> None:
        """All is known of a parcel."""
        if self._ended is not None:
            # Nobody calls `tell` any more.
            parcel.report({})
            return
        key = id(parcel.reply_to), id(parcel.ticket)
        gathered = self._gathered.get(key)
        if gathered is None:
            gathered = self._gathered[key] = parcel.reply_to, parcel.ticket, [], {}
        gathered[2].extend(parcel.done)
        gathered[3].update(parcel.rejected)

    def _send_back(self, parcel: _Parcel, reason: str, *, away: bool) -> None:
        parcel.send_back(reason, away=away)
        self._forget(parcel)

    def _forget(self, parcel: _Parcel) -> None:
        del self._parcels[parcel.key]
        self._end_if_idle()


def _nothing() -> None:
    """It has been done."""


def _has_ended(spooled: Spooled, outcome: RpcResult) -> bool:
    """Whether coderd refuses an end because it has one."""
    if not isinstance(spooled.record, InterceptionEnded) or not isinstance(outcome, Refusal):
        return False
    beginning, reason = _ENDED_BEFORE
    return outcome.text.startswith(beginning) and reason in outcome.text
