"""Usage that was summed up before is exactly what the records say, whatever happens to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import wait_until

from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.retention import DAY, Forgetting, Retention
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.usage import GROUPS, usage_by, usage_total
from aigateway.actors.control.local.usage_rolling import SETTLED, Rolling
from aigateway.actors.control.local.usage_sums import COLUMNS, Span, cover, summed
from aigateway.actors.values.records import timestamp

MIDNIGHT = 1_772_323_200.0
"""2026-03-01T00:00:00Z"""
HOUR = 3600.0
NOW = MIDNIGHT + 5 * HOUR + SETTLED + 1


@pytest.fixture
def store(address: str, either: Database) -> Iterator[Store | PostgresStore]:
    store = PostgresStore(address, 2, 10) if "://" in address else Store(address, 1)
    yield store
    store.close()


def roll(
    database: Database, now: float = NOW, rolling: Rolling | None = None, *, patient: bool = True
) -> None:
    """Sum up all that can be; ``patient``: when transactions that are under way have ended, and
    be they the server's own."""
    rolling = rolling or Rolling(again=0)

    def done() -> bool:
        while rolling.step(database, now):
            pass
        return not patient or not rolling.due(database, now)

    wait_until(done, "all is summed up")


def buckets(database: Database, span: Span | None = None) -> list[str]:
    return list(cover(database, span or Span()).buckets)


def assert_exact(
    database: Database, since: float | None = None, until: float | None = None
) -> None:
    span = Span(*(None if at is None else timestamp(at) for at in (since, until)))
    every = [*COLUMNS, "day"]
    for by in (every, *([column] for column in every), ()):
        expected = sorted(summed(database, by, span, records_only=True))
        assert sorted(summed(database, by, span)) == expected


def begin(store: Any, records: Any, at: float, **changes: Any) -> str:
    start = records.start(started_at=at, **changes)
    store.write([start], [records.tokens(start.id), records.end(start.id)])
    return str(start.id)


def test_days_and_hours_that_are_over_are_summed_up(
    store: Any, either: Database, records: Any
) -> None:
    for hours in (-80.5, -25.5, -1.0, 0.25, 3.5, 5.1):
        begin(store, records, MIDNIGHT + hours * HOUR)
    roll(either)
    assert buckets(either) == [
        "2026-02-25", "2026-02-27", "2026-02-28",
        "2026-03-01T00", "2026-03-01T01", "2026-03-01T02", "2026-03-01T03", "2026-03-01T04",
    ]  # fmt: skip
    assert usage_total(either).interceptions == 6
    assert_exact(either)


def test_a_day_takes_the_place_of_its_hours(store: Any, either: Database, records: Any) -> None:
    begin(store, records, MIDNIGHT + HOUR)
    rolling = Rolling(again=0)
    roll(either, rolling=rolling)
    assert len(buckets(either)) == 5
    roll(either, NOW + DAY, rolling)
    found = either.execute("SELECT DISTINCT bucket FROM usage_sums").fetchall()
    assert found == [("2026-03-01",)]
    assert buckets(either)[0] == "2026-03-01"


def test_sums_that_were_made_are_what_is_answered_from(
    store: Any, either: Database, records: Any
) -> None:
    begin(store, records, MIDNIGHT - HOUR)
    roll(either)
    either.execute("UPDATE usage_sums SET input_tokens = 7777")
    assert usage_total(either).input_tokens == 7777


@pytest.mark.parametrize("change", ["tokens", "prompt", "tool", "start", "error", "provider"])
def test_what_comes_late_is_counted_at_once_and_summed_up_again(
    store: Any, either: Database, records: Any, change: str
) -> None:
    at = MIDNIGHT + HOUR
    start = records.start(started_at=at)
    store.write([start], [])
    roll(either)
    hour = timestamp(at)[:13]
    assert hour in buckets(either)
    late: dict[str, Any] = {
        "tokens": records.tokens,
        "prompt": records.prompt,
        "tool": records.tool,
        "error": lambda id: records.end(id, error_type="timeout"),
        "provider": lambda id: records.end(id, provider_name="another"),
    }
    before = usage_by(either, list(GROUPS))
    if change == "start":
        store.write([records.start(started_at=at + 1)], [])
    else:
        store.write([], [late[change](start.id)])
    assert usage_by(either, list(GROUPS)) != before
    assert hour not in buckets(either)
    assert_exact(either)
    roll(either)
    assert hour in buckets(either)
    assert_exact(either)


def test_an_end_that_changes_no_sum_leaves_them(store: Any, either: Database, records: Any) -> None:
    start = records.start(started_at=MIDNIGHT + HOUR)
    store.write([start], [])
    roll(either)
    before = buckets(either)
    store.write([], [records.end(start.id)])
    assert buckets(either) == before


def test_records_that_come_twice_leave_them(store: Any, either: Database, records: Any) -> None:
    start = records.start(started_at=MIDNIGHT + HOUR)
    tokens = records.tokens(start.id, record_id="once")
    store.write([start], [tokens])
    roll(either)
    before = buckets(either)
    store.write([start], [tokens])
    assert buckets(either) == before
    assert usage_total(either).input_tokens == 10


def test_costs_that_are_worked_out_again_are_counted(
    store: Any, either: Database, records: Any
) -> None:
    begin(store, records, MIDNIGHT - HOUR)
    roll(either)
    either.execute("UPDATE token_usages SET cost_nano_usd = 12")
    assert usage_total(either).cost_nano_usd == 12
    roll(either)
    assert buckets(either)
    assert_exact(either)


def test_sums_go_with_the_records(store: Any, either: Database, records: Any) -> None:
    for days in (-40, -31.2, -29.9, -2):
        begin(store, records, NOW + days * DAY)
    rolling = Rolling(30, again=0)
    roll(either, rolling=Rolling(again=0))
    forgetting = Forgetting(Retention(records=30))
    while forgetting.step(either, NOW):
        pass
    assert usage_total(either).interceptions == 2
    assert_exact(either)
    roll(either, rolling=rolling)
    left = either.execute("SELECT DISTINCT bucket FROM usage_sums ORDER BY bucket").fetchall()
    assert left == [("2026-01-30",), ("2026-02-27",)]
    assert_exact(either)


def test_what_is_written_while_a_bucket_is_summed_up_is_not_missed(
    store: Any, either: Database, records: Any
) -> None:
    at = MIDNIGHT - HOUR
    begin(store, records, at)
    steps = 0
    for stop in itertools.count(1):
        rolling = Rolling(again=0)
        for _ in range(stop):
            steps += rolling.step(either, NOW)
        begin(store, records, at + stop)
        assert_exact(either)
        roll(either, rolling=rolling)
        assert_exact(either)
        if stop == 12:
            break
    assert "2026-02-28" in buckets(either)


def test_two_that_sum_up_the_same_do_no_harm(store: Any, either: Database, records: Any) -> None:
    at = MIDNIGHT - HOUR
    for turn in range(8):
        begin(store, records, at + turn)
        first, second = Rolling(again=0), Rolling(again=0)
        for n in range(turn):
            first.step(either, NOW)
            if n % 2:
                second.step(either, NOW)
        begin(store, records, at + 100 + turn)
        for _ in range(6):
            second.step(either, NOW)
            first.step(either, NOW)
        assert_exact(either)
    roll(either, rolling=first)
    roll(either, rolling=second)
    assert_exact(either)
    rows = either.execute("SELECT count(*) FROM usage_sums WHERE bucket = '2026-02-28'").fetchall()
    assert rows == [(1,)]


# In SQLite one writes at a time.
@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_transaction_that_began_before_the_bucket_was_watched_is_waited_for(
    address: str, store: Any, either: Database, records: Any
) -> None:
    at = MIDNIGHT - HOUR
    id = begin(store, records, at)
    other = open_address(address)
    other.execute("BEGIN")
    other.execute(
        "INSERT INTO tool_usages (interception_id, msg_id, tool_call_id, item_id, tool, input,"
        " injected, metadata, created_at) VALUES (?, '', '', '', 'Bash', '', 0, '{}', '')",
        (id,),
    )
    rolling = Rolling(again=0)
    for _ in range(50):
        rolling.step(either, NOW)
    assert buckets(either) == []
    other.execute("COMMIT")
    other.close()
    roll(either, rolling=rolling)
    assert "2026-02-28" in buckets(either)
    assert usage_total(either).tool_calls == 1
    assert_exact(either)


# In SQLite one writes at a time.
@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_change_by_a_transaction_that_is_under_way_counts_when_it_ends(
    address: str, store: Any, either: Database, records: Any
) -> None:
    id = begin(store, records, MIDNIGHT - HOUR)
    roll(either)
    other = open_address(address)
    other.execute("BEGIN")
    other.execute("UPDATE token_usages SET input_tokens = 5 WHERE interception_id = ?", (id,))
    either.execute("UPDATE interceptions SET model = 'renamed'")
    roll(either, patient=False)
    assert_exact(either)
    other.execute("COMMIT")
    other.close()
    assert usage_total(either).input_tokens == 5
    roll(either)
    assert usage_total(either).input_tokens == 5
    assert buckets(either)


OPERATIONS = st.one_of(
    st.tuples(
        st.just("start"),
        st.integers(-60, 6),
        st.sampled_from(["ada", "eve"]),
        st.sampled_from([None, "repo"]),
    ),
    st.tuples(
        st.sampled_from(["tokens", "prompt", "tool", "again", "fail", "move", "cost", "delete"]),
        st.integers(0, 30),
    ),
    st.tuples(st.sampled_from(["roll", "other"]), st.integers(1, 40)),
    st.tuples(st.just("forget"), st.integers(1, 3)),
)


def play(
    database: Database, store: Any, records: Any, operations: list[Any], bounds: tuple[int, int]
) -> None:
    ids: list[str] = []
    last: list[Any] = []
    rollings = {"roll": Rolling(again=0), "other": Rolling(again=0)}
    make: dict[str, Callable[[str], Any]] = {
        "tokens": lambda id: records.tokens(id, record_id=f"{len(last)}"),
        "prompt": records.prompt,
        "tool": records.tool,
        "fail": lambda id: records.end(id, error_type="timeout"),
        "move": lambda id: records.end(id, provider_name="another"),
    }
    for kind, *rest in operations:
        if kind == "start":
            hours, user, repository = rest
            start = records.start(started_at=MIDNIGHT + hours * HOUR + len(ids), username=user)
            store.write([start], [])
            if repository:
                database.execute(
                    "UPDATE interceptions SET repository = ? WHERE id = ?", (repository, start.id)
                )
            ids.append(start.id)
        elif kind in rollings:
            for _ in range(rest[0]):
                rollings[kind].step(database, NOW)
        elif kind == "forget":
            forgetting = Forgetting(Retention(records=rest[0]))
            forgetting.step(database, NOW)
        elif ids:
            id = ids[rest[0] % len(ids)]
            if kind in make:
                last = [make[kind](id)]
                store.write([], last)
            elif kind == "again":
                store.write([], last)
            elif kind == "cost":
                database.execute(
                    "UPDATE token_usages SET cost_nano_usd = ? WHERE interception_id = ?",
                    (rest[0], id),
                )
            else:
                database.execute("DELETE FROM token_usages WHERE interception_id = ?", (id,))
        since, until = (MIDNIGHT + quarter * HOUR / 4 for quarter in bounds)
        assert_exact(database)
        assert_exact(database, since, max(since, until))
    roll(database, rolling=rollings["roll"])
    assert_exact(database)


BOUNDS = st.tuples(st.integers(-250, 25), st.integers(-250, 25))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OPERATIONS, max_size=25), BOUNDS)
def test_sums_are_those_of_the_records_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory,
    records: Any,
    operations: list[Any],
    bounds: tuple[int, int],
) -> None:
    path = tmp_path_factory.mktemp("rolling") / "gateway.db"
    store, database = Store(path, 1), open_address(str(path))
    try:
        play(database, store, records, operations, bounds)
    finally:
        store.close()
        database.close()
