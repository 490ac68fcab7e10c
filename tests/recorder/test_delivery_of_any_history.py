"""Whatever happens, in any order: the delivery's promises hold."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

import pytest
from delivery_model import WINDOW_BYTES, Desk, parcel_of, seqs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aigateway.actors.control.messages import Stored
from aigateway.actors.recorder.delivery import Batch

T = TypeVar("T")

OWNERS = "abc"
CURSED = "x"
"""An interception whose records are refused each time."""

HAPPENINGS = [
    *["append"] * 8,
    *["answer"] * 16,
    *["wait"] * 4,
    *["write", "hurry", "retry_all", "nonsense", "not_handed_over"],
    *["replace_plane", "restart", "corrupt"],
]
"""Each as often as it stands here."""


class Dice(Protocol):
    """Where a history takes its turns."""

    def number(self, least: int, most: int) -> int: ...
    def one_of(self, choices: Sequence[T]) -> T: ...


class Drawn:
    """By hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw

    def number(self, least: int, most: int) -> int:
        return self._draw(st.integers(least, most))

    def one_of(self, choices: Sequence[T]) -> T:
        return self._draw(st.sampled_from(choices))


class Thrown:
    """By chance, the same each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def one_of(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)


class History:
    """The plane stores, refuses, is away or dies; the process dies; the disk refuses."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.number = 0
        self.appended: dict[str, list[int]] = defaultdict(list)
        self.stored: set[int] = set()
        self.rejected: set[int] = set()
        self.maybe_again: set[int] = set()
        """What may be sent though it was stored: the answer, or its note, was lost."""
        self.flying: list[Batch] = []
        self.left: dict[int, list[int]] = {}
        """What of a batch is not answered yet."""
        self.blocked: dict[int, set[str]] = {}
        """Interceptions of a batch of which a record was not stored."""

    def happen(self, dice: Dice) -> None:
        what = dice.one_of(HAPPENINGS)
        getattr(self, what)(dice)
        if what not in ("write", "restart"):
            # As the recorder does after each message, unless the disk refuses.
            self.pump()

    # -- what comes in

    def append(self, dice: Dice) -> None:
        owner, count = dice.one_of([*OWNERS, CURSED]), dice.number(1, 3)
        size = dice.one_of([1, 1, 5, 30, 100])
        self.number += 1
        parcel = parcel_of(self.number, owner, count, size)
        self.appended[owner] += [spooled.seq for spooled in parcel.records]
        self.desk.append(parcel)

    def pump(self) -> None:
        for batch in self.desk.pump():
            self.check_sent(batch)
            self.flying.append(batch)
            self.left[batch.number] = list(seqs(batch))
            self.blocked[batch.number] = set()

    def check_sent(self, batch: Batch) -> None:
        in_flight = {seq for numbers in self.left.values() for seq in numbers}
        dead = set(self.desk.disk.dead) | {
            record.spooled.seq for record in self.desk.lanes.changes.dead
        }
        for records in batch.parcels:
            # Order is kept within a parcel only.
            here: set[int] = set()
            for spooled in records:
                seq, owner = spooled.seq, spooled.record.interception_id  # type: ignore[union-attr]
                assert seq not in in_flight, "on its way twice"
                assert seq not in dead, "sent after it was set aside"
                assert seq not in self.stored or seq in self.maybe_again, "stored twice"
                known = self.stored | dead | here
                before = self.appended[owner][: self.appended[owner].index(seq)]
                assert known.issuperset(before), "out of order"
                here.add(seq)

    # -- the control plane

    def _take(self, dice: Dice, how_many: int) -> tuple[Batch, list[int]]:
        batch = dice.one_of(self.flying)
        numbers = self.left[batch.number][:how_many]
        self.left[batch.number] = self.left[batch.number][how_many:]
        if not self.left[batch.number]:
            self.flying.remove(batch)
            del self.left[batch.number]
        return batch, numbers

    def _owner(self, seq: int) -> str:
        return next(owner for owner, numbers in self.appended.items() if seq in numbers)

    def answer(self, dice: Dice) -> None:
        if not self.flying:
            return
        how_many, outcome = dice.number(1, 6), dice.one_of("ssssrrwa")
        batch, numbers = self._take(dice, how_many)
        blocked = self.blocked[batch.number]
        done, retry, wrong = [], {}, {}
        for seq in numbers:
            owner = self._owner(seq)
            if owner in blocked:
                retry[seq] = ""
            elif outcome == "a":
                retry[seq] = "away"
                blocked.add(owner)
            elif outcome == "r" or owner == CURSED:
                retry[seq] = "not now"
                blocked.add(owner)
            elif outcome == "w":
                wrong[seq] = "invalid"
                self.rejected.add(seq)
            else:
                done.append(seq)
        self.stored |= set(done)
        self.maybe_again -= set(done)
        stored = Stored(done=tuple(done), retry=retry, rejected=wrong, away=outcome == "a")
        self.desk.delivery.answered(batch.number, stored, self.desk.now)

    def nonsense(self, dice: Dice) -> None:
        """An answer that nobody waits for changes nothing."""
        batch = dice.number(0, 9)
        if batch not in self.left:
            sent = [seq for numbers in self.left.values() for seq in numbers]
            seq = dice.one_of([*sent, 0, 77777])
            for stored in (
                Stored(done=(seq,)),
                Stored(retry={seq: "x"}),
                Stored(rejected={seq: ""}),
            ):
                self.desk.delivery.answered(batch, stored, self.desk.now)

    def not_handed_over(self, dice: Dice) -> None:
        untouched = [b for b in self.flying if len(self.left[b.number]) == sum(map(len, b.parcels))]
        if untouched:
            batch = dice.one_of(untouched)
            self.flying.remove(batch)
            del self.left[batch.number]
            self.desk.delivery.nobody_there(batch.number, self.desk.now)

    def replace_plane(self, dice: Dice) -> None:
        """What it held it may have stored, but it will not say so."""
        for numbers in self.left.values():
            stored = numbers[: dice.number(0, len(numbers))]
            self.stored |= set(stored)
            self.maybe_again |= set(stored)
        self.flying.clear()
        self.left.clear()
        self.desk.delivery.replaced(self.desk.now, crashed=dice.one_of([False, True]))

    # -- the machine

    def restart(self, _dice: Dice) -> None:
        """The process is killed: what was not written down is forgotten."""
        self.flying.clear()
        self.left.clear()
        on_disk = self.waiting()
        self.maybe_again |= on_disk & self.stored
        self.rejected -= on_disk
        self.desk = Desk(self.desk.disk, now=self.desk.now)

    def corrupt(self, _dice: Dice) -> None:
        """The file is lost; what was in memory goes into a new one, as it was."""
        desk = self.desk
        before = self.waiting()
        in_memory = {
            spooled.seq
            for parcel in (*desk.lanes.current(), *desk.lanes.changes.held)
            for spooled in parcel.records
        }
        desk.lose_file()
        desk.write()
        assert self.waiting() == in_memory <= before
        for owner, numbers in self.appended.items():
            self.appended[owner] = [n for n in numbers if n in in_memory or n not in before]

    def wait(self, dice: Dice) -> None:
        self.desk.later(dice.one_of([0.01, 0.5, 10.0, 400.0]))

    def write(self, _dice: Dice) -> None:
        self.desk.write()

    def hurry(self, _dice: Dice) -> None:
        self.desk.delivery.hurry()

    def retry_all(self, _dice: Dice) -> None:
        self.desk.lanes.retry_all(self.desk.now)

    # -- promises

    def memory_is_bounded(self) -> None:
        desk = self.desk
        assert desk.lanes.in_memory == len(list(desk.lanes.current())) <= desk.window
        # Each of the two ways from the disk may end with a parcel of any size.
        sizes = sorted(parcel.size for parcel in desk.lanes.current())
        assert sum(sizes[:-2]) <= WINDOW_BYTES

    def a_wait_has_an_end(self) -> None:
        when = self.desk.delivery.next_time(self.desk.now)
        assert when is None or self.desk.now <= when <= self.desk.now + 300

    def end(self) -> None:
        """The plane is well again, but for the cursed records: all others arrive soon."""
        desk = self.desk
        # A lane moves by one parcel at a time; each may have to wait for 300 s once more.
        for _ in range(32 * (1 + self.number)):
            if not self.flying and {self._owner(seq) for seq in self.waiting()} <= {CURSED}:
                break
            for batch in self.flying:
                self.answer_well(batch)
            self.flying.clear()
            self.left.clear()
            self.pump()
            desk.later(10.0)
        desk.write()
        dead = set(desk.disk.dead)
        assert self.rejected <= dead
        for owner, numbers in self.appended.items():
            for seq in numbers:
                if owner != CURSED:
                    assert seq in self.stored or seq in dead, "lost or held up"
        waiting = self.waiting()
        for seq in self.appended[CURSED]:
            assert (seq in waiting) != (seq in dead), "lost"
        assert {self._owner(seq) for seq in waiting} <= {CURSED}

    def waiting(self) -> set[int]:
        """What is on disk."""
        return {
            spooled.seq
            for table in (self.desk.disk.fresh, self.desk.disk.held)
            for parcel in table.values()
            for spooled in parcel.records
        }

    def answer_well(self, batch: Batch) -> None:
        left = self.left[batch.number]
        blocked = set(self.blocked[batch.number])
        done, retry = [], {}
        for seq in left:
            owner = self._owner(seq)
            if owner == CURSED or owner in blocked:
                retry[seq] = "" if owner in blocked else "not now"
                blocked.add(owner)
            else:
                done.append(seq)
        self.stored |= set(done)
        self.desk.delivery.answered(
            batch.number, Stored(done=tuple(done), retry=retry), self.desk.now
        )


class Deliveries(RuleBasedStateMachine):
    """Histories that hypothesis thinks of, and makes short when one is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History()

    @rule(data=st.data())
    def happen(self, data: st.DataObject) -> None:
        self.history.happen(Drawn(data))

    @invariant()
    def promises(self) -> None:
        self.history.memory_is_bounded()
        self.history.a_wait_has_an_end()

    def teardown(self) -> None:
        self.history.end()


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(
    max_examples=30,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("seed", range(0, 400, 20))
def test_long_histories(seed: int) -> None:
    """Faults that need many steps to show: twenty histories of three hundred."""
    for one in range(seed, seed + 20):
        history, dice = History(), Thrown(one)
        for _ in range(300):
            history.happen(dice)
            history.memory_is_bounded()
            history.a_wait_has_an_end()
        history.end()
