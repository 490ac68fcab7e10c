"""Whatever happens in whatever order, in several gateways: what is spent passes a cap by one
request at most, and nothing stays reserved."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aigateway.actors.control.local.cap_book import Ask, Money
from aigateway.actors.control.local.cap_holders import LAPSE
from aigateway.actors.control.local.caps import Begun, Full, Verdict, Wait, tills_of
from aigateway.actors.control.local.schema import open_database
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.policy import AppliedCap, Cap, Every, Per, Subject
from aigateway.actors.values.records import InterceptionBegun, InterceptionEnded

NOON = 1_772_280_000.0
DAY = 24 * 3600.0
USD = 10**9


def cap(amount: int, per: Per = "user", id: str = "ada", every: Every = "day") -> AppliedCap:
    return AppliedCap(Cap(amount, every, per), Subject(per, id), "everybody.caps[0]")


def ask(id: str, worst: int, *caps: AppliedCap) -> Ask:
    return Ask(id, worst, tills_of(caps, NOON, "UTC"))


class Gateway:
    """A store, and what it asks for in one transaction each."""

    def __init__(self, path: Path, name: str, records: Any) -> None:
        self.store, self.name, self.records = Store(path, 5.0), name, records

    def ask(self, *asks: Ask, now: float = NOON) -> list[Verdict]:
        starts = [self.records.start(id=each.id) for each in asks if each.so_far is None]
        written = self.store.write(starts, [], Money(asks, (), self.name, now))
        return [written.verdicts[each.id] for each in asks]

    def end(self, id: str) -> None:
        assert not self.store.write([], [InterceptionEnded(id=id, ended_at=NOON)], Money()).records


def spend(database: sqlite3.Connection, id: str, nano_usd: int) -> None:
    """A token record with its cost."""
    database.execute(
        "INSERT INTO token_usages (interception_id, msg_id, input_tokens, output_tokens,"
        " cache_read_input_tokens, cache_write_input_tokens, metadata, created_at, cost_nano_usd)"
        " VALUES (?, '', 0, 0, 0, 0, '{}', '', ?)",
        (id, nano_usd),
    )


class Reservations(RuleBasedStateMachine):
    """Three gateways, two users in a group, requests of a few sizes."""

    CAP = 10 * USD

    @initialize()
    def begin(self) -> None:
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / "gateway.db"
        self.database = open_database(path)
        self.records = self.Records()
        self.gateways = [Gateway(path, f"gateway{n}", self.records) for n in range(3)]
        self.now, self.clock, self.count = NOON, 0.0, 0
        self.running: dict[str, tuple[int, int, int]] = {}
        """What runs: the gateway, the worst case, what it has cost so far."""
        self.asking: dict[str, Ask] = {}
        self.day: dict[str, str] = {}
        self.of: dict[str, tuple[str, ...]] = {}
        self.spent: dict[tuple[str, str], list[int]] = {}
        """By cap and day, what each request has really cost."""

    class Records:
        def start(self, id: str) -> InterceptionBegun:
            return InterceptionBegun(
                id=id, initiator_id="ada", username="ada", api_key_id="k", provider="anthropic",
                provider_name="anthropic", model="m", client="c", user_agent="", started_at=NOON,
            )  # fmt: skip

    @rule(gateway=st.integers(0, 2), user=st.sampled_from("ab"), dollars=st.integers(0, 14))
    def arrive(self, gateway: int, user: str, dollars: int) -> None:
        self.count += 1
        id = f"request-{self.count}"
        caps = (cap(self.CAP, "user", user), cap(self.CAP, "group", "team"))
        self.asking[id] = ask(id, dollars * USD, *caps)
        self._ask(gateway, id)

    @precondition(lambda self: self.asking)
    @rule(gateway=st.integers(0, 2), data=st.data())
    def ask_again(self, gateway: int, data: st.DataObject) -> None:
        self._ask(gateway, data.draw(st.sampled_from(sorted(self.asking))))

    def _ask(self, gateway: int, id: str) -> None:
        asked = self.asking[id]
        (verdict,) = self.gateways[gateway].ask(asked, now=self.now)
        if isinstance(verdict, Wait):
            return
        del self.asking[id]
        if isinstance(verdict, Begun):
            day = str(int(self.now // DAY))
            self.running[id] = (gateway, asked.worst, 0)
            self.day[id] = day
            self.of[id] = tuple(each.subject.id for each in asked.caps.caps)
        else:
            assert isinstance(verdict, Full)
            assert asked.worst

    @precondition(lambda self: self.running)
    @rule(data=st.data(), again=st.booleans())
    def end(self, data: st.DataObject, again: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.running)))
        gateway, worst, _ = self.running.pop(id)
        cost = data.draw(st.integers(0, worst // USD)) * USD
        spend(self.database, id, cost)
        self._note(id, cost)
        self.gateways[gateway].end(id)
        if again:
            self.gateways[(gateway + 1) % 3].end(id)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), told=st.booleans())
    def die(self, data: st.DataObject, told: bool) -> None:
        """A process is killed: what it has reserved lapses, and perhaps what it has recorded
        comes later."""
        dead = data.draw(st.sampled_from(sorted({each[0] for each in self.running.values()})))
        lost = {id: each for id, each in self.running.items() if each[0] == dead}
        other = self.gateways[(dead + 1) % 3]
        for moment in (self.clock, self.clock + LAPSE / 3, self.clock + 2 * LAPSE / 3):
            other.store.look_after_holds(other.name, self.now, moment)
            self.gateways[(dead + 2) % 3].store.look_after_holds(
                self.gateways[(dead + 2) % 3].name, self.now, moment
            )
        self.clock += LAPSE * 1.1
        for id, (_, worst, _) in lost.items():
            del self.running[id]
            if told:
                spend(self.database, id, worst)
                self._note(id, worst)
        other.store.look_after_holds(other.name, self.now, self.clock)
        left = self.database.execute(
            "SELECT count(*) FROM cap_holds WHERE holder = ? AND state <> 'lapsed'",
            (self.gateways[dead].name,),
        ).fetchone()
        assert left == (0,)
        for id in lost:
            if told:
                other.end(id)
        self.gateways[dead].name = f"{self.gateways[dead].name}+"

    @rule()
    def a_day_later(self) -> None:
        self.now += DAY

    def _note(self, id: str, cost: int) -> None:
        for name in self.of[id]:
            self.spent.setdefault((name, self.day[id]), []).append(cost)

    @invariant()
    def no_cap_is_passed_by_more_than_one_request(self) -> None:
        for costs in getattr(self, "spent", {}).values():
            assert sum(costs) - max(costs) < self.CAP or sum(costs) <= self.CAP

    @invariant()
    def the_tills_say_what_was_spent(self) -> None:
        if not hasattr(self, "database"):
            return
        found: dict[tuple[str, str], int] = {}
        for id, starts_at, spent, reserved, running in self.database.execute(
            "SELECT scope_id, starts_at, spent_nano_usd, reserved_nano_usd, running FROM cap_tills"
        ):
            assert reserved >= 0
            assert running >= 0
            found[id, starts_at] = spent
        wanted = sorted(sum(costs) for costs in self.spent.values() if sum(costs))
        assert sorted(spent for spent in found.values() if spent) == wanted

    def teardown(self) -> None:
        if not hasattr(self, "database"):
            return
        try:
            for id, (gateway, *_) in self.running.items():
                self.gateways[gateway].end(id)
            left = self.database.execute(
                "SELECT coalesce(sum(reserved_nano_usd), 0), coalesce(sum(running), 0)"
                " FROM cap_tills"
            ).fetchone()
            assert left == (0, 0)
        finally:
            for each in self.gateways:
                each.store.close()
            self.database.close()
            self.folder.cleanup()


TestReservations = Reservations.TestCase
TestReservations.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[tuple[Gateway, Gateway, sqlite3.Connection]]:
    path = tmp_path / "gateway.db"
    database = open_database(path)
    records = Reservations.Records()
    two = Gateway(path, "one", records), Gateway(path, "other", records)
    # A till is made with the first call, and only then are reservations made without a look.
    two[0].ask(ask("first", USD, cap(10 * USD), cap(10 * USD, "key", "k")))
    two[0].end("first")
    yield *two, database
    for each in two:
        each.store.close()
    database.close()


def tills(database: sqlite3.Connection) -> list[tuple[int, ...]]:
    """Spent, reserved and running: of the user, then of the key."""
    return database.execute(
        "SELECT spent_nano_usd, reserved_nano_usd, running FROM cap_tills ORDER BY scope DESC"
    ).fetchall()


def test_who_stood_still_settles_once_what_others_have_let_lapse(
    gateways: tuple[Gateway, Gateway, sqlite3.Connection],
) -> None:
    one, other, database = gateways
    assert one.ask(ask("r", 3 * USD, cap(10 * USD)), ask("s", 2 * USD, cap(10 * USD)))
    spend(database, "r", USD)
    for moment in range(5):
        other.store.look_after_holds(other.name, NOON, moment * LAPSE / 3)
    assert tills(database)[0] == (USD, 0, 0)
    spend(database, "r", USD)
    one.end("r")
    one.end("r")
    assert tills(database)[0] == (2 * USD, 0, 0)
    spend(database, "s", USD)
    one.end("s")
    assert tills(database)[0] == (3 * USD, 0, 0)
    assert database.execute("SELECT count(*) FROM cap_holds").fetchone() == (0,)


def test_a_round_that_was_reserved_later_is_settled_with_the_first(
    gateways: tuple[Gateway, Gateway, sqlite3.Connection],
) -> None:
    one, _other, database = gateways
    both = (cap(10 * USD), cap(10 * USD, "key", "k"))
    one.ask(ask("r", USD, cap(10 * USD)))
    assert one.ask(evolve(ask("r", 2 * USD, *both), so_far=USD)) == [Begun()]
    assert tills(database) == [(0, 3 * USD, 1), (0, 2 * USD, 1)]
    spend(database, "r", 2 * USD)
    one.end("r")
    assert tills(database) == [(2 * USD, 0, 0), (2 * USD, 0, 0)]


def test_two_ends_of_one_request_in_one_transaction_are_settled_once(
    gateways: tuple[Gateway, Gateway, sqlite3.Connection],
) -> None:
    one, _other, database = gateways
    one.ask(ask("r", USD, cap(10 * USD)))
    spend(database, "r", USD)
    end = InterceptionEnded(id="r", ended_at=NOON)
    one.store.write([], [end, end], Money())
    assert tills(database)[0] == (USD, 0, 0)
