"""A disk and a control plane, as plain data, around the delivery's decisions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from attrs import define, evolve, field

from aigateway.actors.control.marks import PARCEL_BITS
from aigateway.actors.control.messages import Spooled, Stored
from aigateway.actors.recorder.delivery import Batch, Delivery
from aigateway.actors.recorder.lanes import Lanes
from aigateway.actors.recorder.parcels import Changes, Parcel, Refusal
from aigateway.actors.values.records import ModelThought

WINDOW = 4
WINDOW_BYTES = 40


def thought(owner: str, text: str = "") -> ModelThought:
    return ModelThought(interception_id=owner, content=text, created_at=1.0)


def parcel_of(number: int, owner: str, count: int = 1, size: int = 1) -> Parcel:
    records = tuple(
        Spooled((number << PARCEL_BITS) + index, thought(owner, f"{number}.{index}"))
        for index in range(count)
    )
    return Parcel(number, owner, records, size, made_at=1.0)


@define
class Disk:
    """What the spool holds, and nothing more than the spool may know."""

    fresh: dict[int, Parcel] = field(factory=dict)
    held: dict[int, Parcel] = field(factory=dict)
    refusals: dict[str, Refusal] = field(factory=dict)
    dead: list[int] = field(factory=list)
    """Numbers of records that were set aside."""
    depth: int = 0

    def write(self, changes: Changes, kept: Sequence[Parcel] = ()) -> None:
        for number, parcel in changes.rewritten.items():
            table = self.held if parcel.held else self.fresh
            assert number in table or not parcel.on_disk
            if number in table:
                table[number] = _copy(parcel)
        for parcel in changes.held:
            if parcel.on_disk:
                del self.fresh[parcel.number]
            else:
                self.depth += len(parcel.records)
            parcel.on_disk = True
            self.held[parcel.number] = _copy(parcel)
        for number in changes.done:
            self.fresh.pop(number, None)
        for number in changes.done_held:
            self.held.pop(number, None)
        for owner, refusal in changes.refusals.items():
            self.refusals.pop(owner, None)
            if refusal is not None:
                self.refusals[owner] = evolve(refusal)
        for parcel in kept:
            (self.held if parcel.held else self.fresh)[parcel.number] = _copy(parcel)
            self.depth += len(parcel.records)
            parcel.on_disk = True
        self.dead += [record.spooled.seq for record in changes.dead]
        self.depth -= changes.gone
        self.check()

    def check(self) -> None:
        for table in (self.fresh, self.held):
            for parcel in table.values():
                assert parcel.records
        count = sum(len(p.records) for t in (self.fresh, self.held) for p in t.values())
        assert count == self.depth
        assert {p.owner for p in self.held.values()} <= set(self.refusals)

    def read(self, after: int, limit: int, size: int) -> tuple[list[Parcel], bool]:
        found: list[Parcel] = []
        for number in sorted(self.fresh):
            if number > after:
                if len(found) == limit or (found and size <= 0):
                    return found, True
                found.append(_copy(self.fresh[number]))
                size -= found[-1].size
        return found, False

    def first_held(self, owner: str) -> Parcel | None:
        numbers = [number for number, parcel in self.held.items() if parcel.owner == owner]
        return _copy(self.held[min(numbers)]) if numbers else None


def _copy(parcel: Parcel) -> Parcel:
    return Parcel(
        parcel.number,
        parcel.owner,
        parcel.records,
        parcel.size,
        parcel.made_at,
        held=parcel.held,
    )


class Desk:
    """A delivery with its disk: what the recorder does, without an actor."""

    def __init__(
        self,
        disk: Disk | None = None,
        *,
        window: int = WINDOW,
        now: float = 1000.0,
        **limits: int,
    ) -> None:
        self.disk = disk or Disk()
        self.now = now
        limits.setdefault("window_bytes", WINDOW_BYTES)
        self.delivery = Delivery(Lanes(window=window, **limits))
        self.lanes = self.delivery.lanes
        refusals = [(owner, evolve(refusal)) for owner, refusal in self.disk.refusals.items()]
        for owner, refusal in refusals:
            refusal.parcels = sum(p.owner == owner for p in self.disk.held.values())
        self.lanes.resume(refusals, backlog=bool(self.disk.fresh))
        self.window = window
        self._kept: list[Parcel] = []
        """In memory alone."""

    def append(self, *parcels: Parcel) -> None:
        for parcel in parcels:
            self.disk.fresh[parcel.number] = _copy(parcel)
            self.disk.depth += len(parcel.records)
        self.lanes.appended(parcels)

    def write(self) -> None:
        held = {parcel.number for parcel in self.lanes.changes.held}
        kept = [p for p in self._kept if p.records and p.number not in held]
        self.disk.write(self.lanes.changes, kept)
        self.lanes.changes, self._kept = Changes(), []

    def lose_file(self) -> None:
        """A new disk, and all that was in memory will be written to it."""
        self.disk = Disk(dead=list(self.disk.dead))
        self._kept = self.lanes.disk_lost()

    def load(self) -> None:
        assert not self.lanes.changes, "the disk is not up to date"
        while (owner := self.lanes.take_due(self.now)) is not None:
            self.lanes.loaded_held(owner, self.disk.first_held(owner))
        count, size = self.lanes.room()
        if count:
            parcels, more = self.disk.read(self.lanes.cursor, count, size)
            self.lanes.loaded(parcels, more=more)
        assert self.lanes.in_memory <= self.window

    def pump(self) -> list[Batch]:
        """Send all that may go now."""
        sent = []
        self.write()
        if not self.delivery.paused(self.now):
            self.load()
            # What was loaded for a lane that is held has to be written as such.
            self.write()
        while (batch := self.delivery.take_batch(self.now)) is not None:
            sent.append(batch)
        return sent

    def answer(self, batch: Batch, **stored: object) -> None:
        self.delivery.answered(batch.number, Stored(**stored), self.now)  # type: ignore[arg-type]

    def store_all(self, batch: Batch) -> None:
        self.answer(batch, done=seqs(batch))

    def later(self, seconds: float) -> None:
        self.now += seconds


def seqs(batch: Batch) -> tuple[int, ...]:
    return tuple(spooled.seq for spooled in chain.from_iterable(batch.parcels))
