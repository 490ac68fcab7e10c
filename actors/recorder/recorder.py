"""The recorder: nothing that is recorded may be lost, and nothing waits for it in vain.

``Append`` is answered when the records are on disk: all that is in the inbox goes into one
transaction, together with what became of earlier records.  What is sent when is decided by
:class:`~aigateway.actors.recorder.delivery.Delivery`; this actor moves the bytes between it,
the spool and the control plane.

When the disk refuses, what was appended stays in memory, new interceptions are refused, and
delivery goes on.  When the spool file turns out to be damaged it is set aside, and what is in
memory goes into a new one.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Timer
from typing import Any

import pykka
import structlog
from attrs import evolve

from aigateway.actors.actor import ActorDied, GatewayActor, complete, fail, tell_quietly
from aigateway.actors.coderd.messages import StoreRecords, Unavailable
from aigateway.actors.recorder._batch_ref import Answer, BatchRef
from aigateway.actors.recorder._begins import BEGIN_WAIT, Begins
from aigateway.actors.recorder._chores import Chores
from aigateway.actors.recorder._gauge import Gauge
from aigateway.actors.recorder._reminders import BeginsTooLate, Step, Tick, Wake, Write
from aigateway.actors.recorder.delivery import Delivery
from aigateway.actors.recorder.messages import (
    Append,
    Begin,
    ControlPlaneChanged,
    Flushed,
    GetSpoolStats,
    ListDeadLetters,
)
from aigateway.actors.recorder.parcels import Changes, Parcel
from aigateway.actors.recorder.spool import (
    Spool,
    SpoolCorrupt,
    SpoolError,
    SpoolStats,
    claim_spool,
    replace_damaged,
)
from aigateway.actors.tree import ActorTree

__all__ = ["Begin", "ControlPlaneChanged", "GetSpoolStats", "Recorder"]

DISK_RETRY = 1.0
"""Seconds between attempts to write to a disk that refuses."""
TICK = 30.0
"""Seconds between looks for spools that a dead worker left behind, and other house-keeping."""

log = structlog.get_logger("ai-gateway.recorder")


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
        tick: float = TICK,
    ) -> None:
        super().__init__(role, watcher)
        self._tree = tree
        self._folder = folder
        self._gauge = Gauge(max_size)
        self._tick_every = tick
        self._spool: Spool
        self._delivery = Delivery()
        self._chores = Chores(folder)
        self._begins = Begins(tree)
        self._plane: pykka.ActorRef[Any] | None = None
        """Who has what is on its way: the control plane, or the dead one before it."""
        self._appended: list[Append] = []
        self._flushes: list[Flushed] = []
        self._write_told = self._step_told = False
        self._disk_refuses = False
        self._damaged = ""
        """Why the spool file must be replaced."""
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._ticker: Timer | None = None

    # -- life

    def started(self) -> None:
        self._spool = claim_spool(self._folder)
        try:
            self._take_up()
        except SpoolCorrupt as ex:
            self._replace_spool(str(ex))
        if self._spool.depth:
            log.info(
                "taking up records of an earlier run",
                records=self._spool.depth,
                spool=self._spool.path.name,
            )
        self._tick()

    def _take_up(self) -> None:
        """Begin with what is in the spool."""
        self._gauge.check(self._spool)
        self._delivery = Delivery()
        self._delivery.lanes.resume(self._spool.refusals(), backlog=self._spool.depth > 0)

    def release(self) -> None:
        for timer in (self._timer, self._ticker):
            if timer is not None:
                timer.cancel()
        self._begins.close()
        for flushed in self._flushes:
            fail(flushed.reply, ActorDied("the recorder stopped"))
        if not hasattr(self, "_spool"):
            return
        try:
            self._write_down()
        except SpoolError as ex:
            log.error("records could not be written at the end", error=str(ex))
        finally:
            for append in self._appended:
                fail(append.reply, ActorDied("the records did not get to the disk"))
            self._chores.close()
            self._spool.close(remove=True)

    # -- messages

    def receive(self, message: Any) -> Any:
        match message:
            case Append():
                self._appended.append(message)
                self._tell_write()
            case Write():
                self._write_told = False
                self._write()
            case Answer():
                self._delivery.answered(message.batch, message.stored, time.time())
                self._tell_write()
            case Begin():
                self._begin(message)
            case Wake():
                self._timer = self._timer_at = None
                self._pump()
            case Step():
                self._step_told = False
                self._step()
            case Tick():
                self._tick()
            case ControlPlaneChanged():
                self._control_plane_changed(message)
            case Flushed():
                self._flushes.append(message)
                self._delivery.lanes.retry_all(time.time())
                self._delivery.hurry()
                self._tell_write()
            case BeginsTooLate():
                if self._begins.refuse(time.monotonic()):
                    self.later(BEGIN_WAIT / 5, BeginsTooLate())
            case _:
                return self._asked(message)
        return None

    def _asked(self, message: Any) -> Any:
        spool = self._spool
        match message:
            case GetSpoolStats():
                return self._stats()
            case ListDeadLetters():
                return spool.list_dead_letters(message.after, message.limit)
        if not self._chores.dead_letters(spool, message):
            raise TypeError(f"recorder: unknown message {type(message).__name__}")
        self._tell_step()
        return spool.dead_letters

    def _stats(self) -> SpoolStats:
        stats = self._spool.stats()
        return evolve(stats, depth=stats.depth + self._chores.depth)

    def _begin(self, message: Begin) -> None:
        if self._gauge.full or self._disk_refuses:
            text = "the record spool is full, try again later"
            complete(message.reply, Unavailable(text, retry_after=5.0))
        elif self._begins.begin(message, time.monotonic()):
            self.later(BEGIN_WAIT, BeginsTooLate())

    # -- to the disk

    def _tell_write(self) -> None:
        if not self._write_told:
            self._write_told = True
            self.actor_ref.tell(Write())

    def _write(self) -> None:
        try:
            self._write_down()
            self._gauge.check(self._spool)
        except SpoolError as ex:
            self._disk_trouble(ex)
        else:
            if self._disk_refuses:
                log.info("the spool can be written again")
            self._disk_refuses = False
        self._pump()
        if self._flushes and self._spool.depth == 0 and not self._appended:
            flushes, self._flushes = self._flushes, []
            for flushed in flushes:
                complete(flushed.reply, True)

    def _disk_trouble(self, ex: SpoolError) -> None:
        """Keep what is in memory, and try again in a moment."""
        if isinstance(ex, SpoolCorrupt):
            self._damaged = str(ex)
            self._tell_write()
            return
        if not self._disk_refuses:
            log.error(
                "cannot use the spool: new interceptions are refused until it works", error=str(ex)
            )
        self._disk_refuses = True
        self._write_told = True
        self.later(DISK_RETRY, Write())

    def _write_down(self) -> None:
        """Write what was appended and what became of records.  Raises SpoolError."""
        if self._damaged:
            self._replace_spool(self._damaged)
        changes = self._delivery.lanes.changes
        if not self._appended and not changes:
            return
        records = [record for append in self._appended for record in append.records]
        try:
            parcels = self._write_to_spool(records)
        except SpoolCorrupt as ex:
            self._replace_spool(str(ex))
            parcels = self._write_to_spool(records)
        except SpoolError:
            # What was delivered makes room.
            if not records or not changes:
                raise
            self._write_to_spool([])
            parcels = self._write_to_spool(records)
        appended, self._appended = self._appended, []
        self._delivery.lanes.appended(parcels)
        for append in appended:
            complete(append.reply, True)
        self._gauge.written(parcels)

    def _write_to_spool(self, records: list[Any]) -> list[Parcel]:
        changes = self._delivery.lanes.changes
        parcels = self._spool.write(records, changes, time.time())
        self._delivery.lanes.changes = Changes()
        for dead in changes.dead:
            log.error(
                "a record was refused and is set aside",
                seq=dead.spooled.seq,
                attempts=dead.attempts,
                reason=dead.reason,
            )
        return parcels

    def _replace_spool(self, reason: str) -> None:
        """Begin a new file with all that is in memory.  Raises SpoolError: then it is to be
        tried again."""
        self._damaged = reason
        saved = self._delivery.everything()
        dead = self._delivery.lanes.changes.dead
        spool = replace_damaged(self._spool, reason)
        records = [spooled.record for parcel in saved for spooled in parcel.records]
        try:
            spool.write(records, Changes(dead=dead), time.time())
        except BaseException:
            spool.close_database()
            raise
        self._spool = spool
        self._take_up()
        self._damaged = ""

    # -- to the control plane

    def _pump(self) -> None:
        """Hand over what may go now."""
        now = time.time()
        if not self._delivery.paused(now):
            try:
                self._load(now)
            except SpoolError as ex:
                self._disk_trouble(ex)
            self._hand_over(now)
        self._set_timer(now)
        if self._chores.adopting and self._may_adopt():
            self._tell_step()

    def _hand_over(self, now: float) -> None:
        plane = self._tree.find("control-plane")
        self._plane = self._plane or plane
        if plane is not None and plane is not self._plane:
            # A successor whose message is on its way here.  What it got before that message
            # would be sent once more because of it.
            return
        delivery = self._delivery
        while (batch := delivery.take_batch(now)) is not None:
            message = StoreRecords(batch.records, BatchRef(self, batch.number))
            if not tell_quietly(plane, message):
                delivery.nobody_there(batch.number, now)

    def _load(self, now: float) -> None:
        """Read what there is room for.  Raises SpoolError."""
        lanes = self._delivery.lanes
        due = lanes.next_due()
        if self._disk_refuses or (not lanes.room()[0] and (due is None or due > now)):
            return
        self._write_down()
        lanes = self._delivery.lanes
        while (owner := lanes.take_due(now)) is not None:
            lanes.loaded_held(owner, self._spool.first_held(owner))
        limit, size = lanes.room()
        if limit:
            parcels, more = self._spool.read(lanes.cursor, limit, size)
            lanes.loaded(parcels, more=more)
        if lanes.changes:
            self._tell_write()

    def _control_plane_changed(self, message: ControlPlaneChanged) -> None:
        if message.replaced:
            self._delivery.replaced(time.time(), crashed=message.crashed)
            self._plane = message.plane
        self._delivery.hurry()
        if self._begins.retry(time.monotonic()):
            self.later(BEGIN_WAIT, BeginsTooLate())
        self._tell_write()

    def _set_timer(self, now: float) -> None:
        when = self._delivery.next_time(now)
        if when == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = None if when is None else self.later(max(0.01, when - now), Wake())

    # -- house-keeping

    def _tick(self) -> None:
        if not self._spool.is_there():
            self._damaged = f"the spool {self._spool.path} was deleted or replaced"
            self._tell_write()
        self._chores.look()
        self._tell_step()
        self._pump()
        self._ticker = self.later(self._tick_every, Tick())

    def _tell_step(self) -> None:
        if not self._step_told:
            self._step_told = True
            self.actor_ref.tell(Step())

    def _may_adopt(self) -> bool:
        """The spool of a dead worker is emptied as fast as one's own, and never into memory."""
        return not (self._delivery.lanes.backlog or self._gauge.full or self._disk_refuses)

    def _step(self) -> None:
        try:
            parcels, more = self._chores.step(
                self._spool,
                adopt=self._may_adopt(),
                shrink=not self._delivery.lanes.backlog,
            )
        except SpoolError as ex:
            self._disk_trouble(ex)
        else:
            self._delivery.lanes.appended(parcels)
            if parcels:
                self._tell_write()
            if more:
                self._tell_step()
