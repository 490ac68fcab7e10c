"""Caps as the rest of the gateway sees them: calls that may begin, wait, or may not, in both kinds
of control plane."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waiting import wait_until

from aigateway.actors.actor.base import Crash, fail, new_reply
from aigateway.actors.control.local import cap_holders, cap_queue
from aigateway.actors.control.local.address import is_postgresql
from aigateway.actors.control.local.cap_holders import Holder
from aigateway.actors.control.local.local import LocalControlPlane
from aigateway.actors.control.local.price_files import load_pricing
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.shared import SharedControlPlane
from aigateway.actors.control.messages import (
    Accepted,
    Begin,
    CapBusy,
    CapFull,
    GetCallStats,
    GetStatus,
    HoldMore,
    NoPrice,
    Spooled,
    Stored,
    StoreRecords,
)
from aigateway.actors.values.caps import Hold, Payee
from aigateway.actors.values.policy import AppliedCap, Cap, Every, Per, Subject

USD = 10**9
NOON = 1_772_280_000.0
"""2026-02-28T12:00:00Z"""
HAIKU = Payee("anthropic", "anthropic", "claude-haiku-4-5")
"""$1 for a million tokens of input, 1.25 where they are written to a cache, and 5 of output."""


def cap(dollars: float, per: Per = "user", id: str = "ada", every: Every = "month") -> AppliedCap:
    return AppliedCap(Cap(round(dollars * USD), every, per), Subject(per, id), "everybody.caps[0]")


def hold(*caps: AppliedCap, dollars: float = 3.0, payee: Payee = HAIKU, **more: Any) -> Hold:
    """Of a call that costs as much at most."""
    return Hold(caps, (payee,), 0, round(dollars / 5 * 1_000_000), **more)


class Plane:
    """A running control plane and what tests do with it."""

    def __init__(self, address: str, records: Any, **options: Any) -> None:
        kind = SharedControlPlane if is_postgresql(address) else LocalControlPlane
        self.ref = kind.start(
            "control-plane", lambda *_: None, address, pricing=load_pricing(None, ()), **options
        )
        self.records = records
        self.told: queue.Queue[Stored] = queue.Queue()

    def tell(self, stored: Stored) -> None:
        self.told.put(stored)

    def begin_later(self, hold: Hold | None, **changes: Any) -> tuple[str, Any]:
        record, reply = self.records.start(model=HAIKU.model, **changes), new_reply()
        self.ref.tell(Begin(record, reply, hold=hold))
        return record.id, reply

    def begin(self, hold: Hold | None, **changes: Any) -> tuple[str, Any]:
        id, reply = self.begin_later(hold, **changes)
        return id, reply.get(timeout=30)

    def end(self, id: str, dollars: float = 0.0) -> None:
        output = round(dollars / 5 * 1_000_000)
        tokens = self.records.tokens(id, input_tokens=0, output_tokens=output, record_id="1")
        parcel = (Spooled(1, tokens), Spooled(2, self.records.end(id)))
        self.ref.tell(StoreRecords((parcel,), self))  # type: ignore[arg-type]
        assert len(self.told.get(timeout=30).done) == 2

    def until_one_waits(self) -> None:
        wait_until(lambda: self.stats().waiting == 1, "a call waits for its caps")

    def stats(self) -> Any:
        return self.ref.ask(GetCallStats(), timeout=10).caps


@pytest.fixture
def start(address: str, either: Database, records: Any) -> Iterator[Callable[..., Plane]]:
    planes: list[Plane] = []

    def start_one(**options: Any) -> Plane:
        planes.append(plane := Plane(address, records, **options))
        # Tests give it little time, and not for reaching its database.
        wait_until(lambda: plane.ref.ask(GetStatus(), timeout=10).connected, "it is connected")
        return plane

    yield start_one
    for each in planes:
        if each.ref.is_alive():
            each.ref.stop()


def tills(database: Database) -> list[tuple[Any, ...]]:
    """Whose, spent, reserved and running; money in cents."""
    found = database.execute(
        "SELECT scope_id, spent_nano_usd, reserved_nano_usd, running FROM cap_tills ORDER BY 1"
    ).fetchall()
    return [(id, spent / 1e7, reserved / 1e7, running) for id, spent, reserved, running in found]


def test_what_a_call_may_cost_is_reserved_and_becomes_what_it_has_cost(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    id, said = plane.begin(hold(cap(10)))
    assert said == Accepted()
    assert tills(either) == [("ada", 0, 300, 1)]
    plane.end(id, 0.25)
    assert tills(either) == [("ada", 25, 0, 0)]
    assert either.execute("SELECT count(*) FROM cap_holds").fetchone() == (0,)


def test_input_counts_as_if_it_were_written_to_a_cache(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    plane.begin(Hold((cap(100),), (HAIKU,), 100_000, 0))
    assert tills(either) == [("ada", 0, 12.5, 1)]
    plane.begin(Hold((cap(100),), (HAIKU,), 100_000, 0, metadata={"cache_ephemeral_1h_input": 1}))
    assert tills(either) == [("ada", 0, 12.5 + 20, 2)]


def test_a_call_that_ends_without_usage_has_cost_nothing(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    id, _ = plane.begin(hold(cap(10)))
    plane.ref.tell(StoreRecords(((Spooled(1, plane.records.end(id)),),), plane))  # type: ignore[arg-type]
    plane.told.get(timeout=30)
    assert tills(either) == [("ada", 0, 0, 0)]


def test_records_that_come_twice_are_counted_once(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    id, _ = plane.begin(hold(cap(10)))
    plane.end(id, 2.0)
    plane.end(id, 2.0)
    assert tills(either) == [("ada", 200, 0, 0)]


def test_what_was_spent_in_the_window_before_there_was_the_cap_counts(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start(clock=lambda: NOON)
    theirs = {"group_names": "team, 100%_fun"}
    for credential, dollars in (("centralized", 1.0), ("centralized", 0.5), ("byok", 7.0)):
        id, _ = plane.begin(None, initiator_id="ada", credential_kind=credential, **theirs)
        plane.end(id, dollars)
    plane.end(plane.begin(None, initiator_id="bob", group_names="tea")[0], 20.0)
    plane.end(plane.begin(None, initiator_id="ada", started_at=NOON - 40 * 86400)[0], 30.0)
    caps = (cap(10), cap(10, "group", "100%_fun"), cap(10, "group", "team"), cap(9, "project", "x"))
    assert plane.begin(hold(*caps, dollars=0.1))[1] == Accepted()
    assert [(id, spent) for id, spent, *_ in tills(either)] == [
        ("100%_fun", 150), ("ada", 150), ("team", 150), ("x", 0),
    ]  # fmt: skip


def test_a_cap_that_is_changed_holds_from_the_next_request_on(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    plane.end(plane.begin(hold(cap(2)))[0], 2.5)
    assert isinstance(plane.begin(hold(cap(2)))[1], CapFull)
    assert isinstance(plane.begin(hold(cap(20)))[1], Accepted)
    assert either.execute("SELECT cap_nano_usd FROM cap_tills").fetchone() == (20 * USD,)


def test_at_the_cap_nothing_begins_any_more(start: Callable[..., Plane], either: Database) -> None:
    plane = start()
    id, _ = plane.begin(hold(cap(2)))
    plane.end(id, 3.0)
    _, said = plane.begin(hold(cap(2), dollars=0.01))
    assert isinstance(said, CapFull)
    assert (said.share.spent, said.share.cap) == (3 * USD, cap(2))
    assert either.execute("SELECT count(*) FROM interceptions").fetchone() == (1,)
    assert +Counter(plane.stats().refused) == {("user", "full"): 1}


@pytest.mark.parametrize(("spent", "told"), [(7.4, False), (7.5, True), (9.9, True)])
def test_from_three_quarters_on_the_answer_says_how_much_is_spent(
    start: Callable[..., Plane], spent: float, told: bool
) -> None:
    plane = start()
    id, _ = plane.begin(hold(cap(10)))
    plane.end(id, spent)
    _, said = plane.begin(hold(cap(10), cap(1000, "group", "team"), dollars=0.01))
    share = said.share
    assert (share is not None) == told
    if share is not None:
        assert share.cap == cap(10)
        assert share.part == spent / 10


def test_a_call_that_does_not_fit_waits_until_nothing_runs_and_goes_alone(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    first, _ = plane.begin(hold(cap(4)))
    second, waiting = plane.begin_later(hold(cap(4)))
    plane.until_one_waits()
    assert not waiting.known
    plane.end(first, 1.0)
    assert waiting.get(timeout=30) == Accepted()
    assert tills(either) == [("ada", 100, 300, 1)]
    _third, said = plane.begin_later(hold(cap(4)))
    plane.until_one_waits()
    plane.end(second, 3.0)
    assert isinstance(said.get(timeout=30), CapFull)


def test_a_call_that_costs_more_than_the_whole_cap_goes_alone(
    start: Callable[..., Plane], either: Database
) -> None:
    _, said = start().begin(hold(cap(1), dollars=100))
    assert said == Accepted()


def test_whoever_waits_in_vain_is_told_to_come_again(start: Callable[..., Plane]) -> None:
    plane = start(max_wait=0.5)
    plane.begin(hold(cap(4)))
    _, said = plane.begin(hold(cap(4)))
    assert isinstance(said, CapBusy)
    assert +Counter(plane.stats().refused) == {("user", "waited"): 1}


def test_small_calls_do_not_overtake_a_large_one_that_waits(
    start: Callable[..., Plane], either: Database
) -> None:
    planes = start(), start()
    first, _ = planes[0].begin(hold(cap(10), dollars=5))
    _large, large = planes[0].begin_later(hold(cap(10), dollars=8))
    planes[0].until_one_waits()
    _small, small = planes[1].begin_later(hold(cap(10), dollars=1))
    planes[1].until_one_waits()
    planes[0].end(first, 1.0)
    assert large.get(timeout=30) == Accepted()
    assert small.get(timeout=30) == Accepted()


def test_another_gateway_s_end_lets_a_call_begin(start: Callable[..., Plane]) -> None:
    one, other = start(), start()
    first, _ = one.begin(hold(cap(4)))
    _, waiting = other.begin_later(hold(cap(4)))
    other.until_one_waits()
    one.end(first, 1.0)
    assert waiting.get(timeout=30) == Accepted()


def test_who_has_no_cap_is_not_held_up_by_those_who_wait(start: Callable[..., Plane]) -> None:
    plane = start()
    plane.begin(hold(cap(4)))
    plane.begin_later(hold(cap(4)))
    assert plane.begin(None)[1] == Accepted()
    assert plane.begin(hold(cap(4, id="bob")))[1] == Accepted()


def test_all_caps_must_hold_and_the_pool_of_a_group_is_everybody_s(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    pool = cap(4, "group", "team")
    first, _ = plane.begin(hold(cap(10), pool))
    _, waiting = plane.begin_later(hold(cap(10, id="bob"), pool))
    plane.until_one_waits()
    assert tills(either) == [("ada", 0, 300, 1), ("bob", 0, 0, 0), ("team", 0, 300, 1)]
    plane.end(first, 3.0)
    assert waiting.get(timeout=30).share.cap == pool
    assert tills(either) == [("ada", 300, 0, 0), ("bob", 0, 300, 1), ("team", 300, 300, 1)]


def test_a_model_without_a_price_is_refused_unless_the_policy_allows_it(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    unknown = Payee("openai", "own", "llama-at-home")
    _, said = plane.begin(hold(cap(4), payee=unknown))
    assert said == NoPrice("llama-at-home of own")
    _, said = plane.begin(hold(cap(4), payee=unknown, unpriced=True))
    assert said == Accepted()
    assert either.execute("SELECT count(*) FROM interceptions").fetchone() == (1,)


def test_the_model_that_is_called_counts_and_not_only_the_one_that_was_asked_for(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    mapped = Payee("anthropic", "anthropic", "fast", "claude-haiku-4-5")
    assert plane.begin(hold(cap(10), payee=mapped))[1] == Accepted()
    assert tills(either) == [("ada", 0, 300, 1)]
    mapped = Payee("anthropic", "anthropic", "fast", "nobody-knows")
    assert isinstance(plane.begin(hold(cap(10), payee=mapped))[1], NoPrice)


def test_attempts_that_may_be_billed_are_reserved_too(
    start: Callable[..., Plane], either: Database
) -> None:
    start().begin(hold(cap(10), attempts=2))
    assert tills(either) == [("ada", 0, 600, 1)]


def test_each_round_is_reserved_and_those_before_count_what_they_cost(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    id, _ = plane.begin(hold(cap(10)))

    def more(dollars: float) -> Any:
        used = plane.records.tokens(id, input_tokens=0, output_tokens=round(dollars / 5 * 10**6))
        reply = new_reply()
        plane.ref.tell(HoldMore(id, hold(cap(10)), (used,), reply))
        return reply

    assert more(0.5).get(timeout=30) == Accepted()
    assert tills(either) == [("ada", 0, 350, 1)]
    assert more(1.5).get(timeout=30) == Accepted()
    assert tills(either) == [("ada", 0, 450, 1)]
    plane.end(id, 2.0)
    assert tills(either) == [("ada", 200, 0, 0)]


def test_two_that_wait_between_rounds_do_not_wait_for_each_other(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    ids = [plane.begin(hold(cap(10), dollars=4))[0] for _ in range(2)]
    replies = []
    for id in ids:
        used = plane.records.tokens(id, input_tokens=0, output_tokens=round(3 / 5 * 10**6))
        replies.append(new_reply())
        plane.ref.tell(HoldMore(id, hold(cap(10), dollars=6), (used,), replies[-1]))
    # Both have cost $3; with $6 more one of them fits, or goes alone.
    wait_until(lambda: any(reply.known for reply in replies), "one round may begin")
    begun = next(n for n, reply in enumerate(replies) if reply.known)
    assert replies[begun].get() == Accepted()
    plane.end(ids[begun], 7.0)
    assert isinstance(replies[1 - begun].get(timeout=30), CapFull)
    plane.end(ids[1 - begun], 3.0)
    assert tills(either) == [("ada", 1000, 0, 0)]


def test_nothing_stays_reserved_for_who_does_not_wait_any_more(
    start: Callable[..., Plane], either: Database
) -> None:
    plane = start()
    first, _ = plane.begin(hold(cap(4)))
    _, waiting = plane.begin_later(hold(cap(4)))
    plane.until_one_waits()
    fail(waiting, TimeoutError("gone"))
    plane.end(first, 1.0)
    wait_until(lambda: tills(either) == [("ada", 100, 0, 0)], "nothing is reserved")


def test_a_restart_neither_doubles_nor_forgets_what_is_reserved(
    start: Callable[..., Plane], either: Database
) -> None:
    holder = Holder()
    plane = start(holder=holder)
    id, _ = plane.begin(hold(cap(10)))
    plane.ref.tell(Crash())
    wait_until(lambda: not plane.ref.is_alive(), "the actor is dead")
    after = start(holder=holder)
    reply = new_reply()
    record = after.records.start(id=id, model=HAIKU.model)
    after.ref.tell(Begin(record, reply, again=True, hold=hold(cap(10))))
    assert reply.get(timeout=30) == Accepted()
    assert tills(either) == [("ada", 0, 300, 1)]
    after.end(id, 1.0)
    assert tills(either) == [("ada", 100, 0, 0)]


def test_those_who_wait_are_told_of_a_death(start: Callable[..., Plane]) -> None:
    plane = start()
    plane.begin(hold(cap(4)))
    _, waiting = plane.begin_later(hold(cap(4)))
    plane.until_one_waits()
    plane.ref.tell(Crash())
    with pytest.raises(Exception, match="control-plane"):
        waiting.get(timeout=30)


def test_what_a_dead_process_has_reserved_lapses_and_its_cost_is_counted_later(
    start: Callable[..., Plane], either: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cap_holders, "LAPSE", 3.0)
    monkeypatch.setattr(cap_queue, "BEAT", 0.3)
    plane = start()
    dead, _ = plane.begin(hold(cap(4)))
    plane.ref.stop()
    after = start()
    second, waiting = after.begin_later(hold(cap(4)))
    assert waiting.get(timeout=60) == Accepted()
    assert tills(either) == [("ada", 0, 300, 1)]
    after.end(dead, 2.0)
    assert tills(either) == [("ada", 200, 300, 1)]
    after.end(second, 1.0)
    assert tills(either) == [("ada", 300, 0, 0)]


def test_reservations_of_a_process_that_lives_stay(
    start: Callable[..., Plane], either: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cap_holders, "LAPSE", 3.0)
    monkeypatch.setattr(cap_queue, "BEAT", 0.3)
    one, other = start(), start(max_wait=6.0)
    one.begin(hold(cap(4)))
    assert isinstance(other.begin(hold(cap(4)))[1], CapBusy)
    assert tills(either) == [("ada", 0, 300, 1)]


@pytest.mark.parametrize("many", [20, 200])
def test_a_burst_passes_the_cap_by_one_call_at_most(
    start: Callable[..., Plane], either: Database, many: int
) -> None:
    """Two gateways with two workers each, $3 calls under a cap of $10; the day after the first
    one passes."""
    moment = [1_772_280_000.0]
    planes = [start(clock=lambda: moment[0]) for _ in range(4)]
    answers: queue.Queue[Any] = queue.Queue()

    def run(plane: Plane) -> None:
        id, said = plane.begin(hold(cap(10, every="day")))
        if isinstance(said, Accepted):
            plane.end(id, 3.0)
        answers.put(said)

    threads = [threading.Thread(target=run, args=(planes[n % 4],)) for n in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [answers.get() for _ in threads]
    assert sum(isinstance(each, Accepted) for each in said) == 4
    assert sum(isinstance(each, CapFull) for each in said) == many - 4
    assert tills(either) == [("ada", 1200, 0, 0)]
    moment[0] += 24 * 3600
    assert planes[0].begin(hold(cap(10, every="day")))[1] == Accepted()
