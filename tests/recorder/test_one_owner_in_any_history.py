"""Two workers, one folder: whatever happens to them, each spool has one sender.

The real desks, spools and marks, on a disk that can be full, with coderds that lose answers and
workers that are killed, replaced and taken over from; clocks are set meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from itertools import chain
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, TypeAlias

import pytest
from attrs import define, field
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from recorder_parts import thought

from aigateway.actors.control.marks import Fate, Marks
from aigateway.actors.control.messages import Stored
from aigateway.actors.recorder import _desk
from aigateway.actors.recorder._desk import Desk
from aigateway.actors.recorder.custody import Estate
from aigateway.actors.recorder.delivery import Batch
from aigateway.actors.recorder.messages import Append
from aigateway.actors.recorder.spool import DiskState, Spool, SpoolError, adopt_spool, claim_spool

Room: TypeAlias = Literal["all", "for deleting", "none"]
"""What a disk has room for."""


@define(eq=False)
class Flight:
    """A record that coderd has got, or will never get."""

    text: str
    seq: int
    marks: Marks
    desk: Desk
    batch: int
    stored: bool = False


@define(eq=False)
class Worker:
    """A process: its desks, and what its control planes have in the air."""

    desks: list[Desk] = field(factory=list)
    held: list[tuple[Desk, Batch]] = field(factory=list)
    """Batches that the control plane has, and of which it sends one record at a time."""
    flights: list[Flight] = field(factory=list)


class Clocks:
    """In the place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.wall = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


class House:
    """All of it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.clocks = Clocks()
        self.room: Room = "all"
        self.number = 0
        self.safe: set[str] = set()
        """Records whose hand-over was confirmed."""
        self.arrivals: Counter[str] = Counter()
        self.doubts: Counter[str] = Counter()
        """How often a record's fate was lost with a line or a process after it was stored."""
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(_desk, "time", self.clocks)
        write = Spool.write

        def limited(spool: Spool, new: Any = (), *more: Any) -> Any:
            kept = more[3:]
            if self.room == "none" or (self.room == "for deleting" and (new or any(kept))):
                raise SpoolError("the disk is full", DiskState.FULL)
            return write(spool, new, *more)

        self.patches.setattr(Spool, "write", limited)
        delete = Spool.delete_some

        def delete_some(spool: Spool, *more: Any) -> bool:
            if self.room == "none":
                raise SpoolError("the disk is full", DiskState.FULL)
            return delete(spool, *more)

        self.patches.setattr(Spool, "delete_some", delete_some)
        self.workers = [self.new_worker(), self.new_worker()]

    def new_worker(self) -> Worker:
        worker = Worker()
        self.take_up(worker, Estate(claim_spool(self.folder)))
        return worker

    def take_up(self, worker: Worker, estate: Estate) -> None:
        desk = Desk(estate)
        desk.take_up()
        worker.desks.append(desk)

    # -- what happens

    def append(self, worker: Worker, owner: str, count: int) -> None:
        texts = []
        for _ in range(count):
            self.number += 1
            texts.append(str(self.number))
        # Each worker has its own interceptions.
        owner = f"{owner}{self.workers.index(worker)}"
        reply = _Noting(lambda: self.safe.update(texts))
        records = tuple(thought(owner, text) for text in texts)
        worker.desks[0].appended.append(Append(records, reply))  # type: ignore[arg-type]
        self.work(worker)

    def work(self, worker: Worker) -> None:
        """What a recorder does after each message."""
        for desk in worker.desks:
            desk.write()
            if not desk.delivery.paused(self.clocks.now):
                desk.load(self.clocks.now)
                while (batch := desk.delivery.take_batch(self.clocks.now)) is not None:
                    worker.held.append((desk, batch))

    def send(self, worker: Worker) -> None:
        """The control plane sends the first record of each interception that has none in the
        air; the others wait in its hands."""
        for desk, batch in list(worker.held):
            worker.held.remove((desk, batch))
            marks, seen, back = desk.spool.marks, set(), {}
            for spooled in chain.from_iterable(batch.parcels):
                record = spooled.record
                owner, text = record.interception_id, record.content  # type: ignore[union-attr]
                fate = marks.fate(spooled.seq)
                if owner in seen:
                    back[spooled.seq] = ""
                elif fate is Fate.STORED:
                    desk.answered(batch.number, Stored(done=(spooled.seq,)), self.clocks.now)
                elif fate is Fate.FLYING:
                    # The real one waits for its landing; this one gives it back.
                    seen.add(owner)
                    back[spooled.seq] = "in the air"
                else:
                    assert marks.depart(spooled.seq)
                    seen.add(owner)
                    flying = [f.text for w in self.workers for f in w.flights]
                    assert text not in flying, "two senders"
                    flight = Flight(text, spooled.seq, marks, desk, batch.number)
                    worker.flights.append(flight)
            if back:
                desk.answered(batch.number, Stored(retry=back, away=True), self.clocks.now)
                desk.delivery.hurry()

    def arrive(self, worker: Worker) -> None:
        """coderd stores what it has not stored of what is in the air."""
        for flight in worker.flights:
            if not flight.stored:
                flight.stored = True
                self.arrivals[flight.text] += 1
                assert self.arrivals[flight.text] <= 1 + self.doubts[flight.text], "twice"

    def land(self, worker: Worker, how: str) -> None:
        """An answer, a refusal, or a line that breaks."""
        if not worker.flights:
            return
        flight = worker.flights.pop(0)
        if how == "answer" and flight.stored:
            flight.marks.arrive(flight.seq)
            stored = Stored(done=(flight.seq,))
        elif how == "refusal" and not flight.stored:
            flight.marks.refused(flight.seq)
            stored = Stored(retry={flight.seq: "not now"})
        else:
            self.doubts[flight.text] += flight.stored
            flight.marks.lost(flight.seq)
            stored = Stored(retry={flight.seq: "gone"}, away=True)
        # A recorder that was replaced hears of nothing; it is in the marks.
        if flight.desk in worker.desks:
            flight.desk.answered(flight.batch, stored, self.clocks.now)
        self.work(worker)

    def restart_recorder(self, worker: Worker) -> None:
        estates = []
        for desk in worker.desks:
            desk.write(last=True)
            estates.append(desk.leave())
        # What was handed over and not sent dies with the inbox of nobody: it is on disk.
        worker.held.clear()
        worker.desks.clear()
        for estate in estates:
            self.take_up(worker, estate)
        self.work(worker)

    def replace_plane(self, worker: Worker) -> None:
        """The old one gives back what it has not sent, and goes on telling of the rest."""
        for desk, batch in worker.held:
            retry = {spooled.seq: "" for spooled in chain.from_iterable(batch.parcels)}
            desk.answered(batch.number, Stored(retry=retry, away=True), self.clocks.now)
        worker.held.clear()
        for desk in worker.desks:
            desk.replaced(self.clocks.now, crashed=False)
        self.work(worker)

    def kill(self, worker: Worker) -> None:
        """SIGKILL: what coderd has got stays there, and nobody will hear of it."""
        for flight in worker.flights:
            self.doubts[flight.text] += flight.stored
        for desk in worker.desks:
            # What the kernel does.
            desk.spool.marks.close()
            os.close(desk.spool.close_database())
        at = self.workers.index(worker)
        self.workers[at] = Worker()
        self.take_up(self.workers[at], Estate(claim_spool(self.folder)))

    def take_over(self, worker: Worker) -> None:
        if len(worker.desks) == 1 and (left := adopt_spool(self.folder)) is not None:
            self.take_up(worker, Estate(left))
            self.work(worker)

    def close(self) -> None:
        for worker in self.workers:
            for desk in worker.desks:
                desk.spool.close()
        self.patches.undo()
        rmtree(self.folder)

    def end(self) -> None:
        """All is well again: what was confirmed arrives, and nothing of it stays on the disk."""
        self.room = "all"
        for _ in range(200):
            missing = self.safe - set(self.arrivals)
            waiting = any(desk.depth for worker in self.workers for desk in worker.desks)
            if not missing and not waiting:
                return
            for worker in self.workers:
                self.take_over(worker)
                self.clocks.pass_by(400)
                self.work(worker)
                self.send(worker)
                self.arrive(worker)
                while worker.flights:
                    self.land(worker, "answer")
        raise AssertionError(f"lost or held up: {missing}, or never deleted")


class _Noting:
    """A reply that notes that it was given."""

    known = False

    def __init__(self, note: Any) -> None:
        self._note = note

    def set(self, _value: object) -> None:
        self.known = True
        self._note()


WORKERS = st.integers(0, 1)
ROOMS: list[Room] = ["all", "for deleting", "none"]


class TwoWorkers(RuleBasedStateMachine):
    """Histories that hypothesis thinks of."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()

    def _worker(self, number: int) -> Worker:
        return self.house.workers[number]

    @rule(number=WORKERS, owner=st.sampled_from("ab"), count=st.integers(1, 3))
    def append(self, number: int, owner: str, count: int) -> None:
        self.house.append(self._worker(number), owner, count)

    @rule(number=WORKERS)
    def send(self, number: int) -> None:
        self.house.send(self._worker(number))

    @rule(number=WORKERS)
    def arrive(self, number: int) -> None:
        self.house.arrive(self._worker(number))

    @rule(number=WORKERS, how=st.sampled_from(["answer", "answer", "refusal", "lost"]))
    def land(self, number: int, how: str) -> None:
        self.house.land(self._worker(number), how)

    @rule(number=WORKERS)
    def restart_recorder(self, number: int) -> None:
        self.house.restart_recorder(self._worker(number))

    @rule(number=WORKERS)
    def replace_plane(self, number: int) -> None:
        self.house.replace_plane(self._worker(number))

    @rule(number=WORKERS)
    def take_over(self, number: int) -> None:
        self.house.take_over(self._worker(number))

    @precondition(lambda self: self.house.room == "all")
    @rule(number=WORKERS)
    def kill(self, number: int) -> None:
        self.house.kill(self._worker(number))

    @rule(room=st.sampled_from(ROOMS))
    def fill_or_free(self, room: Room) -> None:
        self.house.room = room

    @rule(seconds=st.sampled_from([0.1, 2.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.house.clocks.pass_by(seconds)

    @rule(seconds=st.sampled_from([-86400.0, 86400.0, 3e7]))
    def set_the_clock(self, seconds: float) -> None:
        self.house.clocks.wall += seconds

    @invariant()
    def nothing_waits_for_long(self) -> None:
        now = self.house.clocks.now
        for worker in self.house.workers:
            for desk in worker.desks:
                when = desk.delivery.next_time(now)
                assert when is None or now <= when <= now + 300

    def teardown(self) -> None:
        try:
            self.house.end()
        finally:
            self.house.close()


TestTwoWorkers = TwoWorkers.TestCase
TestTwoWorkers.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_what_was_refused_on_a_full_disk_is_written_once() -> None:
    """There was room for noting the refusal, and then none for what came after it."""
    house = House()
    worker = house.workers[0]
    house.room = "none"
    house.append(worker, "a", 1)
    house.send(worker)
    house.land(worker, "refusal")
    house.room = "for deleting"
    house.clocks.pass_by(2)
    house.append(worker, "b", 1)
    house.room = "all"
    house.clocks.pass_by(2)
    house.work(worker)
    try:
        house.end()
    finally:
        house.close()
