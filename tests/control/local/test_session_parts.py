"""What is noted of sessions as their interceptions are stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
from postgres_server import PostgresServer

from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.records import timestamp

AnyStore: TypeAlias = Store | PostgresStore
NOON = 1_772_280_000.0

WORK = Attribution(
    session_id="s-1",
    agent_id="a-1",
    parent_agent_id="a-0",
    project="shop",
    repository="github.com/acme/shop",
    branch="main",
    commit="0123abc",
)


def store_at(address: str) -> AnyStore:
    return PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)


@pytest.fixture
def store(address: str, either: Database) -> Iterator[AnyStore]:
    store = store_at(address)
    yield store
    store.close()


def parts(database: Database) -> list[tuple[Any, ...]]:
    return list(
        database.execute(
            "SELECT session_id, user_id, model, branch, first_at, last_at FROM session_parts"
            " ORDER BY session_id, user_id, model, branch"
        ).fetchall()
    )


def test_what_a_request_is_part_of_stands_beside_it(
    store: AnyStore, either: Database, records: Any
) -> None:
    store.write([records.start(attribution=WORK)], [])
    assert either.execute(
        "SELECT session_id, agent_id, parent_agent_id, project, repository, branch, commit_hash"
        " FROM interceptions"
    ).fetchall() == [
        ("s-1", "a-1", "a-0", "shop", "github.com/acme/shop", "main", "0123abc"),
    ]


def test_a_request_without_a_session_is_part_of_none(
    store: AnyStore, either: Database, records: Any
) -> None:
    store.write([records.start(attribution=Attribution(project="shop"))], [])
    assert parts(either) == []
    assert either.execute("SELECT session_id, project FROM interceptions").fetchall() == [
        (None, "shop")
    ]


def test_each_thing_that_a_session_was_seen_with_is_a_part(
    store: AnyStore, either: Database, records: Any
) -> None:
    session = Attribution("s-1")
    starts = [
        records.start(attribution=session, started_at=NOON + 5),
        records.start(attribution=session, started_at=NOON),
        records.start(attribution=session, model="other"),
        records.start(attribution=session, initiator_id="bob"),
    ]
    store.write(starts, [])
    user = starts[0].initiator_id
    noon = timestamp(NOON)
    assert parts(either) == [
        ("s-1", user, "claude-x", None, noon, timestamp(NOON + 5)),
        ("s-1", user, "other", None, noon, noon),
        ("s-1", "bob", "claude-x", None, noon, noon),
    ]


def test_a_parts_times_are_right_to_the_minute_and_sending_twice_changes_nothing(
    store: AnyStore, either: Database, records: Any
) -> None:
    starts = [
        records.start(attribution=Attribution("s-1"), started_at=NOON + seconds)
        for seconds in (0, 30, 59, 61, 130)
    ]
    for start in [*starts, *starts]:
        store.write([start], [])
    ((_s, _u, _m, _b, first_at, last_at),) = parts(either)
    assert first_at == timestamp(NOON)
    assert timestamp(NOON + 70) <= last_at <= timestamp(NOON + 130)


def test_a_part_is_noted_where_other_starts_are_refused(
    store: AnyStore, either: Database, records: Any
) -> None:
    bad = records.start(attribution=Attribution("s-0"), started_at=1e300)
    odd = records.start(attribution=Attribution("s-1"), model="half \ud800")
    written = store.write([bad, odd], [])
    assert list(written.starts) == [0]
    assert [(part[0], part[2]) for part in parts(either)] == [("s-1", "half \ufffd")]


def test_many_who_note_the_same_parts_do_not_stand_in_each_others_way(
    postgres: PostgresServer, records: Any
) -> None:
    address = postgres.new_database()
    open_address(address).close()
    failures: list[BaseException] = []
    together = threading.Barrier(4)
    rounds = 20

    def write(order: int) -> None:
        store = store_at(address)
        try:
            together.wait()
            for turn in range(rounds):
                starts = [
                    records.start(
                        attribution=Attribution(f"s-{number}"), started_at=NOON + 100 * turn
                    )
                    for number in range(20)
                ]
                store.write(starts[::-1] if order % 2 else starts, [])
        except BaseException as ex:
            failures.append(ex)
        finally:
            store.close()

    writers = [threading.Thread(target=write, args=(order,)) for order in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    database = open_address(address)
    found = parts(database)
    database.close()
    assert {part[5] for part in found} == {timestamp(NOON + 100 * (rounds - 1))}
