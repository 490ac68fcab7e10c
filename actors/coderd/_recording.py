"""Storing records: in order per interception, many interceptions at once.

Each interception with something to store is a *lane*.  Of a lane one record is on its way at
a time; a limited number of lanes moves at once, taking turns, so that records leave room for
the calls that requests wait for.  Each answer is reported at once: what is not reported when
the process dies is sent again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
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

StartAnswerer = Callable[[StoreInterception, Accepted | Denied | Unavailable], None]


def is_wrong(text: str) -> bool:
    """Whether coderd says that the record itself is wrong, so that it never will be stored."""
    return text.startswith(_WRONG)


@define(eq=False)
class _Lane:
    owner: str
    waiting: deque[tuple[Spooled, pykka.ActorRef[Any]]] = field(factory=deque)


class Recording:
    """Answers StoreInterception and StoreRecords; used in the actor's thread only.

    ``timeout`` (seconds) is for the records, ``start_timeout`` for the first one, which a
    request waits for; ``parallel`` is the number of interceptions whose records are on their
    way at once.
    """

    def __init__(
        self,
        calls: Calls,
        answer: StartAnswerer,
        *,
        timeout: float,
        start_timeout: float,
        parallel: int,
    ) -> None:
        self._calls = calls
        self._answer = answer
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._parallel = parallel
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        self._moving = 0

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
            owner = _owner(spooled)
            lane = self._lanes.get(owner)
            if lane is None:
                lane = self._lanes[owner] = _Lane(owner)
                self._ready.append(lane)
            lane.waiting.append((spooled, message.reply_to))
        self._move()

    def release(self, reason: str) -> None:
        """Send everything back: the actor ends."""
        for lane in self._lanes.values():
            _send_back(lane, reason, away=True)
        self._lanes.clear()

    def _move(self) -> None:
        while self._ready and self._moving < self._parallel:
            lane = self._ready.popleft()
            spooled, reply_to = lane.waiting[0]
            try:
                rpc, data = encode_record(spooled.record)
            except RecordError as ex:
                lane.waiting.popleft()
                _tell(reply_to, Stored(rejected={spooled.seq: str(ex)}))
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
        spooled, reply_to = lane.waiting[0]
        if isinstance(outcome, Answer):
            lane.waiting.popleft()
            _tell(reply_to, Stored(done=(spooled.seq,)))
        elif isinstance(outcome, Refusal) and is_wrong(outcome.text):
            # Wrong in itself: those behind it may be right.
            lane.waiting.popleft()
            _tell(reply_to, Stored(rejected={spooled.seq: outcome.text}))
        else:
            away = isinstance(outcome, Failure) and outcome.away
            _send_back(lane, outcome.text, away=away)
        self._next(lane)
        self._move()

    def _next(self, lane: _Lane) -> None:
        if lane.waiting:
            self._ready.append(lane)
        else:
            del self._lanes[lane.owner]


def _owner(spooled: Spooled) -> str:
    record = spooled.record
    return record.id if isinstance(record, InterceptionEnded) else record.interception_id


def _send_back(lane: _Lane, reason: str, *, away: bool) -> None:
    """Report all of a lane as not stored, each batch to its sender."""
    first = lane.waiting[0][0].seq
    by_sender: dict[pykka.ActorRef[Any], dict[int, str]] = {}
    for spooled, reply_to in lane.waiting:
        text = reason if spooled.seq == first else _NOT_TRIED
        by_sender.setdefault(reply_to, {})[spooled.seq] = text
    lane.waiting.clear()
    for reply_to, retry in by_sender.items():
        _tell(reply_to, Stored(retry=retry, away=away))


def _tell(receiver: pykka.ActorRef[Any], message: Stored) -> None:
    # A recorder that died meanwhile sends its records again.
    with contextlib.suppress(pykka.ActorDeadError):
        receiver.tell(message)
