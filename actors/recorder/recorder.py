"""The recorder: nothing that is recorded may be lost, and nothing waits for it in vain.

``Append`` is answered when the records are on disk: all that is in the inbox goes into one
transaction, together with what became of earlier records.  Where the control plane's own database
is a file of this machine they are on disk once it has them; only what it does not take within a
moment goes to the spool, too.  What is sent when is decided by
:class:`~aigateway.actors.recorder.delivery.Delivery`; this actor moves the bytes between it,
the spool and the control plane, for its own spool and for one that a dead worker has left.

When the disk refuses, what was appended is delivered from memory, and new interceptions are
refused.  When the spool file turns out to be damaged it is set aside, and what is in memory goes
into a new one.  What a recorder holds at its end its successor finds in the process'
:class:`~aigateway.actors.recorder.custody.Custody`.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Timer
from typing import Any

import pykka
import structlog

from aigateway.actors.actor.base import (
    ActorDied,
    GatewayActor,
    Watcher,
    complete,
    fail,
    tell_quietly,
)
from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.control.messages import (
    Begin,
    KeepsRecords,
    Stored,
    StoreRecords,
    Unavailable,
)
from aigateway.actors.recorder._begins import BEGIN_WAIT, Begins
from aigateway.actors.recorder._desk import DISK_RETRY, Chores, Desk, Gauge
from aigateway.actors.recorder.custody import Custody, Estate
from aigateway.actors.recorder.messages import (
    Append,
    ControlPlaneChanged,
    Flushed,
    GetSpoolStats,
    ListDeadLetters,
)
from aigateway.actors.recorder.spool import (
    DiskState,
    SpoolCorrupt,
    SpoolError,
    SpoolStats,
    adopt_spool,
    claim_spool,
)
from aigateway.actors.values.frozen import frozen

__all__ = ["Begin", "ControlPlaneChanged", "GetSpoolStats", "Recorder"]

log = structlog.get_logger("ai-gateway.recorder")

TICK = 30.0
"""Seconds between looks for spools that a dead worker left behind, and other house-keeping."""


@frozen
class _Write:
    """All that was in the inbox before this is written together."""


@frozen
class _Wake:
    """A pause is over, or a refused record may be tried again."""


@frozen
class _Tick:
    """Time for house-keeping."""


@frozen
class _Step:
    """Go on with work that is done in small steps."""


@frozen
class _Claim:
    """Look for a spool again: the disk had no room for one."""


@frozen
class _BeginsTooLate:
    """No control plane has come in time."""


@frozen
class _Ticket:
    """Which batch an answer is about: a control plane that was replaced may still talk, of
    records that its successor has by now."""

    desk: Desk
    batch: int


class Recorder(GatewayActor):
    """Owns a spool and empties it into the control plane.

    ``custody`` outlives it; without one the spool is let go when the actor ends.
    """

    def __init__(
        self,
        role: str,
        watcher: Watcher,
        *,
        tree: ActorTree,
        folder: Path,
        max_size: int,
        tick: float = TICK,
        custody: Custody | None = None,
    ) -> None:
        super().__init__(role, watcher)
        self._tree = tree
        self._folder = folder
        self._custody = custody or Custody()
        self._alone = custody is None
        self._gauge = Gauge(max_size)
        self._tick_every = tick
        self._desks: list[Desk] = []
        """One's own first, then that of a dead worker, if there is one."""
        self._early: list[Append] = []
        """What came before there was a spool."""
        self._chores = Chores()
        self._begins = Begins(tree, lambda begin: tell_quietly(self.actor_ref, begin))
        self._plane: pykka.ActorRef[Any] | None = None
        """Who has what is on its way: the control plane, or the dead one before it."""
        self._flushes: list[Flushed] = []
        self._write_told = self._step_told = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._retry: Timer | None = None
        self._retry_at = 0.0
        self._ticker: Timer | None = None

    # -- life

    def started(self) -> None:
        for estate in self._custody.take():
            self._take_up(estate)
        if not self._desks:
            self._claim()
        self._tick()

    def _claim(self) -> None:
        """Find a spool.  Raises SpoolError, but not for a disk that is full or read-only: then it
        is tried again, and nothing begins until then."""
        try:
            spool = claim_spool(self._folder)
        except SpoolError as ex:
            if ex.state not in (DiskState.FULL, DiskState.READ_ONLY):
                raise
            if self._custody.state is not ex.state:
                log.error("cannot make a spool", disk=str(ex.state), error=str(ex))
            self._custody.state, self._custody.refusing = ex.state, True
            self.later(DISK_RETRY, _Claim())
            return
        self._custody.watch(spool.marks)
        self._take_up(Estate(spool, unwritten=self._early))
        self._early = []
        own = self._own
        if own.spool.depth:
            log.info(
                "taking up records of an earlier run", records=own.depth, spool=own.spool.path.name
            )
        self._check_room()
        self._tell_write()

    def _take_up(self, estate: Estate) -> None:
        """Begin with what is in a spool."""
        desk = Desk(estate)
        self._desks.append(desk)
        try:
            desk.take_up()
        except SpoolCorrupt as ex:
            desk.damaged = str(ex)
            self._tell_write()
        except SpoolError as ex:
            desk.refused(ex)

    @property
    def _own(self) -> Desk:
        return self._desks[0]

    def release(self) -> None:
        for timer in (self._timer, self._ticker, self._retry):
            if timer is not None:
                timer.cancel()
        self._begins.close()
        for flushed in self._flushes:
            fail(flushed.reply, ActorDied("the recorder stopped"))
        for append in self._early:
            fail(append.reply, ActorDied("there was no spool"))
        for desk in self._desks:
            desk.write(last=True)
        self._custody.leave([desk.leave() for desk in self._desks])
        if self._alone:
            self._custody.close()

    # -- messages

    def receive(self, message: object) -> object:
        match message:
            case Append() if not self._desks:
                self._early.append(message)
            case Append():
                self._own.appended.append(message)
                self._write_soon()
            case _Write():
                self._write_told = False
                self._write()
            case Stored(ticket=_Ticket() as ticket):
                ticket.desk.answered(ticket.batch, message, time.monotonic())
                self._write_soon()
            case Begin():
                self._begin(message)
            case _Wake():
                self._timer = self._timer_at = None
                self._pump()
            case _Step():
                self._step_told = False
                self._step()
            case _Tick():
                self._tick()
            case ControlPlaneChanged():
                self._control_plane_changed(message)
            case Flushed():
                self._flushes.append(message)
                for desk in self._desks:
                    desk.delivery.lanes.retry_all(time.monotonic())
                    desk.delivery.hurry()
                self._tell_write()
            case _Claim():
                self._claim()
            case _BeginsTooLate():
                if self._begins.refuse(time.monotonic()):
                    self.later(BEGIN_WAIT / 5, _BeginsTooLate())
            case _:
                return self._asked(message)
        return None

    def _asked(self, message: object) -> object:
        if isinstance(message, GetSpoolStats):
            return self._stats()
        if not self._desks:
            return [] if isinstance(message, ListDeadLetters) else 0
        spool = self._own.spool
        match message:
            case ListDeadLetters():
                return spool.list_dead_letters(message.after, message.limit)
        if not self._chores.dead_letters(spool, message):
            raise TypeError(f"recorder: unknown message {type(message).__name__}")
        self._tell_step()
        return spool.dead_letters

    def _stats(self) -> SpoolStats:
        found = [desk.spool.stats() for desk in self._desks]
        return SpoolStats(
            depth=sum(desk.depth for desk in self._desks),
            oldest=min((one.oldest for one in found if one.oldest is not None), default=None),
            dead_letters=sum(one.dead_letters for one in found),
            size=sum(one.size for one in found),
            state=self._custody.state,
            refusing=self._custody.refusing,
        )

    def _begin(self, message: Begin) -> None:
        self._note_state()
        if self._custody.refusing:
            text = f"{self._custody.reason}, try again later"
            complete(message.reply, Unavailable(text, retry_after=5.0))
        elif self._begins.begin(message, time.monotonic()):
            self.later(BEGIN_WAIT, _BeginsTooLate())

    # -- to the disk

    def _write_soon(self) -> None:
        """Write behind all that is in the inbox; the last that is done with a message."""
        if not self._write_told and self.actor_inbox.empty():
            # PERF: a message to itself would be the next; 1 us less.
            self._write()
        else:
            self._tell_write()

    def _tell_write(self) -> None:
        if not self._write_told:
            self._write_told = True
            self.actor_ref.tell(_Write())

    def _write(self) -> None:
        plane = self._tree.find("control-plane")
        ahead = plane is not None and issubclass(plane.actor_class, KeepsRecords)
        for desk in self._desks:
            self._try_again(desk.write(ahead=ahead))
        self._check_room()
        self._pump()
        if self._flushes and not any(desk.depth for desk in self._desks):
            flushes, self._flushes = self._flushes, []
            for flushed in flushes:
                complete(flushed.reply, True)

    def _check_room(self) -> None:
        if self._desks and not (own := self._own).stuck:
            try:
                self._gauge.check(own.spool, own.written)
            except SpoolError as ex:
                self._try_again(own.refused(ex))
        self._note_state()

    def _note_state(self) -> None:
        if self._desks:
            own = self._own
            self._custody.state = own.state
            self._custody.refusing = own.refusing or self._gauge.full

    def _try_again(self, delay: float | None) -> None:
        """Write once more after so many seconds, though nothing happens before."""
        if delay is None:
            return
        now = time.monotonic()
        if not delay:
            self._tell_write()
        elif self._retry is None or self._retry_at <= now:
            self._retry_at = now + delay
            self._retry = self.later(delay, _Write())

    # -- to the control plane

    def _pump(self) -> None:
        """Hand over what may go now."""
        now = time.monotonic()
        for desk in self._desks:
            if not desk.delivery.paused(now):
                try:
                    desk.load(now)
                except SpoolError as ex:
                    self._try_again(desk.refused(ex))
                self._hand_over(desk, now)
            if desk.pressing and not desk.stuck:
                self._tell_write()
        self._set_timer(now)
        if len(self._desks) > 1:
            self._leave_empty()

    def _hand_over(self, desk: Desk, now: float) -> None:
        plane = self._tree.find("control-plane")
        self._plane = self._plane or plane
        if plane is not None and plane is not self._plane:
            # A successor whose message is on its way here: what it got before would be sent again.
            return
        while (batch := desk.delivery.take_batch(now)) is not None:
            ticket = _Ticket(desk, batch.number)
            message = StoreRecords(batch.parcels, self.actor_ref, desk.spool.marks, ticket)
            if not tell_quietly(plane, message):
                desk.delivery.nobody_there(batch.number, now)

    def _control_plane_changed(self, message: ControlPlaneChanged) -> None:
        now = time.monotonic()
        for desk in self._desks:
            if message.replaced:
                desk.replaced(now, crashed=message.crashed)
            desk.delivery.hurry()
        if message.replaced:
            self._plane = message.plane
        if self._begins.retry(now):
            self.later(BEGIN_WAIT, _BeginsTooLate())
        self._tell_write()

    def _set_timer(self, now: float) -> None:
        times = [desk.delivery.next_time(now) for desk in self._desks if not desk.stuck]
        when = min((one for one in times if one is not None), default=None)
        if when == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = None if when is None else self.later(max(0.01, when - now), _Wake())

    # -- house-keeping

    def _tick(self) -> None:
        for desk in self._desks:
            if not desk.spool.is_there():
                desk.damaged = f"the spool {desk.spool.path} was deleted or replaced"
                self._tell_write()
        self._look()
        self._tell_step()
        self._pump()
        self._ticker = self.later(self._tick_every, _Tick())

    def _look(self) -> None:
        """See whether somebody left a spool behind.  Trouble is no reason to die."""
        while len(self._desks) == 1:
            try:
                left = adopt_spool(self._folder)
            except SpoolError as ex:
                log.warning("cannot look for spools of dead workers", error=str(ex))
                return
            if left is None:
                return
            if left.depth or left.dead_letters:
                log.info(
                    "taking over the spool of a dead worker",
                    records=left.depth,
                    dead_letters=left.dead_letters,
                    spool=left.path.name,
                )
                self._custody.watch(left.marks)
                self._take_up(Estate(left))
            else:
                left.close(remove=True)

    def _leave_empty(self) -> None:
        """Delete the spool of a dead worker when nothing is left in it, and look for another."""
        left = self._desks[1]
        if left.depth or left.delivery.lanes.changes or left.stuck or left.damaged:
            return
        try:
            if left.spool.dead_letters:
                self._own.spool.take_dead_letters(left.spool)
        except SpoolError as ex:
            log.warning("cannot move dead letters", error=str(ex))
            return
        del self._desks[1]
        left.spool.close(remove=True)
        self._look()
        if len(self._desks) > 1:
            self._tell_write()

    def _tell_step(self) -> None:
        if not self._step_told:
            self._step_told = True
            self.actor_ref.tell(_Step())

    def _step(self) -> None:
        if not self._desks or (own := self._own).stuck or own.damaged:
            return
        lanes = own.delivery.lanes
        try:
            parcels, more = self._chores.step(own.spool, shrink=not lanes.backlog)
        except SpoolError as ex:
            self._try_again(own.refused(ex))
        else:
            lanes.appended(parcels)
            if parcels:
                self._tell_write()
            if more:
                self._tell_step()
