"""The recorder between the ledgers, its spool and the control plane."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pykka
import pytest
from recorder_parts import (
    CONTROL,
    PATIENCE,
    House,
    Plane,
    end,
    spool_in,
    thought,
    tokens,
    wait_until,
)

from aigateway.actors.actor.base import ActorDied, Crash, new_reply
from aigateway.actors.control.messages import (
    Accepted,
    Begin,
    Spooled,
    Stored,
    StoreRecords,
    Unavailable,
)
from aigateway.actors.recorder import _begins, _desk, recorder
from aigateway.actors.recorder.messages import (
    Append,
    ControlPlaneChanged,
    DiscardDeadLetters,
    Flushed,
    GetSpoolStats,
    ListDeadLetters,
    Redeliver,
)
from aigateway.actors.recorder.recorder import _Tick, _Ticket
from aigateway.actors.recorder.spool import DiskState, Spool, SpoolCorrupt, SpoolError
from aigateway.actors.values.records import InterceptionBegun

NEW = ControlPlaneChanged(replaced=True)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def start(**more: Any) -> House:
        houses.append(House(tmp_path / "state", **more))
        return houses[-1]

    yield start
    for house in houses:
        house.close()


@pytest.fixture
def house(make: Callable[..., House]) -> House:
    house = make()
    house.plane()
    house.start()
    return house


def stats(house: House) -> Any:
    return house.recorder.ask(GetSpoolStats(), timeout=PATIENCE)


def begin(house: House) -> Any:
    record = InterceptionBegun(
        id="i", initiator_id="u", username="ada", api_key_id="k", provider="p",
        provider_name="p", model="m", client="c", user_agent="a", started_at=1.0,
    )  # fmt: skip
    reply = new_reply()
    house.recorder.tell(Begin(record, reply))
    return reply


def flush(house: House, timeout: float = PATIENCE) -> bool:
    reply = new_reply()
    house.recorder.tell(Flushed(reply))
    return bool(reply.get(timeout=timeout))


# -- the ordinary way


def test_records_arrive_in_order_and_leave_the_spool(house: House) -> None:
    house.append(thought("a", "1"), tokens("a"), thought("a", "2"))
    house.append(end("a"))
    house.append(thought("b"))
    assert flush(house)
    mine = [text for text in house.stored if text.startswith("a:")]
    assert mine == ["a:1", "a:TokenUsage", "a:2", "a:InterceptionEnded"]
    assert "b:" in house.stored
    assert stats(house).depth == 0
    house.recorder.stop(timeout=PATIENCE)
    assert [path.suffix for path in house.folder.iterdir()] == [".lock"]


def test_appends_need_no_reply(house: House) -> None:
    house.recorder.tell(Append((thought("a"),)))
    house.wait_stored("a:")


def test_the_start_of_an_interception_goes_to_the_control_plane(house: House) -> None:
    assert begin(house).get(timeout=PATIENCE) == Accepted()


def test_a_start_waits_for_a_control_plane_that_is_being_restarted(
    make: Callable[..., House],
) -> None:
    house = make()
    house.start()
    waiting = [begin(house), begin(house)]
    stats(house)
    house.plane()
    house.recorder.tell(NEW)
    for reply in waiting:
        assert reply.get(timeout=PATIENCE) == Accepted()


def test_a_start_in_the_hands_of_a_dying_control_plane_goes_to_the_next(
    house: House,
) -> None:
    dying = house.tree.find(CONTROL)
    assert dying is not None
    in_hand, go_on = threading.Event(), threading.Event()

    def hold(_spooled: Spooled) -> None:
        in_hand.set()
        assert go_on.wait(PATIENCE)

    dying.tell(hold)
    house.append(thought("a"))
    assert in_hand.wait(PATIENCE)
    dying.tell(Crash())
    reply = begin(house)
    stats(house)
    go_on.set()
    wait_until(lambda: not dying.is_alive(), "it is dead")
    house.plane()
    house.recorder.tell(NEW)
    assert reply.get(timeout=PATIENCE) == Accepted()


def test_a_start_does_not_wait_for_ever(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_begins, "BEGIN_WAIT", 0.05)
    monkeypatch.setattr(recorder, "BEGIN_WAIT", 0.05)
    monkeypatch.setattr(_begins, "MAX_BEGINS", 2)
    house = make()
    house.start()
    replies = [begin(house) for _ in range(3)]
    for reply in replies:
        assert isinstance(reply.get(timeout=PATIENCE), Unavailable)


def test_an_unknown_message_is_a_fault(house: House) -> None:
    with pytest.raises(TypeError, match="unknown message"):
        house.recorder.ask("nonsense", timeout=PATIENCE)


# -- trouble with the control plane


def test_records_wait_for_a_control_plane_that_is_away_and_arrive_once(
    make: Callable[..., House],
) -> None:
    house = make()
    away = threading.Event()
    away.set()
    house.plane(lambda _s: "away" if away.is_set() else None)
    house.start()
    for number in range(2000):
        house.recorder.tell(Append((thought(str(number), "1"), end(str(number)))))
    house.append(thought("last"))
    assert stats(house).depth == 4001
    away.clear()
    assert flush(house)
    assert len(house.stored) == len(set(house.stored)) == 4001


def test_records_wait_for_a_control_plane_that_does_not_exist(make: Callable[..., House]) -> None:
    house = make()
    house.start()
    house.append(thought("a"))
    house.plane()
    house.recorder.tell(NEW)
    house.wait_stored("a:")


def test_a_refused_record_is_tried_again_and_holds_up_only_its_own(
    make: Callable[..., House],
) -> None:
    house = make()
    refusals: list[int] = []

    def rule(spooled: Spooled) -> str | None:
        if getattr(spooled.record, "content", "") == "bad" and len(refusals) < 2:
            refusals.append(spooled.seq)
            return "not now"
        return None

    house.plane(rule)
    house.start()
    house.append(thought("a", "bad"), thought("a", "after"))
    house.append(thought("b", "1"))
    house.wait_stored("b:1")
    assert "a:after" not in house.stored
    house.append(end("a"))
    house.wait_stored("a:InterceptionEnded")
    mine = [text for text in house.stored if text.startswith("a:")]
    assert mine == ["a:bad", "a:after", "a:InterceptionEnded"]
    assert len(set(refusals)) == 1


def test_a_wrong_record_is_listed_redelivered_and_discarded(make: Callable[..., House]) -> None:
    house = make()
    plane = house.plane(lambda s: "wrong id" if "x" in s.record.content else None)  # type: ignore[union-attr]
    house.start()
    for text in ("x1", "x2"):
        house.append(thought("a", text))
    wait_until(lambda: stats(house).dead_letters == 2, "both are set aside")
    letters = house.recorder.ask(ListDeadLetters(), timeout=PATIENCE)
    assert [(letter.kind, letter.reason) for letter in letters] == [("thought", "wrong id")] * 2
    plane.tell(lambda s: "wrong again" if "x2" in s.record.content else None)
    assert house.recorder.ask(Redeliver(), timeout=PATIENCE) == 2
    house.wait_stored("a:x1")
    wait_until(lambda: stats(house).dead_letters == 1, "one is set aside again")
    (letter,) = house.recorder.ask(ListDeadLetters(), timeout=PATIENCE)
    assert letter.reason == "wrong again"
    assert house.recorder.ask(DiscardDeadLetters(), timeout=PATIENCE) == 1
    wait_until(lambda: stats(house).dead_letters == 0, "it is deleted")
    assert flush(house)


def test_what_a_dead_control_plane_held_goes_to_the_next(make: Callable[..., House]) -> None:
    house = make()
    first = house.plane(lambda s: "stall" if "2" in s.record.content else None)  # type: ignore[union-attr]
    house.start()
    house.append(thought("a", "1"), thought("a", "2"), thought("a", "3"))
    house.wait_stored("a:1")
    first.stop(timeout=PATIENCE)
    house.plane()
    house.recorder.tell(NEW)
    assert flush(house)
    assert house.stored == ["a:1", "a:2", "a:3"]


def test_a_successor_gets_nothing_before_the_recorder_has_heard_of_it(
    make: Callable[..., House],
) -> None:
    house = make()
    house.plane(lambda _s: "stall")
    house.start()
    house.append(thought("a", "1"))
    house.plane()
    house.append(thought("b", "1"))
    assert stats(house).depth == 2
    assert house.stored == []
    house.recorder.tell(NEW)
    assert flush(house)
    assert sorted(house.stored) == ["a:1", "b:1"]


def test_the_record_that_control_planes_die_of_is_set_aside(make: Callable[..., House]) -> None:
    house = make()

    def rule(spooled: Spooled) -> str | None:
        return "die" if "poison" in spooled.record.content else None  # type: ignore[union-attr]

    planes = [house.plane(rule)]
    house.start()
    for number in range(10):
        house.append(thought(str(number), "poison" if number == 4 else "fine"))
    for _ in range(6):
        wait_until(
            lambda: not planes[-1].is_alive() or stats(house).depth == 0, "death or delivery"
        )
        if not planes[-1].is_alive():
            planes.append(house.plane(rule))
            house.recorder.tell(ControlPlaneChanged(replaced=True, crashed=True))
    assert flush(house)
    (letter,) = house.recorder.ask(ListDeadLetters(), timeout=PATIENCE)
    assert (letter.interception_id, letter.reason) == ("4", "the control plane dies of it")
    assert len(house.stored) >= 9
    assert {text.split(":")[0] for text in house.stored} == set("012356789")


def test_a_control_plane_that_was_replaced_is_not_listened_to(house: House) -> None:
    assert stats(house).depth == 0
    actor = house.recorder._actor_weakref()
    assert actor is not None
    ticket = _Ticket(actor._own, 99)
    strange = Stored(done=(1,), retry={2: "x"}, rejected={3: "x"}, away=True, ticket=ticket)
    house.recorder.tell(strange)
    house.append(thought("a"))
    assert flush(house)


def test_what_was_delivered_is_deleted_with_what_is_written_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_desk, "DELETE_WAIT", 3600.0)
    write, writes = Spool.write, []

    def noting(spool: Spool, *more: Any) -> Any:
        writes.append(spool)
        return write(spool, *more)

    monkeypatch.setattr(Spool, "write", noting)
    for number in range(3):
        house.append(thought("a", str(number)))
        assert flush(house)
    assert stats(house).depth == 0
    assert len(writes) == 3
    assert _rows(house) == 1
    house.recorder.stop(timeout=PATIENCE)
    assert not list(house.folder.glob("spool-*.sqlite"))


def test_what_was_delivered_is_deleted_soon_though_nothing_comes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_desk, "DELETE_WAIT", 0.05)
    house.append(thought("a"))
    assert flush(house)
    wait_until(lambda: _rows(house) == 0, "the deletion")


def test_much_that_was_delivered_is_deleted_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_desk, "DELETE_WAIT", 3600.0)
    house.recorder.tell(Append(tuple(thought(str(n % 64)) for n in range(_desk.DELETE_MANY))))
    assert flush(house)
    wait_until(lambda: _rows(house) == 0, "the deletion")


def _rows(house: House) -> int:
    """Parcels on disk."""
    (path,) = house.folder.glob("spool-*.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as db:
        count: int = db.execute("SELECT count(*) FROM parcels").fetchone()[0]
    return count


def test_flushing_does_not_wait_for_back_off(make: Callable[..., House]) -> None:
    house = make()
    answers = ["not now"] * 8
    house.plane(lambda _s: answers.pop() if answers else None)
    house.start()
    house.append(thought("a"))
    for _ in range(20):
        if stats(house).depth == 0:
            break
        try:
            flush(house, timeout=0.2)
        except pykka.Timeout:
            continue
    assert house.stored == ["a:"]


# -- the recorder's own death


def test_a_successor_takes_up_the_spool_of_a_recorder_that_died(
    make: Callable[..., House],
) -> None:
    house = make()
    house.plane(lambda _s: "stall")
    house.start()
    house.append(thought("a", "1"))
    lost = new_reply()
    house.recorder.tell(Crash())
    wait_until(lambda: house.deaths, "the recorder dies")
    with pytest.raises(pykka.ActorDeadError):
        house.recorder.tell(Append((thought("a"),), lost))
    house.plane()
    house.start()
    house.append(thought("a", "2"))
    assert flush(house)
    assert house.stored == ["a:1", "a:2"]


def test_what_is_in_hand_when_the_recorder_is_stopped_is_written_or_refused(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make()
    house.start()
    entered, go_on = threading.Event(), threading.Event()
    write = Spool.write

    def slow(self: Spool, *args: Any) -> Any:
        entered.set()
        assert go_on.wait(PATIENCE)
        return write(self, *args)

    monkeypatch.setattr(Spool, "write", slow)
    first, second, flushed = new_reply(), new_reply(), new_reply()
    house.recorder.tell(Append((thought("a", "1"),), first))
    assert entered.wait(PATIENCE)
    house.recorder.tell(Append((thought("a", "2"),), second))
    stopped = house.recorder.ask(pykka.messages._ActorStop(), block=False)
    house.recorder.tell(Flushed(flushed))
    go_on.set()
    stopped.get(timeout=PATIENCE)
    assert first.get(timeout=PATIENCE) is True
    assert second.get(timeout=PATIENCE) is True
    with pytest.raises(ActorDied):
        flushed.get(timeout=PATIENCE)
    monkeypatch.undo()
    spool = spool_in(house.folder)
    assert spool.depth == 2
    spool.close()


def test_a_recorder_without_a_folder_says_so_and_dies(make: Callable[..., House]) -> None:
    house = make()
    house.folder.touch()
    house.start()
    wait_until(lambda: house.deaths, "it dies")
    assert "set --state-dir" in str(house.deaths[0])


_WORKER = """
import sys, threading
from pathlib import Path
from aigateway.actors.actor.base import new_reply
from aigateway.actors.recorder.messages import Append
from aigateway.actors.recorder.recorder import Recorder
from aigateway.actors.values.records import ModelThought
from aigateway.actors.actor.tree import ActorTree
import structlog, logging
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

recorder = Recorder.start(
    "recorder", None, tree=ActorTree(), folder=Path(sys.argv[1]), max_size=1 << 30
)
number = 0
while True:
    reply = new_reply()
    recorder.tell(Append(
        (ModelThought(interception_id=f"w{number}", content="", created_at=1.0),), reply))
    reply.get(timeout=10)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_worker_loses_nothing_that_it_acknowledged(house: House) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(house.folder)], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        for _ in range(100):
            last = int(worker.stdout.readline())
        os.kill(worker.pid, signal.SIGKILL)
        last = max([last, *(int(line) for line in worker.stdout if line.endswith("\n"))])
    house.recorder.tell(_Tick())
    house.wait_stored(*(f"w{number}:" for number in range(last + 1)))
    assert len(house.stored) == len(set(house.stored))
    wait_until(
        lambda: [path.name for path in house.folder.glob("*.sqlite")] == ["spool-0.sqlite"],
        "the other file is removed",
    )


# -- other spools


def _left_behind(house: House, count: int) -> Path:
    """A spool file that nobody holds, as a dead worker leaves it."""
    # Only once the recorder has its own.
    stats(house)
    spool = spool_in(house.folder)
    for number in range(count):
        spool.write([thought(f"left-{number}")])
    spool.close()
    return spool.path


def test_a_large_spool_is_taken_over_without_holding_up_others(house: House) -> None:
    _left_behind(house, 1500)
    assert stats(house).depth == 0
    house.recorder.tell(_Tick())
    house.append(thought("own"))
    house.wait_stored("own:", *(f"left-{n}:" for n in range(1500)))
    assert len(house.stored) == 1501


def test_what_a_dead_worker_left_is_counted_and_stays_in_its_file(
    make: Callable[..., House],
) -> None:
    house = make()
    house.plane(lambda _s: "away")
    house.start()
    left = _left_behind(house, 3000)
    house.recorder.tell(_Tick())
    wait_until(lambda: stats(house).depth == 3000, "all are counted")
    house.recorder.stop(timeout=PATIENCE)
    spool = spool_in(house.folder)
    assert (spool.path, spool.depth) == (left, 3000)
    spool.close()


def test_a_damaged_spool_of_a_dead_worker_is_set_aside(house: House) -> None:
    path = _left_behind(house, 100)
    data = bytearray(path.read_bytes())
    data[4096 * 4 :] = b"\xa5" * len(data[4096 * 4 :])
    path.write_bytes(data)
    house.recorder.tell(_Tick())
    wait_until(lambda: list(house.folder.glob("spool-1.damaged-*")), "it is set aside")
    house.append(thought("own"))
    house.wait_stored("own:")


def test_a_folder_that_vanishes_is_no_reason_to_die(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SpoolError("cannot use the state folder")

    monkeypatch.setattr(recorder, "adopt_spool", refuse)
    house.recorder.tell(_Tick())
    house.append(thought("a"))
    house.wait_stored("a:")


# -- the disk


def test_when_the_disk_refuses_nothing_is_lost_and_nothing_new_begins(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_desk, "DISK_RETRY", 0.05)
    house = make()
    house.plane(lambda _s: "stall")
    house.start()
    house.append(thought("a", "1"))
    refuse = threading.Event()
    refuse.set()
    write, read = Spool.write, Spool.read

    def failing(method: Any) -> Any:
        def call(self: Spool, *args: Any) -> Any:
            if refuse.is_set():
                raise SpoolError("database or disk is full")
            return method(self, *args)

        return call

    monkeypatch.setattr(Spool, "write", failing(write))
    monkeypatch.setattr(Spool, "read", failing(read))
    replies = [new_reply() for _ in range(5)]
    for number, reply in enumerate(replies):
        house.recorder.tell(Append((thought("b", str(number)),), reply))
    wait_until(
        lambda: isinstance(begin(house).get(timeout=PATIENCE), Unavailable), "starts are refused"
    )
    assert not any(reply.known for reply in replies)
    refuse.clear()
    for reply in replies:
        assert reply.get(timeout=PATIENCE) is True
    house.plane()
    house.recorder.tell(NEW)
    assert flush(house)
    assert sorted(house.stored) == ["a:1", *(f"b:{n}" for n in range(5))]
    wait_until(lambda: begin(house).get(timeout=PATIENCE) == Accepted(), "starts are accepted")


def test_what_was_delivered_makes_room_on_a_full_disk(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Spool.write
    plane = house.tree.find(CONTROL)
    assert plane is not None
    full = threading.Event()

    def limited(self: Spool, new: Any = (), changes: Any = None, *more: Any) -> Any:
        if full.is_set() and new and changes:
            raise SpoolError("database or disk is full")
        return write(self, new, changes, *more)

    monkeypatch.setattr(Spool, "write", limited)
    full.set()
    for number in range(300):
        house.recorder.tell(Append((thought(str(number)),)))
    house.append(thought("last"))
    assert flush(house)
    assert len(house.stored) == 301


def test_a_full_spool_refuses_starts_until_there_is_room(make: Callable[..., House]) -> None:
    house = make(max_size=200_000)
    house.plane(lambda _s: "away")
    house.start()
    assert begin(house).get(timeout=PATIENCE) == Accepted()
    number = 0
    while begin(house).get(timeout=PATIENCE) == Accepted():
        house.append(thought(str(number), "x" * 5000))
        number += 1
        assert number < 100
    # What runs already is recorded all the same.
    house.append(thought("running"))
    house.plane()
    house.recorder.tell(NEW)
    assert flush(house)
    wait_until(lambda: begin(house).get(timeout=PATIENCE) == Accepted(), "there is room again")
    assert len(house.stored) == number + 1


def test_a_spool_that_is_full_at_the_start_says_so(make: Callable[..., House]) -> None:
    house = make(max_size=200_000)
    house.start()
    for number in range(60):
        house.append(thought(str(number), "x" * 5000))
    house.recorder.stop(timeout=PATIENCE)
    house.start()
    reply = begin(house).get(timeout=PATIENCE)
    assert isinstance(reply, Unavailable)
    assert "full" in reply.message


def test_a_long_outage_takes_disk_and_not_memory(make: Callable[..., House]) -> None:
    house = make()
    house.plane(lambda _s: "away")
    house.start()
    for number in range(5000):
        house.recorder.tell(Append((thought(str(number), "x" * 2000),)))
    house.append(thought("last"))
    actor = house.recorder._actor_weakref()
    assert actor is not None
    assert actor._own.delivery.lanes.in_memory <= 512
    assert stats(house).size > 5000 * 2000


def _garble(monkeypatch: pytest.MonkeyPatch, name: str, times: int = 1) -> None:
    method = getattr(Spool, name)
    left = [times]

    def call(self: Spool, *args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise SpoolCorrupt(self.path, "database disk image is malformed")
        return method(self, *args)

    monkeypatch.setattr(Spool, name, call)


@pytest.mark.parametrize("name", ["write", "read", "size", "shrink", "refusals", "first_held"])
def test_a_damaged_file_is_replaced_and_what_is_in_memory_goes_on(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    house = make()
    house.plane(lambda s: "not now" if s.record.interception_id == "held" else "away")  # type: ignore[union-attr]
    if name == "refusals":
        _garble(monkeypatch, name)
    house.start()
    house.append(thought("held"))
    for number in range(600 if name == "read" else 100):
        house.recorder.tell(Append((thought(str(number)),)))
    house.append(thought("last"))
    actor = house.recorder._actor_weakref()
    assert actor is not None
    if name == "first_held":
        lanes = actor._own.delivery.lanes
        wait_until(lambda: lanes._held_lanes, "the refusal has come, so there is one to read")
    if name != "refusals":
        _garble(monkeypatch, name)
    house.recorder.tell(_Tick())
    actor._gauge._checked = -(1 << 30)
    house.append(thought("later"))
    house.plane()
    house.recorder.tell(NEW)
    assert flush(house)
    wait_until(lambda: list(house.folder.glob("*.damaged-*")), "it is set aside")
    assert not house.deaths
    # All but what was on disk alone: held records, and those behind a full window.
    arrived = set(house.stored)
    assert {f"{number}:" for number in range(100)} <= arrived
    assert "later:" in arrived or name == "read"
    house.append(thought("new"))
    house.wait_stored("new:")


def test_a_new_file_is_tried_for_until_it_can_be_made(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_desk, "DISK_RETRY", 0.02)
    replace, tries = _desk.replace_damaged, []

    def stubborn(spool: Spool, reason: str) -> Spool:
        tries.append(reason)
        if len(tries) < 3:
            spool.close_database()
            raise SpoolError("the disk is gone")
        return replace(spool, reason)

    monkeypatch.setattr(_desk, "replace_damaged", stubborn)
    _garble(monkeypatch, "write")
    house.append(thought("a"))
    # It is delivered meanwhile.
    assert flush(house)
    wait_until(lambda: len(tries) == 3, "the third attempt")
    assert house.stored == ["a:"]
    assert not house.deaths


def test_a_deleted_file_is_noticed(house: House) -> None:
    house.append(thought("before"))
    assert flush(house)
    for path in house.folder.glob("spool-0.sqlite*"):
        path.unlink()
    house.recorder.tell(_Tick())
    house.append(thought("after"))
    wait_until((house.folder / "spool-0.sqlite").exists, "there is a new file")
    house.wait_stored("after:")


@pytest.mark.parametrize(
    ("state", "text"), [(DiskState.FULL, "full"), (DiskState.READ_ONLY, "read-only")]
)
def test_without_room_for_a_spool_nothing_begins_until_there_is(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch, state: DiskState, text: str
) -> None:
    monkeypatch.setattr(recorder, "DISK_RETRY", 0.02)
    works = threading.Event()
    claim = recorder.claim_spool

    def refuse(folder: Path) -> Spool:
        if not works.is_set():
            raise SpoolError("no room", state)
        return claim(folder)

    monkeypatch.setattr(recorder, "claim_spool", refuse)
    house = make()
    house.plane()
    house.start()
    answer = begin(house).get(timeout=PATIENCE)
    assert isinstance(answer, Unavailable)
    assert f"the disk for records is {text}" in answer.message
    assert (stats(house).state, stats(house).refusing) == (state, True)
    assert house.recorder.ask(Redeliver(), timeout=PATIENCE) == 0
    early = new_reply()
    house.recorder.tell(Append((thought("a"),), early))
    house.recorder.tell(_Tick())
    works.set()
    assert early.get(timeout=PATIENCE) is True
    wait_until(lambda: begin(house).get(timeout=PATIENCE) == Accepted(), "starts are accepted")
    house.wait_stored("a:")
    assert not house.deaths


def test_a_disk_that_is_slow_is_called_so_until_it_is_fast_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_desk, "DISK_RETRY", 0.02)
    monkeypatch.setattr(_desk, "SLOW", 0.0)
    house.append(thought("a"))
    wait_until(lambda: stats(house).state is DiskState.SLOW, "it is slow")
    # That is no reason to refuse anybody.
    assert begin(house).get(timeout=PATIENCE) == Accepted()
    monkeypatch.setattr(_desk, "SLOW", 60.0)
    wait_until(lambda: stats(house).state is DiskState.OK, "it is fast again")


@pytest.mark.parametrize("step", [-86400.0, 3e7])
def test_a_clock_that_is_set_holds_up_no_refused_record(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Neither while the recorder runs nor over a restart; nor does the record get old by it."""
    house = make()
    answers = ["not now"] * 3
    house.plane(lambda _s: answers.pop() if answers else None)
    house.start()
    house.append(thought("a"))
    wait_until(lambda: len(answers) == 2, "the first refusal")
    now = time.time

    class Set:
        monotonic = staticmethod(time.monotonic)
        time = staticmethod(lambda: now() + step)

    monkeypatch.setattr(_desk, "time", Set)
    wait_until(lambda: len(answers) == 1, "the second refusal")
    house.recorder.stop(timeout=PATIENCE)
    monkeypatch.undo()
    house.start()
    house.wait_stored("a:")
    assert stats(house).dead_letters == 0


# -- what others see


def test_stats_tell_how_much_waits_and_since_when(make: Callable[..., House]) -> None:
    house = make()
    house.plane(lambda _s: "away")
    house.start()
    assert stats(house).oldest is None
    house.append(thought("a"), thought("a"))
    found = stats(house)
    assert (found.depth, found.oldest, found.dead_letters) == (2, 100.0, 0)


def test_a_plane_that_says_nothing_holds_up_no_other_interception(
    make: Callable[..., House],
) -> None:
    house = make()
    house.plane(lambda s: "stall" if s.record.interception_id == "a" else None)  # type: ignore[union-attr]
    house.start()
    house.append(thought("a"))
    for number in range(50):
        house.append(thought("b", str(number)))
    house.wait_stored(*(f"b:{n}" for n in range(50)))


def test_messages_to_the_control_plane_hold_records_in_order() -> None:
    class Deaf(Plane):
        def _store(self, message: StoreRecords) -> None:
            seqs = [spooled.seq for spooled in message.records()]
            assert seqs == sorted(seqs)

    deaf = Deaf.start()
    deaf.tell(StoreRecords(((Spooled(1, thought("a")), Spooled(2, thought("a"))),), deaf))
    deaf.stop(timeout=PATIENCE)
