"""Parcels: records of one interception that came together, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from attrs import Factory, define

from aigateway.actors.control.marks import PARCEL_BITS
from aigateway.actors.control.messages import Spooled
from aigateway.actors.values.records import InterceptionEnded, UsageRecord

__all__ = [
    "PARCEL_SIZE",
    "Changes",
    "DeadRecord",
    "Parcel",
    "Refusal",
    "number_all",
    "position",
]

Records: TypeAlias = tuple[Spooled, ...]

PARCEL_SIZE = 1 << PARCEL_BITS
"""Records in a parcel, at most.  The low bits of a record's number are its position in its
parcel, the others are the parcel's number."""


def position(seq: int) -> int:
    """Where in its parcel the record with this number is."""
    return seq & (PARCEL_SIZE - 1)


def number_all(number: int, records: Sequence[UsageRecord | InterceptionEnded]) -> Records:
    """The records of a whole parcel with their numbers."""
    return tuple(
        [Spooled(seq, record) for seq, record in enumerate(records, number << PARCEL_BITS)]
    )


@define(eq=False)
class Parcel:
    """Records of one interception that are delivered together."""

    number: int
    owner: str
    """The interception's id."""
    records: Records
    """What is still to be delivered, in order."""
    size: int
    """Bytes on disk."""
    made_at: float
    held: bool = False
    """Whether it lies among the held parcels on disk."""
    on_disk: bool = True
    """False while the disk refuses it: then it is in memory alone."""
    batch: int = 0
    """In which batch it is on its way; 0: it is not."""
    sent: int = 0
    """A bit for each record of that batch, by position."""
    open: int = 0
    """A bit for each of them that has not been answered."""
    deaths: int = 0
    """How often a control plane died with it."""
    retry: dict[int, tuple[str, bool]] | None = None
    """What was not stored, by record number: the reason, and whether nobody was there."""
    wrong: dict[int, str] | None = None
    """What never will be stored, by record number, and why."""

    def start(self, batch: int, records: Records) -> None:
        """Some or all of the records are on their way."""
        if position(records[-1].seq) == len(records) - 1:
            mask = (1 << len(records)) - 1
        else:
            mask = sum(1 << position(spooled.seq) for spooled in records)
        self.batch, self.sent, self.open = batch, mask, mask
        self.retry = self.wrong = None

    def answer(self, seq: int) -> bool:
        """Note that a record is no longer on its way; False when it was not."""
        bit = 1 << position(seq)
        if not self.open & bit:
            return False
        self.open ^= bit
        return True

    def not_stored(self, seq: int, reason: str, *, away: bool) -> None:
        """An answer to a record: send it again."""
        if self.retry is None:
            self.retry = {}
        self.retry[seq] = (reason, away)

    def never(self, seq: int, reason: str) -> None:
        """An answer to a record: it is wrong in itself."""
        if self.wrong is None:
            self.wrong = {}
        self.wrong[seq] = reason

    @property
    def went_well(self) -> bool:
        """All is answered, and all that was in the parcel has been stored."""
        if self.open or self.retry is not None or self.wrong is not None:
            return False
        return self.sent.bit_count() == len(self.records)


@define(eq=False)
class Refusal:
    """Why the records of an interception are held.  Times of a clock that is never set, on
    disk of that on the wall."""

    next_at: float
    """When to try again."""
    since: float
    attempts: int = 0
    counted: int = 0
    """Attempts between which other records were stored: those that tell against this one."""
    reason: str = ""
    parcels: int = 0
    """How many parcels are held."""
    stored_then: int = -1
    """How many parcels had been stored at the last attempt."""

    def start_over(self, now: float) -> None:
        """Another record is the first one now."""
        self.next_at = self.since = now
        self.attempts = self.counted = 0
        self.reason = ""
        self.stored_then = -1


@define(eq=False)
class DeadRecord:
    """A record that is set aside."""

    spooled: Spooled
    attempts: int
    reason: str


@define
class Changes:
    """What must be written to the disk, in the order of these fields."""

    rewritten: dict[int, Parcel] = Factory(dict)
    """Parcels of which a part is gone."""
    held: list[Parcel] = Factory(list)
    """Fresh parcels that become held ones."""
    done: list[int] = Factory(list)
    done_held: list[int] = Factory(list)
    """Numbers of parcels of which nothing is left, fresh and held."""
    refusals: dict[str, Refusal | None] = Factory(dict)
    """Interceptions that are held, and that no longer are."""
    dead: list[DeadRecord] = Factory(list)
    gone: int = 0
    """How many records on disk were delivered or set aside."""

    @property
    def more_than_done(self) -> bool:
        """Whether there is more than fresh parcels to delete."""
        return bool(self.rewritten or self.held or self.done_held or self.refusals or self.dead)

    def __bool__(self) -> bool:
        return bool(self.gone or self.done or self.more_than_done)
