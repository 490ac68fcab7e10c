"""The delivery's rules, one by one: refusals, trouble, deaths, memory."""

from __future__ import annotations

from itertools import chain

import pytest
from delivery_model import Desk, Disk, parcel_of, seqs

from aigateway.actors.control.marks import PARCEL_BITS
from aigateway.actors.control.messages import Spooled, Stored
from aigateway.actors.recorder import delivery as rules
from aigateway.actors.recorder.delivery import MANY_REFUSALS, PROBE
from aigateway.actors.recorder.lanes import RETRY_CEILING
from aigateway.actors.recorder.parcels import Refusal


def owner_of(spooled: Spooled) -> str:
    return spooled.record.interception_id  # type: ignore[union-attr]


def owners(sent: list[rules.Batch]) -> list[str]:
    return [owner_of(spooled) for batch in sent for spooled in chain.from_iterable(batch.parcels)]


def refuse(desk: Desk, batch: rules.Batch, reason: str = "no", *, away: bool = False) -> None:
    desk.answer(batch, retry=dict.fromkeys(seqs(batch), reason), away=away)


def refuse_only(desk: Desk, owner: str, number: int, reason: str = "no") -> list[int]:
    """Refuse what is sent of one interception while something else is stored."""
    desk.append(parcel_of(number, f"other-{number}"))
    refused: list[int] = []
    for batch in desk.pump():
        retry = {s.seq: reason for s in chain.from_iterable(batch.parcels) if owner_of(s) == owner}
        desk.answer(batch, done=tuple(s for s in seqs(batch) if s not in retry), retry=retry)
        refused += retry
    desk.later(RETRY_CEILING)
    return refused


def roomy() -> Desk:
    return Desk(window=500, window_bytes=10_000)


# -- in order


def test_interceptions_do_not_wait_for_each_other() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 2), parcel_of(2, "a"), parcel_of(3, "b"))
    (first,) = desk.pump()
    assert owners([first]) == ["a", "a", "b"]
    desk.append(parcel_of(4, "c"))
    (second,) = desk.pump()
    assert owners([second]) == ["c"]
    desk.answer(first, done=seqs(first)[:1])
    assert desk.pump() == []
    desk.answer(first, done=seqs(first)[1:2])
    assert owners(desk.pump()) == ["a"]


def test_a_message_carries_a_limited_number_of_parcels() -> None:
    desk = roomy()
    desk.append(*(parcel_of(n, str(n)) for n in range(1, rules.BATCH * 2 + 2)))
    assert [len(batch.parcels) for batch in desk.pump()] == [rules.BATCH, rules.BATCH, 1]


def test_an_answer_may_come_piece_by_piece_and_twice() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 3))
    (batch,) = desk.pump()
    first, second, third = seqs(batch)
    desk.answer(batch, done=(second,))
    desk.answer(batch, done=(second, first), retry={first: "x"}, rejected={second: "x"})
    desk.answer(batch, done=(third, third))
    desk.write()
    assert not desk.disk.fresh
    assert not desk.disk.dead
    assert desk.lanes.idle


# -- refusals


def test_a_refused_record_is_tried_again_later_and_later() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"))
    delays = []
    for _ in range(12):
        (batch,) = desk.pump()
        refuse(desk, batch)
        assert desk.pump() == []
        when = desk.delivery.next_time(desk.now)
        assert when is not None
        delays.append(when - desk.now)
        desk.later(when - desk.now)
    assert delays[:3] == pytest.approx([0.5, 1.0, 2.0])
    assert delays[-1] == RETRY_CEILING


def test_what_stands_behind_a_refused_record_waits_on_disk() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"), parcel_of(2, "a"))
    (batch,) = desk.pump()
    refuse(desk, batch)
    desk.append(parcel_of(3, "a"), parcel_of(4, "b"))
    (other,) = desk.pump()
    assert owners([other]) == ["b"]
    desk.store_all(other)
    desk.write()
    assert desk.lanes.in_memory == 0
    assert sorted(desk.disk.held) == [1, 2, 3]
    desk.later(0.5)
    for number in (1, 2, 3):
        (batch,) = desk.pump()
        assert seqs(batch) == (number << PARCEL_BITS,)
        desk.store_all(batch)
    desk.write()
    assert (desk.disk.depth, desk.disk.refusals) == (0, {})
    assert desk.lanes.idle


def test_an_interception_is_free_once_its_held_records_are_delivered() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"))
    refuse(desk, desk.pump()[0])
    desk.write()
    desk.later(1)
    desk.store_all(desk.pump()[0])
    desk.append(parcel_of(2, "a"))
    (batch,) = desk.pump()
    assert seqs(batch) == (2 << PARCEL_BITS,)


def test_of_a_parcel_only_what_is_left_is_sent_again() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 4))
    (batch,) = desk.pump()
    one, two, three, four = seqs(batch)
    desk.answer(batch, done=(one,), rejected={two: "invalid"}, retry={three: "no", four: ""})
    desk.write()
    assert desk.disk.dead == [two]
    assert [s.seq for s in desk.disk.held[1].records] == [three, four]
    desk.later(1)
    (again,) = desk.pump()
    assert seqs(again) == (three, four)


def test_a_record_that_is_wrong_is_set_aside_at_once() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 2))
    (batch,) = desk.pump()
    first, second = seqs(batch)
    desk.answer(batch, rejected={first: "invalid id"}, done=(second,))
    (dead,) = desk.lanes.changes.dead
    assert (dead.spooled.seq, dead.attempts, dead.reason) == (first, 1, "invalid id")
    desk.write()
    assert desk.disk.depth == 0


def test_a_record_is_set_aside_after_too_many_refusals_while_others_are_stored() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 2))
    for attempt in range(1, rules.MAX_ATTEMPTS + 1):
        refuse_only(desk, "a", 100 + attempt, f"no, for the {attempt}th time")
    (dead,) = desk.lanes.changes.dead
    assert dead.spooled.seq == 1 << PARCEL_BITS
    assert (dead.attempts, dead.reason) == (rules.MAX_ATTEMPTS, "no, for the 20th time")
    # The next one of the interception has all its attempts before it.
    for attempt in range(1, rules.MAX_ATTEMPTS):
        assert refuse_only(desk, "a", 200 + attempt) == [(1 << PARCEL_BITS) + 1]
    assert len(desk.disk.dead) == 1


def test_a_control_plane_that_refuses_everything_costs_no_record() -> None:
    desk = roomy()
    desk.append(*(parcel_of(n, str(n)) for n in range(1, 11)))
    for _ in range(100):
        for batch in desk.pump():
            refuse(desk, batch, "database is away")
        desk.later(RETRY_CEILING)
    assert not desk.disk.dead
    for _ in range(30):
        for batch in desk.pump():
            desk.store_all(batch)
        desk.later(10)
    desk.write()
    assert desk.disk.depth == 0


def test_a_record_that_is_refused_for_a_day_is_set_aside() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"))
    began = desk.now
    while not desk.lanes.changes.dead:
        (batch,) = desk.pump()
        refuse(desk, batch)
        desk.later(RETRY_CEILING)
        assert desk.now - began < rules.MAX_AGE * 1.1
    assert desk.now - began > rules.MAX_AGE
    desk.write()
    assert desk.disk.depth == 0
    assert desk.lanes.idle


def test_what_was_not_tried_does_not_count() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"))
    for attempt in range(50):
        assert refuse_only(desk, "a", 100 + attempt, "")
    assert not desk.disk.dead


def test_when_the_first_record_of_a_parcel_passes_the_next_one_starts_afresh() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 2))
    for attempt in range(rules.MAX_ATTEMPTS - 1):
        refuse_only(desk, "a", 100 + attempt)
    (batch,) = desk.pump()
    first, second = seqs(batch)
    desk.answer(batch, done=(first,), retry={second: "no"})
    desk.write()
    assert not desk.disk.dead
    assert desk.disk.refusals["a"].attempts == 1


def test_refused_and_fresh_records_take_turns() -> None:
    desk = Desk(window=200, window_bytes=10_000)
    desk.append(*(parcel_of(n, f"old-{n}") for n in range(1, 31)))
    for batch in desk.pump():
        refuse(desk, batch)
    desk.later(1)
    desk.append(*(parcel_of(n, f"new-{n}") for n in range(101, 201)))
    (batch, *_) = desk.pump()
    kinds = [owner[:3] for owner in owners([batch])]
    assert kinds[:6] == ["new", "old"] * 3
    assert kinds.count("old") == 30


# -- trouble


def test_nothing_is_sent_while_the_control_plane_is_away() -> None:
    desk = roomy()
    desk.append(*(parcel_of(n, str(n)) for n in range(1, 200)))
    pauses = []
    for _ in range(14):
        sent = desk.pump()
        assert sent
        for batch in sent:
            refuse(desk, batch, "gone", away=True)
        assert desk.pump() == []
        when = desk.delivery.next_time(desk.now)
        assert when is not None
        pauses.append(when - desk.now)
        desk.later(when - desk.now)
        # After the first time it is tried with a few.
        assert len(desk.pump()[0].parcels) == PROBE
        desk.delivery.replaced(desk.now, crashed=False)
    # One step per pause, however many answers said so.
    assert pauses[:3] == pytest.approx([0.05, 0.0809, 0.13090], rel=1e-3)
    assert pauses[-1] == 10.0
    assert not desk.lanes.changes.held
    desk.store_all(desk.pump()[0])
    assert len(desk.pump()[0].parcels) == rules.BATCH


def test_refusals_of_everything_are_taken_for_trouble() -> None:
    desk = roomy()
    desk.append(*(parcel_of(n, str(n)) for n in range(1, 200)))
    (first, *others) = desk.pump()
    refuse(desk, first)
    assert len(first.parcels) > MANY_REFUSALS
    assert desk.delivery.paused(desk.now)
    for batch in others:
        refuse(desk, batch)
    desk.later(0.06)
    desk.append(*(parcel_of(n, str(n)) for n in range(300, 310)))
    (probe,) = desk.pump()
    assert len(probe.parcels) == PROBE
    refuse(desk, probe)
    assert desk.delivery.paused(desk.now)


def test_a_few_refusals_stop_nobody() -> None:
    desk = roomy()
    desk.append(*(parcel_of(n, str(n)) for n in range(1, MANY_REFUSALS)))
    refuse(desk, desk.pump()[0])
    assert not desk.delivery.paused(desk.now)


def test_a_batch_that_nobody_took_goes_back() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"), parcel_of(2, "b"))
    (batch,) = desk.pump()
    desk.delivery.nobody_there(batch.number, desk.now)
    assert desk.pump() == []
    desk.delivery.hurry()
    assert owners(desk.pump()) == ["a", "b"]


def test_a_partly_stored_parcel_is_noted_before_it_waits_for_the_control_plane() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 2))
    (batch,) = desk.pump()
    first, second = seqs(batch)
    desk.answer(batch, done=(first,))
    desk.answer(batch, retry={second: "gone"}, away=True)
    desk.write()
    assert [s.seq for s in desk.disk.fresh[1].records] == [second]


def test_on_request_what_is_held_is_tried_at_once() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"))
    for _ in range(5):
        refuse(desk, desk.pump()[0])
        desk.later(100)
    refuse(desk, desk.pump()[0])
    assert desk.pump() == []
    desk.lanes.retry_all(desk.now)
    assert owners(desk.pump()) == ["a"]


# -- deaths of the control plane


def test_what_a_dead_control_plane_held_goes_to_its_successor_in_order() -> None:
    desk = roomy()
    desk.append(*(parcel_of(n, str(n)) for n in range(1, 6)))
    (batch,) = desk.pump()
    desk.answer(batch, done=seqs(batch)[:2])
    desk.delivery.replaced(desk.now, crashed=True)
    (again,) = desk.pump()
    assert owners([again]) == ["3", "4", "5"]
    # The old one may still talk.
    desk.answer(batch, done=seqs(again))
    assert desk.disk.depth == 3


def test_a_record_that_control_planes_die_of_is_found_and_set_aside() -> None:
    desk = roomy()
    desk.append(*(parcel_of(n, str(n), 3) for n in range(1, 6)))
    poison = (3 << PARCEL_BITS) + 1
    deaths = 0
    desk.pump()
    for _ in range(40):
        sent = desk.pump() or [desk.delivery.take_batch(desk.now)]
        batches = [batch for batch in sent if batch is not None]
        if not batches and not desk.lanes.in_memory:
            break
        for batch in batches:
            if poison in seqs(batch):
                deaths += 1
                desk.delivery.replaced(desk.now, crashed=True)
            else:
                desk.store_all(batch)
        if not batches:
            deaths += 1
            desk.delivery.replaced(desk.now, crashed=True)
    desk.write()
    assert desk.disk.dead == [poison]
    assert desk.disk.depth == 0
    assert deaths == 3


def test_restarts_on_request_make_no_record_suspect() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 2))
    for _ in range(10):
        assert len(seqs(desk.pump()[0])) == 2
        desk.delivery.replaced(desk.now, crashed=False)
    assert not desk.lanes.changes.dead


def test_a_suspect_that_the_control_plane_is_too_busy_for_waits_its_turn() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 2))
    for _ in range(2):
        desk.pump()
        desk.delivery.replaced(desk.now, crashed=True)
    desk.append(parcel_of(2, "b"))
    (batch,) = desk.pump()
    assert seqs(batch) == (1 << PARCEL_BITS,)
    refuse(desk, batch, "gone", away=True)
    desk.later(1)
    (batch,) = desk.pump()
    assert seqs(batch) == (1 << PARCEL_BITS,)
    desk.store_all(batch)
    (batch,) = desk.pump()
    desk.store_all(batch)
    assert owners(desk.pump()) == ["b"]


# -- memory and disk


def test_what_does_not_fit_into_memory_stays_on_disk_in_order() -> None:
    desk = Desk(window=4)
    desk.append(*(parcel_of(n, "abc"[n % 3]) for n in range(1, 21)))
    assert desk.lanes.in_memory == 4
    got: list[int] = []
    for _ in range(40):
        for batch in desk.pump():
            got += [seq >> PARCEL_BITS for seq in seqs(batch)]
            desk.store_all(batch)
    assert sorted(got) == list(range(1, 21))
    for owner in range(3):
        mine = [number for number in got if number % 3 == owner]
        assert mine == sorted(mine)


def test_a_record_larger_than_the_window_is_delivered_all_the_same() -> None:
    desk = Desk(window=4, window_bytes=10)
    desk.append(parcel_of(1, "a", size=1000), parcel_of(2, "b", size=1000))
    assert desk.lanes.in_memory == 1
    for owner in "ab":
        (batch,) = desk.pump()
        assert owners([batch]) == [owner]
        desk.store_all(batch)


def test_with_too_many_refused_interceptions_fresh_records_stay_on_disk() -> None:
    desk = Desk(window=50, window_bytes=1000, max_held=3)
    desk.append(*(parcel_of(n, str(n)) for n in range(1, 4)))
    refuse(desk, desk.pump()[0])
    desk.append(parcel_of(9, "fresh"))
    assert desk.pump() == []
    assert desk.lanes.backlog
    desk.later(1)
    (batch,) = desk.pump()
    desk.store_all(batch)
    assert owners(desk.pump()) == ["fresh"]


def test_an_earlier_runs_refusals_are_kept() -> None:
    disk = Disk(held={1: parcel_of(1, "a")}, depth=1)
    disk.held[1].held = True
    disk.refusals["a"] = Refusal(next_at=1050.0, since=900.0, attempts=7)
    desk = Desk(disk)
    # The interception goes on: what is new waits behind what is old.
    desk.append(parcel_of(2, "a"))
    assert desk.pump() == []
    assert desk.delivery.next_time(desk.now) == 1050.0
    desk.later(50)
    (batch,) = desk.pump()
    assert seqs(batch) == (1 << PARCEL_BITS,)
    refuse(desk, batch)
    assert disk.refusals["a"].attempts == 7
    desk.write()
    assert disk.refusals["a"].attempts == 8


def test_a_refusal_without_records_is_forgotten() -> None:
    disk = Disk(refusals={"a": Refusal(next_at=1.0, since=1.0)})
    desk = Desk(disk)
    desk.pump()
    desk.write()
    assert disk.refusals == {}
    assert desk.lanes.idle


def test_when_the_file_is_lost_what_is_in_memory_goes_on_as_before() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a", 3), parcel_of(2, "a"), parcel_of(3, "b"), parcel_of(4, "c"))
    (batch,) = desk.pump()
    one, two, three, b, c = seqs(batch)
    desk.answer(batch, done=(one, c), rejected={two: "invalid"}, retry={b: "no"})
    desk.lose_file()
    desk.write()
    # What is on its way is not sent once more.
    assert desk.pump() == []
    desk.answer(batch, done=(three,))
    desk.write()
    assert desk.disk.dead == [two]
    (second,) = desk.pump()
    assert seqs(second) == (2 << PARCEL_BITS,)
    desk.store_all(second)
    desk.later(1)
    (third,) = desk.pump()
    assert seqs(third) == (b,)
    desk.store_all(third)
    desk.write()
    assert desk.disk.depth == 0
    assert desk.lanes.idle


def test_an_unknown_batch_changes_nothing() -> None:
    desk = roomy()
    desk.append(parcel_of(1, "a"))
    (batch,) = desk.pump()
    desk.delivery.answered(batch.number + 1, Stored(done=seqs(batch)), desk.now)
    desk.delivery.nobody_there(batch.number + 1, desk.now)
    assert not desk.lanes.changes
