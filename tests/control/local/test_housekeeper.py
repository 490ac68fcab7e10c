"""The actor that keeps a local database in order, alone, beside others, and when it cannot."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from aigateway.actors.actor.base import ask
from aigateway.actors.control.local.housekeeper import (
    LEASE,
    GetHousekeeping,
    Housekeeper,
    Housekeeping,
    leave,
    take_lease,
)
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.prompt_search import unindexed
from aigateway.actors.control.local.retention import DAY, Retention
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.usage import usage_total
from aigateway.actors.control.local.usage_sums import Span, cover
from aigateway.actors.values.attribution import Attribution
from aigateway.actors.values.prompt_parts import PromptParts, encoded

NOW = 1_772_280_000.0


class Clock:
    """Stands still, and knows how often somebody looked."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return NOW


Keep = Callable[..., Clock]


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Start a housekeeper that looks all the time; none may die."""
    refs: list[Any] = []
    deaths: list[BaseException | None] = []

    def start(address: str | Path, **days: int) -> Clock:
        clock = Clock()
        ref = Housekeeper.start(
            f"housekeeper-{len(refs)}",
            lambda _actor, error: deaths.append(error),
            address=str(address),
            retention=Retention(**days),
            idle=0.01,
            forget_every=0.01,
            compare_every=0.01,
            clock=clock,
        )
        refs.append(ref)
        return clock

    yield start
    for ref in refs:
        ref.stop()
    assert deaths == [None] * len(refs)


def fill(address: str, records: Any, count: int = 250) -> None:
    store = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    starts = [records.start(started_at=NOW - 31 * DAY) for _ in range(count)]
    told = [records.prompt(start.id) for start in starts]
    store.write(starts, [*told, *(records.end(start.id) for start in starts)])
    store.close()


def left(database: Database, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_is_old_goes(keep: Keep, address: str, either: Database, records: Any) -> None:
    fill(address, records)
    keep(address, content=30)
    wait_until(lambda: left(either, "user_prompts") == 0, "the content is gone")
    assert left(either, "interceptions") == 250


def test_several_do_it_together(keep: Keep, address: str, either: Database, records: Any) -> None:
    fill(address, records)
    for _ in range(3):
        keep(address, records=30)
    wait_until(lambda: left(either, "interceptions") == 0, "the records are gone")
    assert left(either, "user_prompts") == 0


def test_prompts_become_searchable(
    keep: Keep, path: Path, database: sqlite3.Connection, records: Any
) -> None:
    fill(str(path), records, 20)
    assert unindexed(database)
    keep(path)
    wait_until(lambda: not unindexed(database), "all is indexed")
    assert left(database, "user_prompts") == 20


def test_usage_is_summed_up(keep: Keep, address: str, either: Database, records: Any) -> None:
    fill(address, records, 20)
    for _ in range(2):
        keep(address)
    wait_until(lambda: cover(either, Span()).buckets, "the days have sums")
    assert usage_total(either).interceptions == 20


def test_one_at_a_time_has_the_lease(either: Database) -> None:
    assert take_lease(either, "a", NOW)
    assert take_lease(either, "a", NOW + 1)
    assert not take_lease(either, "b", NOW + 2)
    leave(either, "b")
    assert not take_lease(either, "b", NOW + 2)
    assert take_lease(either, "b", NOW + 2 + LEASE)
    assert not take_lease(either, "a", NOW + 3 + LEASE)
    leave(either, "b")
    assert take_lease(either, "a", NOW + 3 + LEASE)


def test_nothing_is_done_while_another_has_the_lease(
    keep: Keep, address: str, either: Database, records: Any
) -> None:
    fill(address, records, 3)
    assert take_lease(either, "another", NOW)
    clock = keep(address, records=30)
    wait_until(lambda: clock.looks > 5, "it has looked several times")
    assert left(either, "interceptions") == 3
    leave(either, "another")
    wait_until(lambda: left(either, "interceptions") == 0, "the records are gone")


def test_a_database_that_others_have_locked_is_waited_for(
    keep: Keep, path: Path, database: sqlite3.Connection, records: Any
) -> None:
    fill(str(path), records, 3)
    database.execute("BEGIN IMMEDIATE")
    clock = keep(path, records=30)
    wait_until(lambda: clock.looks > 5, "it has tried several times")
    database.execute("COMMIT")
    wait_until(lambda: left(database, "interceptions") == 0, "the records are gone")


def test_a_database_that_is_not_there_is_no_death_and_is_not_made(
    keep: Keep, tmp_path: Path
) -> None:
    clock = keep(tmp_path / "none.db", records=30)
    wait_until(lambda: clock.looks, "it has looked")
    assert not (tmp_path / "none.db").exists()


def test_what_came_of_it_is_told_trouble_included(
    path: Path, database: sqlite3.Connection, records: Any
) -> None:
    fill(str(path), records, 3)

    def started(address: Path) -> Any:
        return Housekeeper.start(
            "housekeeper",
            lambda _actor, _error: None,
            address=str(address),
            retention=Retention(records=30),
            idle=0.01,
            forget_every=0.01,
            clock=Clock(),
        )

    for address, told in (
        (path, Housekeeping(False, {"content": 0, "records": 3})),
        (path.with_name("none.db"), Housekeeping(True, {"content": 0, "records": 0})),
    ):
        keeper = started(address)
        try:
            wait_until(lambda k=keeper, t=told: ask(k, GetHousekeeping(), 5) == t, f"{told}")
        finally:
            keeper.stop()


def test_turns_of_sessions_are_compared_once_by_several(
    keep: Keep, address: str, either: Database, records: Any
) -> None:
    store = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    parts = encoded(PromptParts.of(b"tools.", b"system", [b"first."]))
    starts = [
        records.start(started_at=NOW + at, attribution=Attribution(f"s-{at % 7}"))
        for at in range(250)
    ]
    told = [records.tokens(start.id, cache_write_input_tokens=2000) for start in starts]
    ends = [records.end(start.id, prompt_parts=parts) for start in starts]
    store.write(starts, [*told, *ends])
    store.close()
    for _ in range(3):
        keep(address)
    wait_until(lambda: left(either, "cache_pending") == 0, "all turns are compared")
    assert left(either, "cache_turns") == 250
