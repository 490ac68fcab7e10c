"""One spool: its delivery to the control plane, how its disk is, whether it is full, and the long
work on it."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal

import structlog

from aigateway.actors.actor.base import complete
from aigateway.actors.control.marks import Fate
from aigateway.actors.control.messages import Stored
from aigateway.actors.recorder.custody import Estate, Promise
from aigateway.actors.recorder.delivery import Delivery, back_off
from aigateway.actors.recorder.lanes import RETRY_CEILING, WINDOW
from aigateway.actors.recorder.messages import Append, DiscardDeadLetters, Redeliver
from aigateway.actors.recorder.parcels import Changes, Parcel
from aigateway.actors.recorder.spool import (
    DiskState,
    Spool,
    SpoolCorrupt,
    SpoolError,
    renew,
    replace_damaged,
)

__all__ = ["Chores", "DISK_RETRY", "Desk", "Gauge", "SLOW"]

log = structlog.get_logger("ai-gateway.recorder")

DISK_RETRY = 1.0
"""Seconds between attempts to write to a disk that refuses, or is slow."""
SLOW = 1.0
"""Seconds for one transaction from which on a disk is called slow; it usually takes a
thousandth of that."""
_ALL_DELIVERED = "all that was in it is delivered"
"""Why a file that is not damaged is replaced."""
AHEAD = 0.05
"""Seconds that records may be in memory alone while a control plane has them that keeps them as a
spool does."""
DELETE_WAIT, DELETE_MANY = 0.1, 256
"""Seconds that what was delivered stays on disk, and records of it, unless something else is
written before.

PERF: a transaction for deleting alone is a quarter of what a request costs here.  A process that
is killed meanwhile sends nothing twice that a Coder deployment has: that is in the marks, which
have room for many times as much."""
_STEP = 256
"""Parcels deleted in one transaction on a full disk, at first."""


class Desk:
    """What a recorder does with one spool.  Times are monotonic seconds."""

    def __init__(self, estate: Estate) -> None:
        self.spool: Spool = estate.spool
        self.delivery = Delivery()
        self.appended: list[Append] = estate.unwritten
        """To be written next."""
        self.written = 0
        """Bytes of new records, ever growing."""
        self.state = DiskState.OK
        self.damaged = ""
        """Why the spool file must be replaced."""
        self.stuck = False
        """Whether the last attempt to write has failed."""
        self._refused_until = 0.0
        self._delete_at = 0.0
        """When what was delivered is to be deleted; 0: not known yet."""
        self._in_memory: dict[int, Parcel] = {parcel.number: parcel for parcel in estate.in_memory}
        """Parcels that are not on disk, in order: it has refused them, or has not been asked."""
        self._outside: deque[Parcel] = deque(estate.in_memory)
        """Those of them that the delivery does not know of yet."""
        self._promises: list[Promise] = estate.promises

    def take_up(self) -> None:
        """Begin with what is in the spool.  Raises SpoolCorrupt."""
        now, wall = time.monotonic(), time.time()
        refusals = self.spool.refusals()
        for _, refusal in refusals:
            # The clock on the wall may have been set since.
            wait = min(refusal.next_at - wall, back_off(refusal.attempts))
            age = min(wall - refusal.since, refusal.attempts * RETRY_CEILING)
            refusal.next_at, refusal.since = now + max(0.0, wait), now - max(0.0, age)
        self.delivery.lanes.resume(refusals, backlog=self.spool.depth > 0)
        self.spool.forget_strangers(self._in_memory.keys())
        for number, parcel in self._in_memory.items():
            self._drop_stored(parcel)
            if not parcel.records:
                self.spool.marks.forget([number])
        self._settle_promises()

    def leave(self) -> Estate:
        """All that a successor needs."""
        # Who was told of this death already comes again.
        unwritten = [a for a in self.appended if a.reply is None or not a.reply.known]
        parcels = list(self._in_memory.values())
        return Estate(self.spool, unwritten, parcels, self._promises)

    # -- how it is

    @property
    def refusing(self) -> bool:
        """Whether nothing new should begin: the disk takes nothing, or has no room for deleting
        what will have been delivered."""
        return self.state not in (DiskState.OK, DiskState.SLOW)

    @property
    def depth(self) -> int:
        """Records that wait, on disk and in memory."""
        waiting = sum(len(append.records) for append in self.appended)
        return self.spool.depth - self.delivery.lanes.changes.gone + waiting + self.in_memory

    @property
    def in_memory(self) -> int:
        """Records that are not on disk."""
        return sum(len(parcel.records) for parcel in self._in_memory.values())

    @property
    def empty(self) -> bool:
        """Whether all is delivered, and no dead letter is left."""
        return not (self.depth or self.spool.dead_letters or self.delivery.lanes.changes)

    @property
    def pressing(self) -> bool:
        """Whether what became of records is to be written at once."""
        changes = self.delivery.lanes.changes
        return changes.more_than_done or changes.gone >= DELETE_MANY

    # -- to the disk

    def write(self, *, last: bool = False, ahead: bool = False) -> float | None:
        """Write what is to be written; return the seconds after which to call again though
        nothing has happened, None when there is no need to.

        ``last``: the disk is asked in any case, though it refused a moment ago.  ``ahead``: what
        was appended may be delivered first, and only what takes too long is written.
        """
        began = time.monotonic()
        if ahead and not last and (wait := self._may_wait(began)) is not None:
            return wait
        if self.stuck and began < self._refused_until and not last:
            self._keep_in_memory()
            return self._refused_until - began
        if not last and (wait := self._deletes_later(began)) is not False:
            return wait
        try:
            if self.state is not DiskState.OK and not (self.damaged or self._has_news()):
                self.spool.probe()
            self._write_down()
        except SpoolCorrupt as ex:
            self.damaged = str(ex)
            return 0.0
        except SpoolError as ex:
            return self.refused(ex)
        self.stuck = False
        took = time.monotonic() - began
        if not self.spool.reserved:
            self.spool.keep_reserve()
        if not self.spool.reserved:
            self.spool.give_back()
            self.spool.keep_reserve()
        if not self.spool.reserved:
            self._now_is(DiskState.FULL, "there is no room for deleting what will be delivered")
        else:
            self._now_is(DiskState.OK if took < SLOW else DiskState.SLOW)
        return None if self.state is DiskState.OK else DISK_RETRY

    def _may_wait(self, now: float) -> float | None:
        """For how many seconds what is in memory need not be written, since it is on its way; None
        where it must be, or nothing is."""
        if not (self.appended or self._in_memory) or self.state is not DiskState.OK:
            return None
        if self.damaged or self.stuck or self.pressing or self.delivery.paused(now):
            return None
        self._keep_in_memory()
        if self._outside or not self._promises:
            return None
        wait = self._promises[0].since + AHEAD - now
        return wait if wait > 0 else None

    def _deletes_later(self, now: float) -> float | Literal[False] | None:
        """Whether there is nothing to do but to delete what was delivered, if that; then when."""
        if self.damaged or self.appended or self._in_memory or self.pressing:
            return False
        if self.state is not DiskState.OK or not self.spool.marks.lasting:
            return False
        if not self.delivery.lanes.changes:
            return None
        self._delete_at = self._delete_at or now + DELETE_WAIT
        return self._delete_at - now if now < self._delete_at else False

    def refused(self, ex: SpoolError) -> float | None:
        """The disk does not work; keep what is in memory, and try again in a moment."""
        if isinstance(ex, SpoolCorrupt):
            self.damaged = str(ex)
            return 0.0
        self.stuck = True
        self._now_is(ex.state, str(ex))
        self._refused_until = time.monotonic() + DISK_RETRY
        self._keep_in_memory()
        for number in (*self.delivery.lanes.changes.done, *self.delivery.lanes.changes.done_held):
            self.spool.marks.fold(number)
        return DISK_RETRY

    def _now_is(self, state: DiskState, error: str = "") -> None:
        if state is self.state:
            return
        if state is DiskState.OK:
            log.info("the spool can be written again", disk=str(state), was=str(self.state))
        elif state is DiskState.SLOW:
            log.warning("the disk of the state folder is slow", disk=str(state))
        else:
            log.error(
                "cannot use the spool: new interceptions are refused until it works",
                disk=str(state),
                error=error,
            )
        self.state = state

    def _has_news(self) -> bool:
        return bool(self.appended or self._in_memory or self.delivery.lanes.changes)

    def _write_down(self) -> None:
        """Write what was appended and what became of records.  Raises SpoolError."""
        if self.damaged:
            self._replace_spool(self.damaged)
        if not self._has_news():
            return
        try:
            parcels = self._write_to_spool()
        except SpoolCorrupt as ex:
            self._replace_spool(str(ex))
            parcels = self._write_to_spool()
        except SpoolError as ex:
            if ex.state is DiskState.READ_ONLY:
                raise
            parcels = self._make_room()
        outside, self._outside = self._outside, deque()
        self.delivery.lanes.appended([*outside, *parcels])
        self.written += sum(parcel.size for parcel in parcels)
        if self._in_memory:
            self._settle_promises()

    def _write_to_spool(self, *, new: bool = True) -> list[Parcel]:
        """All, or only the ``new=False`` changes, in one transaction."""
        lanes = self.delivery.lanes
        changes = lanes.changes
        wall = time.time()
        records = [record for append in self.appended for record in append.records] if new else []
        kept: list[Parcel] = []
        if new and self._in_memory:
            held = {parcel.number for parcel in changes.held}
            # Held ones may be on disk already: the other changes were written before.
            kept = [
                parcel
                for parcel in self._in_memory.values()
                if parcel.records and not parcel.on_disk and parcel.number not in held
            ]
        parcels = self.spool.write(records, changes, wall, wall - time.monotonic(), kept)
        lanes.changes = Changes()
        self._delete_at = 0.0
        if new:
            appended, self.appended = self.appended, []
            for append in appended:
                complete(append.reply, True)
        for dead in changes.dead:
            log.error(
                "a record was refused and is set aside",
                seq=dead.spooled.seq,
                attempts=dead.attempts,
                reason=dead.reason,
            )
        return parcels

    def _make_room(self) -> list[Parcel]:
        """Delete what was delivered with the room that was kept back; then write the rest.
        Raises SpoolError.

        Only then the log is folded: with less room than its pages need, that takes what there is
        and still fails.
        """
        spool, changes, step = self.spool, self.delivery.lanes.changes, _STEP
        if changes:
            spool.release_reserve()
            try:
                while True:
                    try:
                        if not spool.delete_some(changes, step):
                            break
                    except SpoolError:
                        if step == 1:
                            raise
                        step //= 4
                if changes:
                    self._write_to_spool(new=False)
            except SpoolError:
                if not self._all_delivered():
                    raise
                self._replace_spool(_ALL_DELIVERED)
            finally:
                self.spool.give_back()
                self.spool.keep_reserve()
        return self._write_to_spool()

    def _all_delivered(self) -> bool:
        """Whether nothing is left in the file that would have to be kept."""
        spool = self.spool
        return spool.depth == self.delivery.lanes.changes.gone and not spool.dead_letters

    def _replace_spool(self, reason: str) -> None:
        """Begin a new file with all that is in memory.  Raises SpoolError: then it is to be
        tried again."""
        self.damaged = reason
        if reason == _ALL_DELIVERED:
            self.spool = renew(self.spool)
        else:
            self.spool = replace_damaged(self.spool, reason)
        for parcel in self.delivery.lanes.disk_lost():
            self._in_memory[parcel.number] = parcel
        self._in_memory = dict(sorted(self._in_memory.items()))
        self.spool.skip_to(max(self.delivery.lanes.cursor, *self._in_memory, 0))
        self.spool.forget_strangers(self._in_memory.keys())
        self.damaged = ""

    # -- what the disk does not take

    def _keep_in_memory(self) -> None:
        """Have what was appended delivered from memory."""
        appended, self.appended = self.appended, []
        now = time.monotonic()
        for append in appended:
            parcels = self.spool.number(append.records)
            self._in_memory.update([(parcel.number, parcel) for parcel in parcels])
            self._outside += parcels
            self._promises.append(Promise(append, parcels, now))
        self._admit()

    def _admit(self) -> None:
        lanes, outside = self.delivery.lanes, self._outside
        while outside and (not outside[0].records or lanes.admit(outside[0])):
            outside.popleft()

    def _settle_promises(self) -> None:
        """Forget what is on disk or delivered by now, and tell who waits for it."""
        known = self._in_memory
        self._in_memory = {n: p for n, p in known.items() if p.records and not p.on_disk}
        self.spool.marks.forget([n for n, p in known.items() if not (p.records or p.on_disk)])
        left: list[Promise] = []
        for promise in self._promises:
            if any(parcel.number in self._in_memory for parcel in promise.parcels):
                left.append(promise)
            else:
                complete(promise.append.reply, True)
        self._promises = left

    # -- to the control plane

    def load(self, now: float) -> None:
        """Read what there is room for.  Raises SpoolError."""
        lanes = self.delivery.lanes
        due = lanes.next_due()
        if not lanes.room()[0] and (due is None or due > now):
            return
        if self.stuck:
            # Held parcels may not be where they are looked for.
            if len(lanes.changes.held) >= WINDOW:
                return
        else:
            self._write_down()
            while (owner := lanes.take_due(now)) is not None:
                self._load_held(owner, now)
        limit, size = lanes.room()
        if limit:
            parcels, more = self.spool.read(lanes.cursor, limit, size)
            for parcel in parcels:
                self._drop_stored(parcel)
                if not parcel.records:
                    lanes.changes.done.append(parcel.number)
            lanes.loaded([parcel for parcel in parcels if parcel.records], more=more)
            if parcels:
                lanes.cursor = parcels[-1].number
        if self._outside:
            self._admit()

    def _load_held(self, owner: str, now: float) -> None:
        lanes = self.delivery.lanes
        parcel = self.spool.first_held(owner)
        if parcel is not None:
            parcel.held = True
            self._drop_stored(parcel)
            if not parcel.records:
                lanes.found_done(parcel, now)
                return
        lanes.loaded_held(owner, parcel)

    def _drop_stored(self, parcel: Parcel) -> None:
        """Take out what is stored by the marks, which are ahead of the disk."""
        marks = self.spool.marks
        if not marks.knows(parcel.number):
            return
        left = tuple(s for s in parcel.records if marks.fate(s.seq) is not Fate.STORED)
        gone = len(parcel.records) - len(left)
        if gone:
            changes = self.delivery.lanes.changes
            parcel.records = left
            if parcel.on_disk:
                changes.gone += gone
                if left:
                    changes.rewritten[parcel.number] = parcel

    def answered(self, batch: int, stored: Stored, now: float) -> None:
        """What became of records of a batch."""
        self.delivery.answered(batch, stored, now)
        # Of what was refused for good the next write tells, when it is on disk.
        if self._in_memory and not self.delivery.lanes.changes.dead:
            self._settle_promises()
            self._admit()

    def replaced(self, now: float, *, crashed: bool) -> None:
        """Another control plane is in place."""
        self.delivery.replaced(now, crashed=crashed, fate=self.spool.marks.fate)
        if self._in_memory:
            self._settle_promises()


CHECK_BYTES = 1 << 20
"""Written bytes after which the size is looked at again."""
ROOM_AGAIN = 0.9
"""Part of the limit below which a full spool counts as having room again."""


class Gauge:
    """Watches the size of a spool; ``limit`` in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._checked = -CHECK_BYTES
        self.full = False

    def check(self, spool: Spool, written: int) -> None:
        """Look, if enough was ``written`` since the last time.  Raises SpoolError."""
        if written - self._checked < min(CHECK_BYTES, self._limit // 10) and not self.full:
            return
        self._checked = written
        size = spool.size()
        if not self.full and size >= self._limit:
            self.full = True
            log.error(
                "the record spool is full: new interceptions are refused",
                records=spool.depth,
                dead_letters=spool.dead_letters,
                limit_bytes=self._limit,
            )
        elif self.full and size < self._limit * ROOM_AGAIN:
            self.full = False
            log.info("the record spool has room again", records=spool.depth)


class Chores:
    """Long work on a spool, done in small steps so that other messages come in between: sending
    dead letters again, deleting them, giving space back to the file system."""

    def __init__(self) -> None:
        self._reviving = self._discarding = 0

    def dead_letters(self, spool: Spool, message: object) -> bool:
        """Begin with what ``message`` wants of the present dead letters; False if it is not
        about them."""
        match message:
            case Redeliver():
                self._reviving = spool.last_dead_letter()
                log.info("dead letters are sent again", records=spool.dead_letters)
            case DiscardDeadLetters():
                self._discarding = spool.last_dead_letter()
                log.warning("dead letters are deleted", records=spool.dead_letters)
            case _:
                return False
        return True

    def step(self, spool: Spool, *, shrink: bool) -> tuple[list[Parcel], bool]:
        """Do a bit of each; return what was added to the spool, and whether there is more to do
        at once.  Raises SpoolError."""
        parcels: list[Parcel] = []
        more = False
        if self._reviving:
            parcels += spool.revive(self._reviving)
            more = bool(parcels)
            if not parcels:
                self._reviving = 0
        if self._discarding:
            if spool.discard_dead_letters(self._discarding):
                more = True
            else:
                self._discarding = 0
        if shrink:
            more = spool.shrink() or more
        return parcels, more
