"""Storing records: in order per interception, many interceptions at once.

Each interception with something to store is a *lane*.  Of a lane one record is on its way at
a time; a limited number of lanes moves at once, taking turns, so that records leave room for
the calls that requests wait for.  Each answer is reported at once: what is not reported when
the process dies is sent again.

coderd does not recognise a record that it has.  So a recorder that takes the place of a dead
one, and sends what that one had sent, is told of the records that are here already, and of
those that were stored in the last moments of the dead one, which did not hear of it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final

import pykka
from attrs import define, field

from aigateway.actors.coderd._calls import Call, Calls
from aigateway.actors.coderd._outcomes import Answer, Failure, Outcome, Refusal
from aigateway.actors.coderd._translation import RecordError, encode_record
from aigateway.actors.coderd.messages import (
    Accepted,
    Denied,
    Spooled,
    Stored,
    StoreInterception,
    StoreRecords,
    Unavailable,
)
from aigateway.actors.recorder.records import InterceptionEnded

__all__ = ["Recording", "is_wrong"]

_WRONG: Final = ("invalid ", "failed to parse")
_STORED_BEFORE: Final = "duplicate key value"
_NOT_TRIED: Final = ""
"""The reason given for a record that only stands behind one that was not stored."""
_DOUBT: Final = 1.0
"""Seconds before a record is sent again whose stream broke in a session that goes on.  Such a
session often ends a moment later, with whatever is on its way."""
_REMEMBERED: Final = 4096
"""Records stored last; more than a recorder may be told of before it has taken note."""

StartAnswerer = Callable[[StoreInterception, Accepted | Denied | Unavailable], None]


def is_wrong(text: str) -> bool:
    """Whether coderd says that the record itself is wrong, so that it never will be stored."""
    return text.startswith(_WRONG)


@define
class _Entry:
    spooled: Spooled
    reply_to: pykka.ActorRef[Any]


@define(eq=False)
class _Lane:
    owner: str
    waiting: dict[Hashable, _Entry] = field(factory=dict)
    """In their order, which is that in which they came.  The first may be on its way."""

    def first(self) -> _Entry:
        return next(iter(self.waiting.values()))

    def remove_first(self) -> Hashable:
        """Remove it and return what it is known by."""
        key = next(iter(self.waiting))
        del self.waiting[key]
        return key


class Recording:
    """Answers StoreInterception and StoreRecords; used in the actor's thread only.

    ``later`` has something done after so many seconds.  ``timeout`` (seconds) is for the
    records, ``start_timeout`` for the first one, which a request waits for; ``parallel`` is
    the number of interceptions whose records are on their way at once.
    """

    def __init__(
        self,
        calls: Calls,
        answer: StartAnswerer,
        later: Callable[[float, Callable[[], None]], None],
        *,
        timeout: float,
        start_timeout: float,
        parallel: int,
    ) -> None:
        self._calls = calls
        self._answer = answer
        self._later = later
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._parallel = parallel
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        self._moving = 0
        self._stored: dict[Hashable, None] = {}
        """What was stored last, oldest first."""

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
        if isinstance(outcome, Answer):
            self._answer(message, Accepted())
        elif isinstance(outcome, Refusal) and call.sent > 1 and _STORED_BEFORE in outcome.text:
            # It was stored by the attempt whose answer was lost.
            self._answer(message, Accepted())
        elif isinstance(outcome, Refusal) and is_wrong(outcome.text):
            self._answer(message, Denied(outcome.text, status=500))
        else:
            self._answer(message, Unavailable(outcome.text))

    # -- the others

    def store(self, message: StoreRecords) -> None:
        for spooled in message.batch:
            key = _key(spooled)
            if key in self._stored:
                _tell(message.reply_to, Stored(done=(spooled.seq,)))
                continue
            owner = _owner(spooled)
            lane = self._lanes.get(owner)
            if lane is None:
                lane = self._lanes[owner] = _Lane(owner)
                self._ready.append(lane)
            # One that is here already keeps its place.
            lane.waiting[key] = _Entry(spooled, message.reply_to)
        self._move()

    def release(self, reason: str) -> None:
        """Send everything back: the actor ends."""
        for lane in self._lanes.values():
            _send_back(lane, reason, away=True)
        self._lanes.clear()

    def _move(self) -> None:
        while self._ready and self._moving < self._parallel:
            lane = self._ready.popleft()
            entry = lane.first()
            try:
                rpc, data = encode_record(entry.spooled.record)
            except RecordError as ex:
                lane.remove_first()
                _tell(entry.reply_to, Stored(rejected={entry.spooled.seq: str(ex)}))
                self._next(lane)
                continue
            self._moving += 1
            self._send(lane, rpc, data)

    def _send(self, lane: _Lane, rpc: str, data: bytes) -> None:
        self._calls.ask(
            Call(
                rpc=rpc,
                request=lambda _version: data,
                done=lambda outcome: self._answered(lane, outcome),
                timeout=self._timeout,
                patient=False,
            )
        )

    def _answered(self, lane: _Lane, outcome: Outcome) -> None:
        self._moving -= 1
        entry = lane.first()
        if isinstance(outcome, Answer):
            self._remember(lane.remove_first())
            _tell(entry.reply_to, Stored(done=(entry.spooled.seq,)))
        elif isinstance(outcome, Refusal) and is_wrong(outcome.text):
            # Wrong in itself: those behind it may be right.
            lane.remove_first()
            _tell(entry.reply_to, Stored(rejected={entry.spooled.seq: outcome.text}))
        elif isinstance(outcome, Failure) and outcome.broken:
            # Kept as it is: what comes for this lane until then waits behind it.
            self._later(_DOUBT, partial(self._give_up, lane, outcome.text))
            self._move()
            return
        else:
            away = isinstance(outcome, Failure) and outcome.away
            _send_back(lane, outcome.text, away=away)
        self._next(lane)
        self._move()

    def _give_up(self, lane: _Lane, reason: str) -> None:
        if self._lanes.get(lane.owner) is lane:
            _send_back(lane, reason, away=True)
            self._next(lane)

    def _remember(self, key: Hashable) -> None:
        self._stored[key] = None
        if len(self._stored) > _REMEMBERED:
            del self._stored[next(iter(self._stored))]

    def _next(self, lane: _Lane) -> None:
        if lane.waiting:
            self._ready.append(lane)
        else:
            del self._lanes[lane.owner]


def _owner(spooled: Spooled) -> str:
    record = spooled.record
    return record.id if isinstance(record, InterceptionEnded) else record.interception_id


def _key(spooled: Spooled) -> Hashable:
    """What a record is known by, however often it is sent; one without an id never is."""
    record = spooled.record
    if isinstance(record, InterceptionEnded):
        return InterceptionEnded, record.id
    return type(record), record.interception_id, record.record_id or object()


def _send_back(lane: _Lane, reason: str, *, away: bool) -> None:
    """Report all of a lane as not stored, each batch to its sender."""
    by_sender: dict[pykka.ActorRef[Any], dict[int, str]] = {}
    text = reason
    for entry in lane.waiting.values():
        by_sender.setdefault(entry.reply_to, {})[entry.spooled.seq] = text
        text = _NOT_TRIED
    lane.waiting.clear()
    for reply_to, retry in by_sender.items():
        _tell(reply_to, Stored(retry=retry, away=away))


def _tell(receiver: pykka.ActorRef[Any], message: Stored) -> None:
    # A recorder that died meanwhile sends its records again.
    with contextlib.suppress(pykka.ActorDeadError):
        receiver.tell(message)
