"""The control plane that several gateways share: what it answers, and what it does when its
database goes away, falls silent and comes back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from postgres_server import PostgresServer, postgres_server
from waiting import wait_until

from aigateway.actors.actor.base import ActorDied, new_reply
from aigateway.actors.control.local import postgres as talking
from aigateway.actors.control.local import shared as shared_module
from aigateway.actors.control.local.address import LocalDatabaseError
from aigateway.actors.control.local.api_keys import (
    NewApiKey,
    create_key,
    list_keys,
    revoke_key,
)
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.people import add_members, create_group, set_disabled
from aigateway.actors.control.local.policies import apply
from aigateway.actors.control.local.shared import SharedControlPlane
from aigateway.actors.control.messages import (
    Accepted,
    Authorize,
    Begin,
    Caller,
    CheckIds,
    Denied,
    GetCallStats,
    GetStatus,
    NotYours,
    RememberIds,
    Spooled,
    Status,
    Stored,
    StoreRecords,
    Unavailable,
)

PATIENCE = 30.0


class Plane:
    """A running SharedControlPlane and what tests do with it."""

    def __init__(self, address: str, **options: Any) -> None:
        self.deaths: list[BaseException | None] = []
        self.ref = SharedControlPlane.start(
            "control-plane", lambda _actor, error: self.deaths.append(error), address, **options
        )
        self.told: queue.Queue[Stored] = queue.Queue()

    def tell(self, stored: Stored) -> None:
        self.told.put(stored)

    def later(self, message: Callable[[Any], Any]) -> Any:
        reply = new_reply()
        self.ref.tell(message(reply))
        return reply

    def ask(self, message: Callable[[Any], Any]) -> Any:
        return self.later(message).get(timeout=PATIENCE)

    def authorize(self, token: str) -> Any:
        return self.ask(lambda reply: Authorize(token, reply))

    def store(self, record: Any) -> Any:
        return self.ask(lambda reply: Begin(record, reply))

    def store_records(self, *records: Any) -> Stored:
        batch = tuple(Spooled(number, record) for number, record in enumerate(records, 1))
        self.ref.tell(StoreRecords((batch,), self))
        return self.told.get(timeout=PATIENCE)

    def status(self) -> Status:
        status = self.ref.ask(GetStatus(), timeout=PATIENCE)
        assert isinstance(status, Status)
        return status


@pytest.fixture
def address(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def mortal() -> Iterator[PostgresServer]:
    """A server of the test's own."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def start(address: str) -> Iterator[Callable[..., Plane]]:
    planes: list[Plane] = []

    def start_one(at: str = "", **options: Any) -> Plane:
        planes.append(Plane(at or address, **options))
        return planes[-1]

    yield start_one
    for plane in planes:
        plane.ref.stop()


@pytest.fixture
def plane(start: Callable[..., Plane]) -> Plane:
    return start()


@pytest.fixture
def key(address: str) -> NewApiKey:
    database = open_address(address)
    made = create_key(database, "ada")
    database.close()
    return made


def count(server: PostgresServer, address: str, table: str) -> Any:
    with server.connect(address) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return row[0]


# -- while it is there


def test_keys_are_good_until_they_are_revoked(plane: Plane, key: NewApiKey, address: str) -> None:
    assert plane.authorize(key.token) == Caller(key.key.user_id, "ada", key.key.id)
    assert isinstance(plane.authorize(key.key.id + "-wrong"), Denied)
    assert isinstance(plane.authorize("nul\0nul-x"), Denied)
    database = open_address(address)
    revoke_key(database, key.key.id)
    database.close()
    assert isinstance(plane.authorize(key.token), Denied)


def test_many_at_once_are_all_answered(plane: Plane, key: NewApiKey, records: Any) -> None:
    # Until then only so many may wait.
    wait_until(lambda: plane.status().connected, "it is connected", 10.0)
    good = [plane.later(lambda reply: Authorize(key.token, reply)) for _ in range(300)]
    bad = [plane.later(lambda reply: Authorize("no-body", reply)) for _ in range(300)]
    starts = [records.start() for _ in range(600)]
    stored = [plane.later(lambda reply, s=s: Begin(s, reply)) for s in starts]
    assert {type(reply.get(timeout=PATIENCE)) for reply in good} == {Caller}
    assert {type(reply.get(timeout=PATIENCE)) for reply in bad} == {Denied}
    assert {type(reply.get(timeout=PATIENCE)) for reply in stored} == {Accepted}


def test_two_planes_see_what_each_other_stores(
    start: Callable[..., Plane], postgres: PostgresServer, address: str, records: Any
) -> None:
    one, other = start(), start()
    begun = records.start()
    assert one.store(begun) == Accepted()
    tokens, end = records.tokens(begun.id, record_id="1"), records.end(begun.id)
    assert other.store_records(tokens, end).done == (1, 2)
    assert one.store_records(tokens, end).done == (1, 2)
    assert count(postgres, address, "token_usages") == 1
    assert one.ask(lambda reply: RememberIds("ada", ("a",), reply)) == Accepted()
    assert other.ask(lambda reply: CheckIds("ada", ("a",), reply)) == Accepted()
    assert other.ask(lambda reply: CheckIds("bob", ("b", "a"), reply)) == NotYours("a")


def test_planes_that_start_at_once_bring_the_schema_up_together(
    start: Callable[..., Plane], records: Any
) -> None:
    planes = [start() for _ in range(4)]
    starts = [plane.later(lambda reply: Begin(records.start(), reply)) for plane in planes]
    assert [reply.get(timeout=PATIENCE) for reply in starts] == [Accepted()] * 4


def test_what_postgresql_cannot_hold_does_not_cost_the_record(
    plane: Plane, postgres: PostgresServer, address: str, records: Any
) -> None:
    begun = records.start(metadata={"nul": "a\0b", "half": "\ud800"})
    assert plane.store(begun) == Accepted()
    told = plane.store_records(
        records.prompt(begun.id, prompt="a\0b\ud800c", record_id="1"),
        records.end(begun.id, metadata={"more": "\0"}),
        records.end("of nobody\0"),
    )
    assert told.done == (1, 2)
    assert list(told.rejected) == [3]
    with postgres.connect(address) as connection:
        assert connection.execute("SELECT prompt FROM user_prompts").fetchall() == [("a�b�c",)]


def test_another_programs_database_is_refused_with_the_reason(
    start: Callable[..., Plane], postgres: PostgresServer, address: str
) -> None:
    with postgres.connect(address) as connection:
        connection.execute("CREATE TABLE interceptions (theirs INTEGER)")
    plane = start()
    wait_until(lambda: bool(plane.deaths), "it dies", 10.0)
    assert isinstance(plane.deaths[0], LocalDatabaseError)
    assert "another program's" in str(plane.deaths[0])


def test_its_death_leaves_nobody_waiting(start: Callable[..., Plane], records: Any) -> None:
    plane = start("postgresql://127.0.0.1:1/nothing")
    asked = plane.later(lambda reply: Authorize("a-b", reply))
    begun = plane.later(lambda reply: Begin(records.start(), reply))
    plane.ref.stop()
    for reply in (asked, begun):
        with pytest.raises(ActorDied):
            reply.get(timeout=PATIENCE)


# -- while it is away


def test_requests_wait_so_long_and_then_hear_ask_later(
    start: Callable[..., Plane],
    records: Any,
) -> None:
    plane = start("postgresql://u:hush-hush@127.0.0.1:1/nothing", max_wait=0.3)
    answers = [plane.authorize("a-b"), plane.store(records.start())]
    told = plane.store_records(records.tokens("i"))
    assert (told.away, list(told.retry), told.done) == (True, [1], ())
    status = plane.status()
    assert not status.connected
    for answer in answers:
        assert isinstance(answer, Unavailable)
        assert answer.said == "the gateway's database is not available"
    wait_until(lambda: "refused" in plane.status().detail, "the connection is refused", 10.0)
    assert "hush" not in repr((answers, status, told))


def test_only_so_many_wait(start: Callable[..., Plane]) -> None:
    plane = start("postgresql://127.0.0.1:1/nothing", max_waiting=2)
    wait_until(lambda: "refused" in plane.status().detail, "the connection is refused", 10.0)
    waiting = [plane.later(lambda reply: Authorize("a-b", reply)) for _ in range(2)]
    assert isinstance(plane.authorize("a-c"), Unavailable)
    assert plane.ref.ask(GetCallStats(), timeout=PATIENCE).waiting == 2
    assert not any(reply.known for reply in waiting)


def test_who_waits_is_answered_when_it_is_back(
    start: Callable[..., Plane],
    mortal: PostgresServer,
    records: Any,
) -> None:
    address = mortal.new_database()
    database = open_address(address)
    key = create_key(database, "ada")
    database.close()
    plane = start(address, max_wait=PATIENCE)
    assert isinstance(plane.authorize(key.token), Caller)
    mortal.kill()
    wait_until(lambda: not plane.status().connected, "it is not connected", 10.0)
    begun = records.start()
    asked = plane.later(lambda reply: Authorize(key.token, reply))
    stored = plane.later(lambda reply: Begin(begun, reply))
    assert plane.store_records(records.tokens(begun.id)).away
    mortal.start()
    assert isinstance(asked.get(timeout=PATIENCE), Caller)
    assert stored.get(timeout=PATIENCE) == Accepted()
    wait_until(lambda: plane.status().connected, "it is connected", 10.0)
    assert plane.store_records(records.tokens(begun.id), records.end(begun.id)).done == (1, 2)
    assert plane.deaths == []


def test_a_server_that_falls_silent_holds_nobody_up(
    start: Callable[..., Plane],
    mortal: PostgresServer,
    records: Any,
) -> None:
    plane = start(mortal.new_database(), max_wait=1.0)
    assert plane.store(records.start()) == Accepted()
    with mortal.frozen():
        assert isinstance(plane.authorize("a-b"), Unavailable)
        assert isinstance(plane.store(records.start()), Unavailable)
        wait_until(lambda: not plane.status().connected, "it is not connected", 10.0)
    wait_until(lambda: plane.status().connected, "it is connected", 10.0)
    assert isinstance(plane.authorize("a-b"), Denied)


def test_a_statement_without_an_answer_is_given_up_and_its_connection_too(
    mortal: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talking, "ANSWER_PATIENCE", 0.5)
    pool = talking.ConnectionPool(mortal.address(), 1)
    with pool.connection(PATIENCE) as database:
        database.execute("SELECT 1")
        with mortal.frozen(), pytest.raises(psycopg.OperationalError, match="did not answer"):
            database.execute("SELECT 1")
    with pool.connection(PATIENCE) as database:
        assert database.execute("SELECT 2").fetchall() == [(2,)]
    pool.close()


def test_a_server_that_only_reads_is_not_ready_and_costs_no_record(
    start: Callable[..., Plane],
    postgres: PostgresServer,
    address: str,
    records: Any,
) -> None:
    plane = start(max_wait=PATIENCE)
    assert plane.store(records.start()) == Accepted()
    name = address.rpartition("/")[2]
    with postgres.connect() as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        waiting = plane.later(lambda reply: Begin(records.start(), reply))
        wait_until(
            lambda: "read-only" in plane.status().detail, "the server refuses to write", 10.0
        )
        assert isinstance(plane.authorize("a-b"), Denied)
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
    assert waiting.get(timeout=PATIENCE) == Accepted()
    wait_until(lambda: plane.status().connected, "it is connected", 10.0)


def test_its_threads_end_with_it(start: Callable[..., Plane]) -> None:
    before = set(threading.enumerate())
    plane = start()
    wait_until(lambda: plane.status().connected, "it is connected", 10.0)
    plane.ref.stop()
    wait_until(lambda: set(threading.enumerate()) <= before, "its threads have ended", 10.0)


# -- people and policy


def test_callers_come_with_what_the_policy_has_for_them(
    plane: Plane, address: str, key: NewApiKey
) -> None:
    with closing(open_address(address)) as database:
        create_group(database, "lab", who="me")
        add_members(database, "lab", ["ada"], who="me")
        apply(database, "groups: {lab: {models: [a]}}", over=0, who="me")
    caller = plane.authorize(key.token)
    assert caller.groups == ("lab",)
    assert caller.rules.model_refusal("b").rule == "groups.lab.models"


def test_disabled_users_are_refused_at_once(plane: Plane, address: str, key: NewApiKey) -> None:
    assert plane.authorize(key.token).username == "ada"
    with closing(open_address(address)) as database:
        set_disabled(database, "ada", True, who="me")
    assert plane.authorize(key.token).reason == "user disabled"


def test_a_policy_of_the_future_lets_nobody_in(
    start: Callable[..., Plane], address: str, key: NewApiKey
) -> None:
    with closing(open_address(address)) as database:
        database.execute("INSERT INTO policies VALUES (1, 'of_the_future: 1', 'me', 'now')")
    plane = start(max_wait=0.2)

    def refused() -> bool:
        # While it has not reached the database, another reason is told.
        answer = plane.authorize(key.token)
        assert isinstance(answer, Unavailable)
        return "version 1 of the policy cannot be used" in answer.message

    wait_until(refused, "the policy is the reason")


def test_the_last_use_of_a_key_is_written_after_a_while(
    start: Callable[..., Plane], address: str, key: NewApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "USES_WRITTEN_AFTER", 0.01)
    start().authorize(key.token)
    with closing(open_address(address)) as database:
        wait_until(lambda: list_keys(database)[0].last_used_at is not None, "the use to be written")
