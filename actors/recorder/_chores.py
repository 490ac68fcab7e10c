"""What the recorder does in small steps, so that other messages come in between.

Sending dead letters again, deleting them, giving space back to the file system.
"""

from __future__ import annotations

from typing import Any

import structlog

from aigateway.actors.recorder.messages import DiscardDeadLetters, Redeliver
from aigateway.actors.recorder.parcels import Parcel
from aigateway.actors.recorder.spool import Spool

__all__ = ["Chores"]

log = structlog.get_logger("ai-gateway.recorder")


class Chores:
    """Long work on a spool."""

    def __init__(self) -> None:
        self._reviving = self._discarding = 0

    def dead_letters(self, spool: Spool, message: Any) -> bool:
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
