"""What the recorder does in small steps, so that other messages come in between.

Taking over the spools of dead workers, sending dead letters again, deleting them, giving
space back to the file system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from aigateway.actors.recorder.messages import DiscardDeadLetters, Redeliver
from aigateway.actors.recorder.parcels import Parcel
from aigateway.actors.recorder.spool import (
    Spool,
    SpoolCorrupt,
    SpoolError,
    adopt_spool,
    forget_damaged,
)

__all__ = ["Chores"]

STEP = 128
"""Parcels taken over in one step."""

log = structlog.get_logger("ai-gateway.recorder")


class Chores:
    """Long work on a spool in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left: Spool | None = None
        self._reviving = self._discarding = 0

    @property
    def adopting(self) -> bool:
        """Whether there is a spool of a dead worker to be emptied into one's own."""
        return self._left is not None

    @property
    def depth(self) -> int:
        """How many records are yet to be taken over."""
        return 0 if self._left is None else self._left.depth

    def look(self) -> None:
        """See whether somebody left a spool behind.  Trouble is logged, and is no reason to die:
        one's own spool works."""
        while self._left is None:
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
                self._left = left
            else:
                left.close(remove=True)

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

    def step(self, spool: Spool, *, adopt: bool, shrink: bool) -> tuple[list[Parcel], bool]:
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
        if adopt and self._left is not None:
            parcels += self._adopt(spool, self._left)
        if shrink:
            more = spool.shrink() or more
        return parcels, more

    def _adopt(self, spool: Spool, left: Spool) -> list[Parcel]:
        try:
            parcels = spool.take_over(left, STEP)
        except SpoolCorrupt as ex:
            if ex.path != left.path:
                raise
            self._left = None
            forget_damaged(left, str(ex))
            self.look()
            return []
        if not parcels:
            self._left = None
            left.close(remove=True)
            self.look()
        return parcels

    def close(self) -> None:
        """Let go; somebody else may take over the rest."""
        if self._left is not None:
            self._left.close(remove=True)
            self._left = None
