"""The recorder: nothing that is recorded may be lost, and nothing waits for it in vain.

Theory of operation.  ``Append`` is answered when the records are on disk (one transaction
for all that is in the inbox).  From there they go to the control plane in batches, in order
per interception: while one record of an interception is on its way or refused, the later
ones of the same interception wait; other interceptions pass by.

Of a spooled record memory holds at most ``WINDOW``; the rest stays on disk, behind the
``cursor``.  What the control plane refuses goes back to disk with a time to try again, and
in the end to the dead letters.  While the control plane is away nothing is counted against
a record: the recorder pauses and tries again with back-off.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import Timer
from typing import Any

import pykka
import structlog
from attrs import field, frozen

from aigateway.actors.actor import ActorDied, GatewayActor, Reply, complete, fail
from aigateway.actors.coderd.messages import (
    Accepted,
    Denied,
    Spooled,
    Stored,
    StoreInterception,
    StoreRecords,
    Unavailable,
)
from aigateway.actors.recorder.records import Interception, InterceptionEnded, UsageRecord
from aigateway.actors.recorder.spool import Spool, SpoolError, SpoolStats, claim_spool
from aigateway.actors.tree import ActorTree

__all__ = [
    "Append",
    "Begin",
    "ControlPlaneChanged",
    "Flushed",
    "GetSpoolStats",
    "Recorder",
    "Redeliver",
]

WINDOW = 2048
"""Records held in memory, at most: some seconds of a busy worker."""
BATCH = 256
"""Records handed to the control plane in one message."""
MAX_ATTEMPTS = 20
MAX_AGE = 24 * 3600.0
"""A refused record is set aside after this many attempts, or when it is this old (seconds)."""
RETRY_FLOOR, RETRY_CEILING = 0.5, 300.0
"""Back-off of a refused record, in seconds."""
PAUSE_FLOOR, PAUSE_CEILING = 0.05, 10.0
"""Back-off while the control plane is away: the same as of its connection (spec)."""
DISK_RETRY = 1.0
"""Seconds between attempts to write to a disk that refuses."""
ADOPT_EVERY = 30.0
"""Seconds between looks for spools that a dead worker left behind."""

log = structlog.get_logger("ai-gateway.recorder")


@frozen
class Begin:
    """Record the start of an interception; replies when the control plane has accepted it."""

    record: Interception
    reply: Reply[Accepted | Denied | Unavailable] = field(repr=False, eq=False)


@frozen
class Append:
    """Keep these records; replies True when they are on disk.  The reply may be left out."""

    records: tuple[UsageRecord | InterceptionEnded, ...]
    reply: Reply[bool] | None = field(default=None, repr=False, eq=False)


@frozen
class GetSpoolStats:
    """Asked: answers :class:`SpoolStats`."""


@frozen
class Redeliver:
    """Asked: puts all dead letters back into the spool, answers how many."""


@frozen
class Flushed:
    """Replies True as soon as nothing is waiting any more."""

    reply: Reply[bool] = field(repr=False, eq=False)


@frozen
class ControlPlaneChanged:
    """The control plane actor was replaced, or is connected again: try now."""

    replaced: bool = False


@frozen
class _Write:
    """All ``Append`` that were in the inbox before this are written together."""


@frozen
class _Wake:
    """A pause is over."""


@frozen
class _Adopt:
    """Time to look for spools that nobody holds."""


class Recorder(GatewayActor):
    """Owns one spool and empties it into the control plane."""

    def __init__(
        self,
        role: str,
        watcher: Any,
        *,
        tree: ActorTree,
        folder: Path,
        max_size: int,
        adopt_every: float = ADOPT_EVERY,
    ) -> None:
        super().__init__(role, watcher)
        self._tree = tree
        self._folder = folder
        self._max_size = max_size
        self._adopt_every = adopt_every
        self._spool: Spool | None = None
        self._appended: list[Append] = []
        self._done: list[int] = []
        self._write_told = False
        self._ready: deque[Spooled] = deque()
        self._cursor = 0
        self._sent: dict[int, Spooled] = {}
        self._busy: dict[str, int] = {}
        self._behind: dict[str, list[Spooled]] = {}
        self._refused: dict[str, float] = {}
        self._pause = 0.0
        self._paused = False
        self._timer: Timer | None = None
        self._adopter: Timer | None = None
        self._waiting: list[Flushed] = []
        self._full = False
        self._disk_full = False

    # -- life

    def started(self) -> None:
        spool = claim_spool(self._folder)
        assert spool is not None, "a spool of one's own is always found or made"
        self._spool = spool
        if spool.depth:
            log.info(
                "taking up records of an earlier run", records=spool.depth, spool=spool.path.name
            )
        self._adopt()
        self._pump()

    def release(self) -> None:
        for timer in (self._timer, self._adopter):
            if timer is not None:
                timer.cancel()
        for append in self._appended:
            fail(append.reply, ActorDied("the recorder stopped before the records were on disk"))
        for flushed in self._waiting:
            fail(flushed.reply, ActorDied("the recorder stopped"))
        if self._spool is not None:
            self._spool.close(remove=True)
            self._spool = None

    # -- messages

    def receive(self, message: Any) -> Any:
        match message:
            case Append():
                self._appended.append(message)
                self._tell_write()
            case _Write():
                self._write_told = False
                self._write()
            case Begin():
                self._begin(message)
            case Stored():
                self._stored(message)
            case _Wake():
                self._timer = None
                self._paused = False
                self._pump()
            case ControlPlaneChanged():
                self._control_plane_changed(message.replaced)
            case Flushed():
                self._waiting.append(message)
                self._tell_write()
            case GetSpoolStats():
                return self._stats()
            case Redeliver():
                return self._redeliver()
            case _Adopt():
                self._adopt()
                self._pump()
            case _:
                raise TypeError(f"recorder: unknown message {type(message).__name__}")
        return None

    def _begin(self, message: Begin) -> None:
        if self._full or self._disk_full:
            complete(
                message.reply,
                Unavailable("the record spool is full, try again later", retry_after=5.0),
            )
            return
        control = self._tree.find("control-plane")
        if control is None:
            complete(message.reply, Unavailable("the control plane is restarting"))
            return
        _tell(control, StoreInterception(message.record, message.reply), message.reply)

    def _stats(self) -> SpoolStats:
        assert self._spool is not None
        return self._spool.stats()

    def _redeliver(self) -> int:
        assert self._spool is not None
        count = self._spool.revive()
        log.info("dead letters are sent again", records=count)
        self._pump()
        return count

    # -- on disk

    def _tell_write(self) -> None:
        if not self._write_told:
            self._write_told = True
            self.actor_ref.tell(_Write())

    def _write(self) -> None:
        assert self._spool is not None
        appended, self._appended = self._appended, []
        done, self._done = self._done, []
        records = [record for append in appended for record in append.records]
        all_loaded = not self._behind_cursor()
        if records or done:
            try:
                spooled = self._spool.write(records, done)
            except SpoolError as ex:
                self._disk_refused(appended, done, ex)
                return
            if self._refused:
                self._hold_behind_refused(spooled)
            elif spooled and all_loaded and len(self._ready) + len(self._sent) < WINDOW:
                self._ready.extend(spooled)
                self._cursor = spooled[-1].seq
        self._disk_full = False
        for append in appended:
            complete(append.reply, True)
        self._check_size()
        self._pump()
        if self._spool.depth == 0 and not self._appended:
            waiting, self._waiting = self._waiting, []
            for flushed in waiting:
                complete(flushed.reply, True)

    def _disk_refused(self, appended: list[Append], done: list[int], ex: SpoolError) -> None:
        """Keep everything in memory, take no new interceptions, try again in a moment."""
        self._appended = appended + self._appended
        self._done = done + self._done
        self._disk_full = True
        log.error("cannot write the spool, will retry", error=str(ex), waiting=len(self._appended))
        self._write_told = True
        self._start_timer(DISK_RETRY, _Write())

    def _hold_behind_refused(self, spooled: list[Spooled]) -> None:
        """New records of an interception with a refused one wait as long as that one."""
        assert self._spool is not None
        for new in spooled:
            next_at = self._refused.get(_owner(new))
            if next_at is not None:
                self._spool.hold([new.seq], next_at)

    def _behind_cursor(self) -> bool:
        """Whether the spool holds records that were never loaded into memory."""
        assert self._spool is not None
        in_memory = len(self._ready) + len(self._sent) + sum(map(len, self._behind.values()))
        return self._spool.depth > in_memory + len(self._done)

    def _check_size(self) -> None:
        assert self._spool is not None
        # A depth that fits into memory cannot be near any sensible limit.
        full = self._spool.depth > WINDOW and self._spool.size() >= self._max_size
        if full != self._full:
            self._full = full
            if full:
                log.error(
                    "the record spool is full: new interceptions are refused",
                    records=self._spool.depth,
                    limit_bytes=self._max_size,
                )
            else:
                log.info("the record spool has room again", records=self._spool.depth)

    def _adopt(self) -> None:
        assert self._spool is not None
        if self._adopter is not None:
            self._adopter.cancel()
        while (left := claim_spool(self._folder, own=False)) is not None:
            if left.depth or left.dead_letters:
                count = self._spool.adopt(left)
                log.info(
                    "took over the spool of a dead worker", records=count, spool=left.path.name
                )
            left.close(remove=True)
        self._adopter = self._start_timer(self._adopt_every, _Adopt())

    # -- to the control plane

    def _pump(self) -> None:
        """Hand over what may go now."""
        if self._paused or self._spool is None:
            return
        self._load()
        while self._ready:
            batch = self._take_batch()
            if not batch:
                break
            control = self._tree.find("control-plane")
            if control is None or not _tell(control, StoreRecords(batch, self.actor_ref), None):
                self._stored(Stored(retry={spooled.seq: "" for spooled in batch}, away=True))
                return
        self._set_retry_timer()

    def _load(self) -> None:
        assert self._spool is not None
        room = WINDOW - len(self._ready) - len(self._sent) - sum(map(len, self._behind.values()))
        if room <= 0 or not self._behind_cursor():
            return
        now = time.time()
        due = [s for s in self._spool.due(now, room) if s.seq not in self._sent]
        if due:
            # A lease: should this process die now, they are due again a minute later.
            self._spool.hold([s.seq for s in due], now + 60.0)
            for spooled in due:
                self._refused.pop(_owner(spooled), None)
            self._ready.extend(due)
            room -= len(due)
        fresh = self._spool.fresh(self._cursor, room)
        if fresh:
            self._ready.extend(fresh)
            self._cursor = fresh[-1].seq

    def _take_batch(self) -> tuple[Spooled, ...]:
        batch: list[Spooled] = []
        mine: set[str] = set()
        while self._ready and len(batch) < BATCH:
            spooled = self._ready.popleft()
            owner = _owner(spooled)
            if owner in self._busy and owner not in mine:
                self._behind.setdefault(owner, []).append(spooled)
                continue
            mine.add(owner)
            self._busy[owner] = self._busy.get(owner, 0) + 1
            self._sent[spooled.seq] = spooled
            batch.append(spooled)
        return tuple(batch)

    def _stored(self, answer: Stored) -> None:
        self._done.extend(seq for seq in answer.done if self._settle(seq) is not None)
        if answer.rejected:
            self._set_aside(answer.rejected)
        if answer.retry:
            if answer.away:
                self._put_back(answer.retry)
            else:
                self._postpone(answer.retry)
        if answer.done:
            self._pause = 0.0
        if self._done or self._waiting:
            self._tell_write()
        if answer.away:
            self._go_to_sleep()
        else:
            self._pump()

    def _settle(self, seq: int) -> Spooled | None:
        """A record has come back; those behind it may move when it was the last one out."""
        spooled = self._sent.pop(seq, None)
        if spooled is None:
            return None
        owner = _owner(spooled)
        left = self._busy[owner] - 1
        if left:
            self._busy[owner] = left
        else:
            del self._busy[owner]
            self._ready.extendleft(reversed(self._behind.pop(owner, [])))
        return spooled

    def _put_back(self, seqs: Mapping[int, str]) -> None:
        returned = [s for seq in sorted(seqs) if (s := self._settle(seq)) is not None]
        waiting = sorted([*returned, *self._ready], key=lambda spooled: spooled.seq)
        self._ready = deque(waiting)

    def _set_aside(self, rejected: Mapping[int, str]) -> None:
        assert self._spool is not None
        gone = [(seq, text) for seq, text in rejected.items() if self._settle(seq) is not None]
        for seq, text in gone:
            log.error("a record was refused for good and set aside", seq=seq, reason=text)
        self._spool.set_aside(gone, time.time())

    def _postpone(self, refused: Mapping[int, str]) -> None:
        assert self._spool is not None
        now = time.time()
        later: dict[float, list[tuple[int, str, str]]] = {}
        for seq, text in refused.items():
            spooled = self._settle(seq)
            if spooled is None:
                continue
            attempts, created_at = self._spool.attempts(seq)
            # An empty text: not tried, only behind one of the same interception that was.
            if text and (attempts + 1 >= MAX_ATTEMPTS or now - created_at > MAX_AGE):
                log.error("a record was refused too often and set aside", seq=seq, reason=text)
                self._spool.set_aside([(seq, text)], now)
                continue
            delay = min(RETRY_CEILING, RETRY_FLOOR * 2.0**attempts)
            later.setdefault(now + delay, []).append((seq, _owner(spooled), text))
        for next_at, entries in later.items():
            self._spool.postpone([entry for entry in entries if entry[2]], next_at)
            self._spool.hold([seq for seq, _, text in entries if not text], next_at)
            self._refused.update((owner, next_at) for _, owner, _ in entries)
        self._forget({owner for entries in later.values() for _, owner, _ in entries})

    def _forget(self, owners: set[str]) -> None:
        """Later records of these interceptions wait on disk, not in memory.

        They were given the same time to try again as the one that was refused.
        """
        self._ready = deque(s for s in self._ready if _owner(s) not in owners)
        for owner in owners:
            self._behind.pop(owner, None)

    def _control_plane_changed(self, replaced: bool) -> None:
        if replaced and self._sent:
            # What the old one held is lost with it, answers included.
            self._put_back(dict.fromkeys(self._sent, ""))
        self._paused = False
        self._pause = 0.0
        self._pump()

    # -- time

    def _go_to_sleep(self) -> None:
        self._pause = min(PAUSE_CEILING, max(PAUSE_FLOOR, self._pause * 1.618))
        self._paused = True
        self._set_timer(self._pause)

    def _set_retry_timer(self) -> None:
        assert self._spool is not None
        if self._timer is None and self._behind_cursor():
            due = self._spool.next_due()
            if due is not None:
                self._set_timer(max(0.05, due - time.time()))

    def _set_timer(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._start_timer(delay, _Wake())

    def _start_timer(self, delay: float, message: Any) -> Timer:
        timer = Timer(delay, _tell, (self.actor_ref, message, None))
        timer.daemon = True
        timer.start()
        return timer


def _owner(spooled: Spooled) -> str:
    record = spooled.record
    return record.id if isinstance(record, InterceptionEnded) else record.interception_id


def _tell(ref: pykka.ActorRef[Any], message: Any, reply: Reply[Any] | None) -> bool:
    """Tell an actor that may be dead; say whether it was told."""
    try:
        ref.tell(message)
    except pykka.ActorDeadError as ex:
        fail(reply, ActorDied(str(ex)))
        return False
    return True
