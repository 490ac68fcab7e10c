"""Lanes: which parcel of each interception comes next, and what of it all is in memory.

A lane's *current* parcel is in one of three queues (``ready``: fresh ones, ``again``: held
ones, ``suspects``: those that are sent one record at a time), or has been taken from there.
Others wait behind it.  A lane with a refusal has nothing in memory but the held parcel that
is being tried again.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from attrs import define, field

from aigateway.actors.recorder.parcels import Changes, Parcel, Refusal

__all__ = ["RETRY_CEILING", "SUSPECT", "Lane", "Lanes"]

WINDOW = 512
WINDOW_BYTES = 32 << 20
"""Parcels in memory, at most, and their size: a second of a busy worker."""
MAX_HELD = 20_000
"""Interceptions with a refused record, at most, until fresh records stay on disk: they take
memory."""
RETRY_CEILING = 300.0
"""Longest back-off of a refused record, in seconds."""
SUSPECT = 2
"""Deaths of the control plane after which the records that it held are sent one by one."""


@define(eq=False)
class Lane:
    """One interception with something to deliver."""

    current: Parcel | None = None
    behind: deque[Parcel] = field(factory=deque)
    refusal: Refusal | None = None


class Lanes:
    """All interceptions of one spool that have something to deliver."""

    def __init__(
        self,
        *,
        window: int = WINDOW,
        window_bytes: int = WINDOW_BYTES,
        max_held: int = MAX_HELD,
    ) -> None:
        self._window, self._window_bytes, self._max_held = window, window_bytes, max_held
        self.changes = Changes()
        """To be written down; the caller puts an empty one in its place when that is done."""
        self.cursor = 0
        """The highest number that was taken into account; higher ones are the backlog."""
        self.backlog = False
        self.in_memory = 0
        """Parcels in memory."""
        self.ready: deque[Parcel] = deque()
        self.again: deque[Parcel] = deque()
        self.suspects: deque[Parcel] = deque()
        self._bytes = 0
        self._lanes: dict[str, Lane] = {}
        self._held_lanes = 0
        self._due: list[tuple[float, int, str, Refusal]] = []
        self._ticks = count()

    def __getitem__(self, owner: str) -> Lane:
        return self._lanes[owner]

    def current(self) -> Iterator[Parcel]:
        """All parcels in memory."""
        for lane in self._lanes.values():
            if lane.current is not None:
                yield lane.current
            yield from lane.behind

    # -- from the disk

    def resume(self, refusals: Iterable[tuple[str, Refusal]], *, backlog: bool) -> None:
        """Take up what an earlier run left: held interceptions, and whether there is more."""
        for owner, refusal in refusals:
            self._lanes[owner] = Lane(refusal=refusal)
            self._held_lanes += 1
            self._schedule(owner, refusal)
        self.backlog = backlog

    def appended(self, parcels: Sequence[Parcel]) -> None:
        """These were just written, behind all others."""
        for parcel in parcels:
            # Behind a backlog it stays on disk even if its lane is held: the backlog may have
            # the next parcel of that lane.
            if self.backlog or not self._fits(parcel):
                self.backlog = True
                return
            self._take(parcel)

    def admit(self, parcel: Parcel) -> bool:
        """Take a parcel that the disk has refused, behind all others; False when there is no
        room for it, or others come first."""
        if self.backlog or not self._fits(parcel):
            return False
        self._take(parcel)
        return True

    def loaded(self, parcels: Sequence[Parcel], *, more: bool) -> None:
        """These were read behind the cursor; ``more``: they were not all."""
        for parcel in parcels:
            self._take(parcel)
        self.backlog = more

    def room(self) -> tuple[int, int]:
        """How many parcels of the backlog to read now, and bytes of them; 0 when none."""
        if not self.backlog or self.in_memory > self._window // 2 or not self._has_room():
            return 0, 0
        if self._held_lanes >= self._max_held:
            return 0, 0
        return self._window - self.in_memory, self._window_bytes - self._bytes

    def take_due(self, now: float) -> str | None:
        """An interception whose first held parcel is to be read now, for :meth:`loaded_held`."""
        while self._due and self._has_room():
            next_at, _, owner, refusal = self._due[0]
            lane = self._lanes.get(owner)
            outdated = (
                lane is None
                or lane.refusal is not refusal
                or lane.current is not None
                or next_at != refusal.next_at
            )
            if not outdated and next_at > now:
                break
            heapq.heappop(self._due)
            if not outdated:
                return owner
        return None

    def loaded_held(self, owner: str, parcel: Parcel | None) -> None:
        """The first held parcel of an interception; None: it has none."""
        lane = self._lanes[owner]
        if parcel is None:
            self._release(owner, lane)
            self._next(owner, lane)
            return
        parcel.held = True
        self._admit(parcel)
        lane.current = parcel
        self.again.append(parcel)

    def found_done(self, parcel: Parcel, now: float) -> None:
        """A held parcel that was read, and of which nothing is left to do."""
        parcel.held = True
        self._note_gone(parcel, self._lanes[parcel.owner], now)

    def next_due(self) -> float | None:
        """When a held parcel may be tried again, if there is room for it."""
        return self._due[0][0] if self._due and self._has_room() else None

    @property
    def idle(self) -> bool:
        """Whether nothing is known to wait, in memory or on disk."""
        return not (self.in_memory or self._due or self.backlog)

    # -- what became of current parcels

    def put_back(self, parcel: Parcel) -> None:
        """To the front of those that may go."""
        parcel.batch = 0
        if parcel.deaths >= SUSPECT:
            self.suspects.appendleft(parcel)
        elif parcel.held:
            self.again.appendleft(parcel)
        else:
            self.ready.appendleft(parcel)

    def gone(self, parcel: Parcel, now: float) -> None:
        """Nothing is left of it."""
        self._forget(parcel)
        lane = self._lanes[parcel.owner]
        self._note_gone(parcel, lane, now)
        self._next(parcel.owner, lane)

    def _note_gone(self, parcel: Parcel, lane: Lane, now: float) -> None:
        changes, owner = self.changes, parcel.owner
        changes.rewritten.pop(parcel.number, None)
        if parcel.on_disk:
            (changes.done_held if parcel.held else changes.done).append(parcel.number)
        refusal = lane.refusal
        if refusal is not None:
            refusal.parcels -= parcel.held
            if refusal.parcels:
                refusal.start_over(now)
                changes.refusals[owner] = refusal
                self._schedule(owner, refusal)
            else:
                self._release(owner, lane)

    def refusal(self, parcel: Parcel, now: float) -> Refusal:
        """Why its lane is held, or will be."""
        lane = self._lanes[parcel.owner]
        if lane.refusal is None:
            lane.refusal = Refusal(now, now)
            self._held_lanes += 1
        return lane.refusal

    def hold(self, parcel: Parcel, refusal: Refusal) -> None:
        """It goes out of memory, and so does what stands behind it."""
        lane = self._lanes[parcel.owner]
        self._forget(parcel)
        if not parcel.held:
            self._hold(refusal, parcel)
        for later in lane.behind:
            self._forget(later)
            self._hold(refusal, later)
        lane.behind.clear()
        lane.current = None
        self.changes.refusals[parcel.owner] = refusal
        self._schedule(parcel.owner, refusal)

    def retry_all(self, now: float) -> None:
        """Try what is held at once, however long it would have to wait."""
        for owner, lane in self._lanes.items():
            if lane.refusal is not None and lane.current is None:
                lane.refusal.next_at = now
                self._schedule(owner, lane.refusal)

    def disk_lost(self) -> list[Parcel]:
        """The file is gone, with all that was on disk alone; return all that is in memory."""
        changes = self.changes
        self.changes = Changes(held=changes.held, dead=changes.dead)
        self.backlog = False
        parcels = [*changes.held, *self.current()]
        held: dict[str, int] = {}
        for parcel in parcels:
            parcel.on_disk = False
            if parcel.held:
                held[parcel.owner] = held.get(parcel.owner, 0) + 1
        for parcel in changes.held:
            held[parcel.owner] = held.get(parcel.owner, 0) + 1
        for owner, lane in list(self._lanes.items()):
            if lane.refusal is None:
                continue
            lane.refusal.parcels = held.get(owner, 0)
            if lane.refusal.parcels:
                self.changes.refusals[owner] = lane.refusal
            else:
                self._release(owner, lane)
                if lane.current is None:
                    self._next(owner, lane)
        return parcels

    # -- inside

    def _has_room(self) -> bool:
        return self.in_memory < self._window and self._bytes < self._window_bytes

    def _fits(self, parcel: Parcel) -> bool:
        if self.in_memory >= self._window or self._held_lanes >= self._max_held:
            return False
        return self._bytes + parcel.size <= self._window_bytes or not self.in_memory

    def _take(self, parcel: Parcel) -> None:
        self.cursor = parcel.number
        lane = self._lanes.get(parcel.owner)
        if lane is None:
            lane = self._lanes[parcel.owner] = Lane()
        if lane.refusal is not None:
            self._hold(lane.refusal, parcel)
            return
        self._admit(parcel)
        if lane.current is None:
            lane.current = parcel
            self.ready.append(parcel)
        else:
            lane.behind.append(parcel)

    def _admit(self, parcel: Parcel) -> None:
        self.in_memory += 1
        self._bytes += parcel.size

    def _forget(self, parcel: Parcel) -> None:
        self.in_memory -= 1
        self._bytes -= parcel.size

    def _hold(self, refusal: Refusal, parcel: Parcel) -> None:
        refusal.parcels += 1
        self.changes.rewritten.pop(parcel.number, None)
        self.changes.held.append(parcel)

    def _next(self, owner: str, lane: Lane) -> None:
        """The lane's current parcel has gone."""
        if lane.behind:
            lane.current = lane.behind.popleft()
            self.ready.append(lane.current)
        elif lane.refusal is None:
            del self._lanes[owner]
        else:
            lane.current = None

    def _schedule(self, owner: str, refusal: Refusal) -> None:
        heapq.heappush(self._due, (refusal.next_at, next(self._ticks), owner, refusal))

    def _release(self, owner: str, lane: Lane) -> None:
        lane.refusal = None
        self._held_lanes -= 1
        self.changes.refusals[owner] = None
