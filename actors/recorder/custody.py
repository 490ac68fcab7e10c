"""What the recorders of one process own, one after the other.

A spool belongs to the process, not to the actor that works on it: while a recorder is being
restarted the control plane goes on sending what it got from the last one.  So a recorder that
ends leaves its spools here, locked, with what the disk did not take, and its successor finds
them.  When the process ends, spools from which nothing is in the air are let go; the others
the kernel lets go when the process is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

import structlog
from attrs import Factory, define

from aigateway.actors.actor.base import ActorDied, fail
from aigateway.actors.control.marks import Marks
from aigateway.actors.recorder.messages import Append
from aigateway.actors.recorder.parcels import Parcel
from aigateway.actors.recorder.spool import DiskState, Spool

__all__ = ["Custody", "Estate", "Promise"]

_LOOK = 0.01
"""Seconds between looks whether all has landed."""

log = structlog.get_logger("ai-gateway.recorder")


@define(eq=False)
class Promise:
    """Records that wait in memory, and who is to be told when they are safe."""

    append: Append
    parcels: list[Parcel]
    since: float
    """Monotonic time."""


@define(eq=False)
class Estate:
    """One spool, and what belongs into it."""

    spool: Spool
    unwritten: list[Append] = Factory(list)
    """What was to be written next; nobody has been told yet that it is safe."""
    in_memory: list[Parcel] = Factory(list)
    """Parcels that are not on disk."""
    promises: list[Promise] = Factory(list)
    """Who waits for them."""

    @property
    def endangered(self) -> int:
        """Records that are in memory alone."""
        return sum(len(append.records) for append in self.unwritten) + sum(
            len(parcel.records) for parcel in self.in_memory
        )


class Custody:
    """Keeps the spools of a process between two recorders, and knows how its disk is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._estates: list[Estate] = []
        self._marks: list[Marks] = []
        self.state = DiskState.OK
        self.refusing = False
        """Whether new interceptions are refused, because of the disk or of the spool's limit."""
        self.lost = ""
        """What was lost at the end, for a person; empty when nothing was."""

    @property
    def reason(self) -> str:
        """Why new interceptions are refused."""
        if self.state in (DiskState.OK, DiskState.SLOW):
            return "the record spool is full"
        return f"the disk for records is {self.state}"

    def leave(self, estates: Sequence[Estate]) -> None:
        """A recorder ends."""
        with self._lock:
            self._estates += estates

    def take(self) -> list[Estate]:
        """What the last one has left; it is the caller's now."""
        with self._lock:
            estates, self._estates = self._estates, []
        return estates

    def watch(self, marks: Marks) -> None:
        """A spool was claimed: these are its marks."""
        with self._lock:
            self._marks.append(marks)

    def wait_for_landing(self, seconds: float) -> None:
        """Wait until nothing is in the air, so long at most."""
        until = time.monotonic() + seconds
        while any(marks.flying() for marks in self._marks) and time.monotonic() < until:
            time.sleep(_LOOK)

    def close(self) -> None:
        """No recorder follows; what is in memory alone is lost, and said to be."""
        lost = 0
        for estate in self.take():
            lost += estate.endangered
            promised = [promise.append for promise in estate.promises]
            for append in (*estate.unwritten, *promised):
                fail(append.reply, ActorDied("the records did not get to the disk"))
            if not estate.spool.marks.flying():
                with contextlib.suppress(OSError):
                    estate.spool.close(remove=True)
        if lost:
            self.lost = (
                f"{lost} records are lost: the disk of the state folder is {self.state}, and they"
                " could not be delivered"
            )
            log.error("records are lost", records=lost, disk=str(self.state))
