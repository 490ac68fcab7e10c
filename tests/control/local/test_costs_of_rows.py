"""Costs in the rows of token records: as they are written, summed up, and worked out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest

from aigateway.actors.control.local.costs import Recosted, recost, unpriced
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.prices.cost import Pricing
from aigateway.actors.control.local.prices.table import read_table
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.usage import usage_by, usage_total


def pricing(version: str = "v1", own: dict[str, Any] | None = None, **prices: float) -> Pricing:
    """Prices in dollars a million, the same for input and output, of models of Anthropic's."""
    vendors = {"anthropic": {"address": "https://api.anthropic.com"}}
    models = [
        {"model": name.replace("_", "-"), "provider": "anthropic", "input": price, "output": price}
        for name, price in prices.items()
    ]
    document = {"version": version, "vendors": vendors, "models": models}
    return Pricing(read_table(document, packaged=True), own and read_table(own))


AnyStore: TypeAlias = Store | PostgresStore


def opened(address: str, prices: Pricing | None = None) -> AnyStore:
    if "://" in address:
        return PostgresStore(address, 1, 10, prices)
    return Store(address, 1, prices)


@pytest.fixture
def database(either: Database) -> Database:
    return either


@pytest.fixture
def store(address: str, database: Database) -> Iterator[AnyStore]:
    store = opened(address, pricing(claude_x=2, small=0.02))
    yield store
    store.close()


def costs(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT cost_nano_usd, price, price_table FROM token_usages ORDER BY created_at"
    ).fetchall()


def test_a_row_has_its_cost_its_price_and_the_version_of_the_table(
    store: AnyStore, database: Database, records: Any
) -> None:
    start = records.start(model="claude-x")
    store.write([start], [])
    store.write([], [records.tokens(start.id, input_tokens=10, output_tokens=5)])
    assert costs(database) == [(15 * 2_000, "anthropic/claude-x", "v1")]
    assert store.unpriced == {}
    assert store.costs == {"anthropic/claude-x": 15 * 2_000}


def test_ten_tokens_of_a_cheap_model_are_not_nothing(
    store: AnyStore, database: Database, records: Any
) -> None:
    start = records.start(model="small")
    store.write([start], [records.tokens(start.id, input_tokens=10, output_tokens=0)])
    assert costs(database) == [(200, "anthropic/small", "v1")]


def test_what_has_no_price_has_no_cost_and_is_counted(
    store: AnyStore, database: Database, records: Any
) -> None:
    known, unknown = records.start(model="claude-x"), records.start(model="nonesuch")
    batch = {"service_tier": "batch"}
    store.write(
        [known, unknown],
        [
            records.tokens(unknown.id, created_at=1.0),
            records.tokens(known.id, created_at=2.0, metadata=batch),
            records.tokens("of nobody", created_at=3.0),
        ],
    )
    assert costs(database) == [
        (None, None, "v1"),
        (None, "anthropic/claude-x", "v1"),
        (None, None, None),
    ]
    assert store.unpriced == {"model": 1, "tier": 1}
    assert store.costs == {}


def test_a_record_that_is_sent_twice_costs_once(
    store: AnyStore, database: Database, records: Any
) -> None:
    start = records.start(model="claude-x")
    tokens = records.tokens(start.id, record_id="1")
    store.write([start], [tokens])
    store.write([], [tokens])
    assert costs(database) == [(30_000, "anthropic/claude-x", "v1")]


def test_a_record_with_impossible_values_spoils_no_other(
    store: AnyStore, database: Database, records: Any
) -> None:
    start = records.start(model="claude-x")
    written = store.write(
        [start],
        [
            records.tokens(start.id, created_at=float("inf")),
            records.tokens(start.id, created_at=1.0, input_tokens=10**18),
            records.tokens(start.id, created_at=2.0),
        ],
    )
    assert list(written.records) == [0]
    assert [cost for cost, _price, _table in costs(database)] == [None, 30_000]


def test_costs_add_up_and_what_has_none_is_counted_beside_them(
    store: AnyStore, database: Database, records: Any
) -> None:
    starts = {
        name: records.start(username=name, model=model)
        for name, model in (("ada", "claude-x"), ("bob", "nonesuch"), ("eve", "claude-x"))
    }
    store.write(
        list(starts.values()),
        [
            *(records.tokens(starts["ada"].id) for _ in range(3)),
            records.tool(starts["ada"].id),
            records.tool(starts["ada"].id),
            records.tokens(starts["ada"].id, metadata={"service_tier": "flex"}),
            records.tokens(starts["bob"].id),
        ],
    )
    rows = {row.group[0]: (row.cost_nano_usd, row.unpriced) for row in usage_by(database, ["user"])}
    # Without a token nothing was spent; with tokens of unknown price nobody knows.
    assert rows == {"ada": (90_000, 1), "bob": (None, 1), "eve": (0, 0)}
    total = usage_total(database)
    assert (total.cost_nano_usd, total.unpriced) == (90_000, 2)


def test_costs_are_worked_out_again_from_a_time_on(
    store: AnyStore, database: Database, records: Any
) -> None:
    old, new = (records.start(model="nonesuch", started_at=at) for at in (1000.0, 2000.0))
    store.write(
        [old, new],
        [records.tokens(old.id, created_at=1001.0), records.tokens(new.id, created_at=2001.0)],
    )
    other = pricing("v2", claude_x=2, nonesuch=4)
    expected = Recosted(
        rows=1, changed=1, before=0, after=60_000, unpriced_before=1, unpriced_after=0
    )
    assert recost(database, other, 2000.0, dry_run=True) == expected
    assert costs(database) == [(None, None, "v1")] * 2
    assert recost(database, other, 2000.0) == expected
    assert costs(database) == [(None, None, "v1"), (60_000, "anthropic/nonesuch", "v2")]
    again = recost(database, other, 2000.0)
    assert (again.rows, again.changed, again.before) == (1, 0, 60_000)


def test_more_interceptions_than_fit_into_one_transaction_are_all_worked_out(
    store: AnyStore, database: Database, records: Any
) -> None:
    # Many at the same moment: pages end between them.
    starts = [records.start(model="nonesuch") for _ in range(1201)]
    store.write(starts, [records.tokens(start.id) for start in starts])
    done = recost(database, pricing("v2", nonesuch=1), 0.0)
    assert (done.rows, done.changed, done.after) == (1201, 1201, 1201 * 15_000)
    assert set(costs(database)) == {(15_000, "anthropic/nonesuch", "v2")}


def test_each_of_several_records_of_an_answer_gets_its_own_cost(
    store: AnyStore, database: Database, records: Any
) -> None:
    start = records.start(model="nonesuch")
    fast = {"speed": "fast"}
    store.write(
        [start],
        [
            records.tokens(start.id, record_id="1", input_tokens=1),
            records.tokens(start.id, record_id="2", input_tokens=2),
            records.tokens(start.id, record_id="3", metadata=fast),
            *(records.tokens(start.id) for _ in range(2)),
        ],
    )
    done = recost(database, pricing("v2", nonesuch=1), 0.0)
    rows = database.execute("SELECT record_id, cost_nano_usd FROM token_usages").fetchall()
    assert sorted(rows, key=lambda row: row[0] or "4") == [
        ("1", 6_000),
        ("2", 7_000),
        ("3", None),
        (None, 15_000),
        (None, 15_000),
    ]
    assert (done.rows, done.after, done.unpriced_after) == (5, 43_000, 1)


def test_records_from_before_there_were_prices_get_theirs(
    address: str, database: Database, records: Any
) -> None:
    start = records.start(model="claude-x")
    before = opened(address)
    before.write([start], [records.tokens(start.id)])
    before.close()
    assert costs(database) == [(None, None, None)]
    recost(database, pricing(claude_x=2), 0.0)
    assert costs(database) == [(30_000, "anthropic/claude-x", "v1")]


def test_what_has_no_price_is_listed_with_the_reason(
    store: AnyStore, database: Database, records: Any
) -> None:
    start, other = records.start(model="nonesuch"), records.start(model="claude-x")
    store.write(
        [start, other],
        [
            records.tokens(start.id, input_tokens=1000),
            records.tokens(start.id),
            records.tokens(other.id),
            records.tokens(other.id, metadata={"web_search_requests": 1}),
            records.tokens(other.id, metadata={"provider_model": "stranger"}),
        ],
    )
    found = [
        (each.model, each.reason, each.records, each.tokens)
        for each in unpriced(database, pricing(claude_x=2), 0.0)
    ]
    assert found == [
        ("nonesuch", "model", 2, 1020),
        ("claude-x", "request", 1, 15),
        ("stranger", "model", 1, 15),
    ]
