"""Storing records: in order per interception, many interceptions at once.

Each interception with something to store is a *lane*.  Of a lane one record is on its way at
a time; a limited number of lanes moves at once, taking turns, so that records leave room for
the calls that requests wait for.  Each answer is reported at once: what is not reported when
the process dies is sent again.

coderd does not recognise a usage record that it has.  So each record is marked before it is
sent, and what became of it before that is told to anybody
(:mod:`~aigateway.actors.control.marks`): whoever takes the place of a dead recorder or of a dead
control plane knows by the marks what is stored and what is still in the air.  A control plane
that ends gives back what it has not sent, and goes on telling what becomes of the rest.

An interception's end is recognised: coderd refuses one that it has, and when an earlier attempt
may have stored it that refusal means "done".
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final

import pykka
from attrs import define, field

from aigateway.actors.control.coderd._calls import Call, Calls
from aigateway.actors.control.coderd._translation import RecordError, encode_record
from aigateway.actors.control.marks import Fate, Marks
from aigateway.actors.control.messages import (
    Accepted,
    Denied,
    Spooled,
    Stored,
    StoreInterception,
    StoreRecords,
    Unavailable,
)
from aigateway.actors.control.outcomes import Answer, Failure, Outcome, Refusal, Run
from aigateway.actors.values.records import InterceptionEnded

__all__ = ["Recording", "is_wrong"]

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
_FEW: Final = 4
"""Interceptions that move at once while there is no queue: what is in the air is in doubt when
the connection breaks."""

StartAnswerer = Callable[[StoreInterception, Accepted | Denied | Unavailable], None]


def is_wrong(text: str) -> bool:
    """Whether coderd says that the record itself is wrong, so that it never will be stored."""
    return text.startswith(_WRONG)


@define
class _Entry:
    spooled: Spooled
    reply_to: pykka.ActorRef[Any]
    marks: Marks


@define(eq=False)
class _Lane:
    owner: str
    waiting: dict[Hashable, _Entry] = field(factory=dict)
    """In their order, which is that in which they came.  The first may be on its way."""
    flying: bool = False

    def first(self) -> _Entry:
        return next(iter(self.waiting.values()))

    def remove_first(self) -> None:
        del self.waiting[next(iter(self.waiting))]


class Recording:
    """Answers StoreInterception and StoreRecords; used in the actor's thread only.

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
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        self._moving = 0
        self._ended: Callable[[], None] | None = None
        """What is to be done when nothing is in the air any more; None: it goes on."""

    # -- the first record

    def start(self, message: StoreInterception) -> None:
        try:
            rpc, data = encode_record(message.record)
        except RecordError as ex:
            self._answer(message, Denied(str(ex), status=500))
            return
        call = Call(
            rpc=rpc,
            request=lambda _version: data,
            done=lambda outcome: self._started(message, call, outcome),
            timeout=self._start_timeout,
        )
        self._calls.ask(call)

    def _started(self, message: StoreInterception, call: Call, outcome: Outcome) -> None:
        again = call.sent > 1 or message.again
        if isinstance(outcome, Answer):
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
        for spooled in message.batch:
            owner = _owner(spooled)
            lane = self._lanes.get(owner)
            if lane is None:
                lane = self._lanes[owner] = _Lane(owner)
                self._ready.append(lane)
            # One that is here already keeps its place.
            key = (id(marks), spooled.seq)
            lane.waiting[key] = _Entry(spooled, message.reply_to, marks)
        self._move()

    def release(self, reason: str, ended: Callable[[], None], *, died: bool) -> None:
        """The actor ends: send back what was not sent, and say what becomes of the rest.

        ``ended`` is called when that is known of everything, perhaps at once.
        """
        self._ended = ended
        self._ready.clear()
        for lane in list(self._lanes.values()):
            _send_back(lane, reason, away=True, died=died, keep_first=lane.flying)
            if not lane.waiting:
                del self._lanes[lane.owner]
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._ended is not None and not self._lanes:
            ended, self._ended = self._ended, _nothing
            ended()

    def _move(self) -> None:
        while self._ready and self._moving < self._allowed:
            lane = self._ready.popleft()
            entry = lane.first()
            seq, marks = entry.spooled.seq, entry.marks
            fate = marks.fate(seq)
            if fate is Fate.STORED:
                self._arrived(lane, entry)
                continue
            if fate is Fate.FLYING:
                # Sent by the control plane before this one.
                landed = partial(self._run, partial(self._landed, lane))
                if not marks.on_landing(seq, landed):
                    self._ready.appendleft(lane)
                continue
            try:
                rpc, data = encode_record(entry.spooled.record)
            except RecordError as ex:
                lane.remove_first()
                _tell(entry.reply_to, Stored(rejected={seq: str(ex)}))
                self._next(lane)
                continue
            doubtful = marks.doubtful(seq)
            if not marks.depart(seq):
                _send_back(lane, "too much waits to be deleted from the spool", away=True)
                self._next(lane)
                continue
            self._send(lane, rpc, data, doubtful)

    @property
    def _allowed(self) -> int:
        """Lanes that may move now: the more, the longer the queue."""
        return min(self._parallel, _FEW + len(self._ready) // 2)

    def _send(self, lane: _Lane, rpc: str, data: bytes, doubtful: bool) -> None:
        self._moving += 1
        lane.flying = True
        self._calls.ask(
            Call(
                rpc=rpc,
                request=lambda _version: data,
                done=lambda outcome: self._answered(lane, outcome, doubtful),
                timeout=self._timeout,
                patient=False,
            )
        )

    def _answered(self, lane: _Lane, outcome: Outcome, doubtful: bool) -> None:
        self._moving -= 1
        lane.flying = False
        entry = lane.first()
        seq, marks = entry.spooled.seq, entry.marks
        if isinstance(outcome, Answer) or (doubtful and _has_ended(entry.spooled, outcome)):
            marks.arrive(seq)
            self._arrived(lane, entry)
        elif isinstance(outcome, Refusal) and is_wrong(outcome.text):
            # Wrong in itself: those behind it may be right.
            marks.refused(seq)
            lane.remove_first()
            _tell(entry.reply_to, Stored(rejected={seq: outcome.text}))
            self._next(lane)
        elif isinstance(outcome, Failure) and outcome.broken and self._ended is None:
            # Kept as it is: what comes for this lane until then waits behind it.
            marks.lost(seq)
            self._later(_DOUBT, partial(self._give_up, lane, outcome.text))
        else:
            if isinstance(outcome, Failure) and outcome.sent:
                marks.lost(seq)
            else:
                marks.refused(seq)
            away = isinstance(outcome, Failure) and outcome.away
            _send_back(lane, outcome.text, away=away or self._ended is not None)
            self._next(lane)
        self._move()

    def _arrived(self, lane: _Lane, entry: _Entry) -> None:
        lane.remove_first()
        _tell(entry.reply_to, Stored(done=(entry.spooled.seq,)))
        self._next(lane)

    def _landed(self, lane: _Lane) -> None:
        """What another control plane had sent of this lane is no longer in the air."""
        if self._lanes.get(lane.owner) is lane and self._ended is None:
            self._ready.append(lane)
            self._move()

    def _give_up(self, lane: _Lane, reason: str) -> None:
        if self._lanes.get(lane.owner) is lane:
            _send_back(lane, reason, away=True)
            self._next(lane)

    def _next(self, lane: _Lane) -> None:
        if self._ended is not None:
            _send_back(lane, _NOT_TRIED, away=True)
        if lane.waiting:
            self._ready.append(lane)
        else:
            del self._lanes[lane.owner]
            self._end_if_idle()


def _nothing() -> None:
    """It has been done."""


def _owner(spooled: Spooled) -> str:
    record = spooled.record
    return record.id if isinstance(record, InterceptionEnded) else record.interception_id


def _has_ended(spooled: Spooled, outcome: Outcome) -> bool:
    """Whether coderd refuses an end because it has one."""
    if not isinstance(spooled.record, InterceptionEnded) or not isinstance(outcome, Refusal):
        return False
    beginning, reason = _ENDED_BEFORE
    return outcome.text.startswith(beginning) and reason in outcome.text


def _send_back(
    lane: _Lane, reason: str, *, away: bool, died: bool = False, keep_first: bool = False
) -> None:
    """Report all of a lane as not stored, each batch to its sender; ``keep_first``: all but the
    first, which is in the air."""
    by_sender: dict[pykka.ActorRef[Any], dict[int, str]] = {}
    text = _NOT_TRIED if keep_first else reason
    for key in list(lane.waiting)[keep_first:]:
        entry = lane.waiting.pop(key)
        by_sender.setdefault(entry.reply_to, {})[entry.spooled.seq] = text
        text = _NOT_TRIED
    for reply_to, retry in by_sender.items():
        _tell(reply_to, Stored(retry=retry, away=away, died=died))


def _tell(receiver: pykka.ActorRef[Any], message: Stored) -> None:
    # A recorder that died meanwhile sends its records again.
    with contextlib.suppress(pykka.ActorDeadError):
        receiver.tell(message)
