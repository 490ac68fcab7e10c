"""Which record may go to the control plane next: decided here, without I/O and without a clock.

Theory of operation
===================

The unit is the *parcel*: records of one interception that came together.  It lies on disk,
has a number that says where, and its records are numbered within it.  A parcel is *fresh*
until the control plane refuses one of its records; then it is *held*.

Order.  The records of one interception go out one parcel after the other: each interception
with something to do is a *lane*, and a lane has one *current* parcel, which is ready or on
its way.  Others of the lane wait behind it.  Lanes do not wait for each other.

Memory.  At most a window of parcels, counted and weighed, is in memory.  What comes while
the window is full stays on disk, behind the *cursor*, and so does everything after it (there
is a *backlog*) until the disk has been read up to its end.

Refusals.  A parcel that is refused goes out of memory, and with it all that stands behind it
in its lane: they are held on disk, and so is all that comes for this lane later.  When its
time has come the first held parcel of the lane is tried again, alone.  A refusal counts
against a record only if something else has been stored since its last one: a control plane
that refuses everything is in trouble itself, and that is no reason to set records aside.

Trouble.  When the control plane is away, or nothing but refusals comes back, all stops for a
while, and goes on with a few parcels until one of them is stored.

One owner.  At each moment one process owns a spool: the one that holds its lock.  It keeps
the lock until all that it has sent has landed or it is dead itself; its recorders and control
planes come and go meanwhile.  Within the process a record is in one place: on disk, in the hands
of one control plane, or *in the air*, sent by a control plane that will say what became of it
even when it is replaced (:mod:`~aigateway.actors.control.marks`).  So a record is only ever
sent while

1. its spool is owned by this process, and
2. it is not in the air, and
3. it is not known to be stored, on disk or in the marks, and
4. all records before it of its interception have been stored or set aside.

What is stored twice is therefore what somebody sent and nobody could answer for: the connection
broke, or the process was killed, with the record in the air.  That is one record of an
interception at most, since by the fourth rule only one of them is ever in the air.

Deaths.  When the control plane's actor dies, what it held and had not sent goes to its
successor.  A record that was there each time may be the reason, so such records are then sent
one by one; the one that is alone in the hands of a dying control plane is set aside.

The caller passes in the times of a clock that is never set, and writes the changes to the disk
before it reads held parcels from there.  While the disk refuses, changes gather, what is done is
remembered by the marks, and parcels that the disk did not take are delivered from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from attrs import frozen

from aigateway.actors.control.marks import PARCEL_BITS, Fate
from aigateway.actors.control.messages import Spooled, Stored
from aigateway.actors.recorder.lanes import RETRY_CEILING, SUSPECT, Lanes
from aigateway.actors.recorder.parcels import PARCEL_SIZE, DeadRecord, Parcel, position

__all__ = ["Batch", "Delivery", "Flow", "back_off"]

BATCH = 64
"""Parcels handed to the control plane in one message."""
MAX_ATTEMPTS = 20
MAX_AGE = 24 * 3600.0
"""A record is set aside when it was refused so often, or for so long (seconds)."""
_POSITION = PARCEL_SIZE - 1
RETRY_FLOOR = 0.5
"""First back-off of a refused record, in seconds; it doubles."""


@frozen
class Batch:
    """What goes to the control plane in one message."""

    number: int
    parcels: tuple[tuple[Spooled, ...], ...]
    """No two of them are of one interception."""


class Delivery:
    """The records of one spool on their way to a control plane."""

    def __init__(self, lanes: Lanes | None = None) -> None:
        self.lanes = lanes or Lanes()
        """What is to be delivered; the caller keeps it up to date with the disk."""
        self._flying: dict[int, Parcel] = {}
        self._flow = Flow()
        self._batches = count(1)
        self._stored = 0
        self._alone = False

    # -- there

    def take_batch(self, now: float) -> Batch | None:
        """What to send now; None when there is nothing or it must wait."""
        lanes = self.lanes
        if self.paused(now):
            return None
        if self._flying and (self._alone or lanes.suspects):
            return None
        self._alone = bool(lanes.suspects)
        if self._alone:
            suspect = lanes.suspects.popleft()
            return self._send([(suspect, suspect.records[:1])])
        allowed = self._flow.allowed(len(self._flying))
        limit = BATCH if allowed is None else allowed
        taken: list[tuple[Parcel, tuple[Spooled, ...]]] = []
        while len(taken) < limit and (lanes.ready or lanes.again):
            # By turns: neither refused nor fresh ones may starve the others.
            for queue in (lanes.ready, lanes.again):
                if queue and len(taken) < limit:
                    parcel = queue.popleft()
                    taken.append((parcel, parcel.records))
        return self._send(taken) if taken else None

    def _send(self, parcels: list[tuple[Parcel, tuple[Spooled, ...]]]) -> Batch:
        number = next(self._batches)
        for parcel, records in parcels:
            parcel.start(number, records)
            self._flying[parcel.number] = parcel
        return Batch(number, tuple([records for _, records in parcels]))

    # -- and back

    def answered(self, batch: int, stored: Stored, now: float) -> None:
        """What became of records of a batch; what is not known of it is ignored."""
        over: list[Parcel] = []
        flying = self._flying
        for seq in stored.done:
            # PERF: what _answer does, for nearly all records.
            parcel = flying.get(seq >> PARCEL_BITS)
            if parcel is not None and parcel.batch == batch:
                bit = 1 << (seq & _POSITION)
                if parcel.open & bit:
                    parcel.open ^= bit
                    if not parcel.open:
                        over.append(parcel)
        for seq, reason in stored.rejected.items():
            if (parcel := self._answer(batch, seq, over)) is not None:
                parcel.never(seq, reason)
        away = False
        for seq, reason in stored.retry.items():
            if (parcel := self._answer(batch, seq, over)) is not None:
                parcel.not_stored(seq, reason, away=stored.away)
                away = stored.away
        # Backwards, since what goes back goes to the front.
        for parcel in reversed(over):
            self._settle(parcel, now, died=stored.died)
        if away and not stored.died:
            self._flow.away(now)

    def _answer(self, batch: int, seq: int, over: list[Parcel]) -> Parcel | None:
        parcel = self._flying.get(seq >> PARCEL_BITS)
        if parcel is None or parcel.batch != batch or not parcel.answer(seq):
            return None
        if not parcel.open:
            over.append(parcel)
        return parcel

    def nobody_there(self, batch: int, now: float) -> None:
        """The batch could not be handed over."""
        for parcel in [p for p in reversed(self._flying.values()) if p.batch == batch]:
            del self._flying[parcel.number]
            self.lanes.put_back(parcel)
        self._flow.away(now)

    def replaced(
        self, now: float, *, crashed: bool, fate: Callable[[int], Fate] = lambda _seq: Fate.HERE
    ) -> None:
        """Another control plane is in place: what the old one held is sent again.

        ``fate`` tells by record number what is known of a record that was not answered.
        """
        for parcel in reversed(list(self._flying.values())):
            fates = {
                spooled.seq: fate(spooled.seq)
                for spooled in parcel.records
                if parcel.open & 1 << position(spooled.seq)
            }
            for seq, known in fates.items():
                if known is Fate.STORED:
                    parcel.answer(seq)
            if Fate.FLYING in fates.values():
                # The old one will say what became of it; the rest was not sent.
                for seq, known in fates.items():
                    if known is not Fate.FLYING and parcel.answer(seq):
                        parcel.not_stored(seq, "", away=True)
                continue
            del self._flying[parcel.number]
            self._drop_answered(parcel)
            self._give_back(parcel, now, crashed=crashed)
        self._flow.hurry()

    def _give_back(self, parcel: Parcel, now: float, *, crashed: bool) -> None:
        """What is left of the parcel was in the hands of a control plane that is gone."""
        parcel.deaths += crashed
        if crashed and parcel.deaths > SUSPECT and parcel.records:
            self._set_aside(parcel, 1, "the control plane dies of it")
        if parcel.records:
            self.lanes.put_back(parcel)
        else:
            self.lanes.gone(parcel, now)

    # -- time

    def paused(self, now: float) -> bool:
        """Whether nothing may be sent for a while."""
        return self._flow.paused_until(now) is not None

    def hurry(self) -> None:
        """Do not wait for the end of a pause: the control plane may be back."""
        self._flow.hurry()

    def next_time(self, now: float) -> float | None:
        """When to try again if nothing happens before; None when nothing waits for a time."""
        until = self._flow.paused_until(now)
        if until is not None:
            return None if self.lanes.idle else until
        due = self.lanes.next_due()
        return None if due is None else max(due, now)

    # -- what became of parcels

    def _settle(self, parcel: Parcel, now: float, *, died: bool = False) -> None:
        """All of the parcel that was sent has been answered."""
        del self._flying[parcel.number]
        retry = parcel.retry
        if parcel.went_well:
            # PERF: nearly always; what follows comes to the same.
            stored = len(parcel.records)
            if parcel.on_disk:
                self.lanes.changes.gone += stored
            parcel.records = ()
        else:
            stored = self._drop_answered(parcel)
        if stored:
            self._stored += 1
            self._flow.stored()
        if not parcel.records:
            self.lanes.gone(parcel, now)
        elif retry is None or retry[parcel.records[0].seq][1]:
            # Sent one by one, and now the next one; or nobody was there.
            self._give_back(parcel, now, crashed=died)
        else:
            self._refused(parcel, retry[parcel.records[0].seq][0], now, begun=stored > 0)

    def _drop_answered(self, parcel: Parcel) -> int:
        """Take out what was stored or is wrong; return how many were stored."""
        if not parcel.batch:
            return 0
        wrong, retry = parcel.wrong or {}, parcel.retry or {}
        refusal = self.lanes[parcel.owner].refusal
        attempts = refusal.attempts + 1 if refusal is not None else 1
        left: list[Spooled] = []
        for spooled in parcel.records:
            bit = 1 << position(spooled.seq)
            if not parcel.sent & bit or parcel.open & bit or spooled.seq in retry:
                left.append(spooled)
            elif spooled.seq in wrong:
                dead = DeadRecord(spooled, attempts, wrong[spooled.seq])
                self.lanes.changes.dead.append(dead)
        gone = len(parcel.records) - len(left)
        if gone:
            if parcel.on_disk:
                self.lanes.changes.gone += gone
            self._rewrite(parcel, tuple(left))
        return gone - len(wrong)

    def _rewrite(self, parcel: Parcel, records: tuple[Spooled, ...]) -> None:
        parcel.records = records
        self.lanes.changes.rewritten[parcel.number] = parcel

    def _refused(self, parcel: Parcel, reason: str, now: float, *, begun: bool) -> None:
        """The first record of a parcel was refused; ``begun``: others before it were stored."""
        refusal = self.lanes.refusal(parcel, now)
        if begun:
            refusal.start_over(now)
        refusal.attempts += 1
        # Without a reason it was not tried.
        refusal.counted += bool(reason) and refusal.stored_then != self._stored
        refusal.stored_then = self._stored
        refusal.reason = reason
        refusal.next_at = now + back_off(refusal.attempts)
        if refusal.counted >= MAX_ATTEMPTS or (reason and now - refusal.since >= MAX_AGE):
            self._set_aside(parcel, refusal.attempts, reason)
            refusal.start_over(now)
        if parcel.records:
            self.lanes.hold(parcel, refusal)
        else:
            self.lanes.gone(parcel, now)
        self._flow.refused(now)

    def _set_aside(self, parcel: Parcel, attempts: int, reason: str) -> None:
        """Give up the first record of a parcel."""
        self.lanes.changes.dead.append(DeadRecord(parcel.records[0], attempts, reason))
        self.lanes.changes.gone += parcel.on_disk
        self._rewrite(parcel, parcel.records[1:])


def back_off(attempts: int) -> float:
    """Seconds until the next attempt after so many refusals."""
    return float(min(RETRY_CEILING, RETRY_FLOOR * 2.0 ** min(attempts - 1, 30)))


PAUSE_FLOOR, PAUSE_CEILING, PAUSE_GROWTH = 0.05, 10.0, 1.618
"""Back-off in seconds, the same as of the connection to the control plane (spec)."""
PROBE = 4
"""Parcels on their way, at most, until a control plane that was in trouble stores one."""
MANY_REFUSALS = 32
"""Refusals in a row, without anything stored, that are taken for trouble."""


class Flow:
    """Stops all for a while when there is trouble, and then lets a little through."""

    def __init__(self) -> None:
        self.probing = False
        self._refusals = 0
        self._pause = 0.0
        self._until: float | None = None

    def paused_until(self, now: float) -> float | None:
        """The end of the pause, or None when there is none now."""
        until = self._until
        return None if until is None or until <= now else until

    def stored(self) -> None:
        """Something got through."""
        self._refusals = 0
        self._pause = 0.0
        self._until = None
        self.probing = False

    def refused(self, now: float) -> None:
        """Something was refused, and nothing has got through since the last refusal."""
        self._refusals += 1
        if self.probing or self._refusals >= MANY_REFUSALS:
            self.away(now)

    def away(self, now: float) -> None:
        """Nobody was there.  What was sent before the pause may say so many times."""
        if self.paused_until(now) is not None:
            return
        self._pause = min(PAUSE_CEILING, max(PAUSE_FLOOR, self._pause * PAUSE_GROWTH))
        self._until = now + self._pause
        self.probing = True

    def hurry(self) -> None:
        """End the pause."""
        self._until = None

    def allowed(self, flying: int) -> int | None:
        """How many more may be sent while ``flying`` are on their way; None: any number."""
        return PROBE - flying if self.probing else None
