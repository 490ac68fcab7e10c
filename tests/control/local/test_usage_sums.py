"""What usage adds up to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.schema import Database, open_database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.usage import GROUPS, UsageRow, usage_by, usage_total


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.fixture
def database(either: Database) -> Database:
    return either


@pytest.fixture
def store(address: str, database: Database) -> Iterator[Store | PostgresStore]:
    store = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    yield store
    store.close()


@pytest.fixture
def week(store: Store | PostgresStore, database: Database, records: Any) -> Database:
    """Three requests: two by ada on two days, a failed one by eve."""
    first = records.start(started_at=at("2026-03-01T23:59:59"))
    second = records.start(started_at=at("2026-03-02T00:00:00"), model="small", client="curl")
    third = records.start(
        started_at=at("2026-03-02T10:00:00"),
        username="eve",
        provider="openai",
        provider_name="openai-main",
        model="gpt",
    )
    store.write(
        [first, second, third],
        [
            records.prompt(first.id),
            records.tokens(first.id, cache_read_input_tokens=100, cache_write_input_tokens=50),
            records.tokens(first.id),
            records.tool(first.id),
            records.tool(first.id),
            records.tool(first.id),
            records.end(first.id),
            records.tokens(second.id),
            records.prompt(third.id),
            records.end(third.id, error_type="timeout"),
            records.tokens("of nobody"),
        ],
    )
    return database


def test_usage_by_user(week: Database) -> None:
    ada = UsageRow(("ada",), 2, 0, 30, 15, 100, 50, 1, 3, None, 0, 3, 195)
    assert usage_by(week, ["user"]) == [ada, UsageRow(("eve",), 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0)]
    assert ada.tokens == 195


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("user", ["ada", "eve"]),
        ("provider", ["anthropic-eu", "openai-main"]),
        ("model", ["claude-x", "small", "gpt"]),
        ("client", ["Claude Code", "curl"]),
        ("day", ["2026-03-01", "2026-03-02"]),
    ],
)
def test_groups_come_with_the_most_tokens_first_and_days_in_order(
    week: Database, by: str, groups: list[str]
) -> None:
    assert [row.group[0] for row in usage_by(week, [by])] == groups
    assert by in GROUPS


def test_usage_by_two_things(week: Database) -> None:
    rows = usage_by(week, ["day", "model"])
    assert [row.group for row in rows] == [
        ("2026-03-01", "claude-x"),
        ("2026-03-02", "small"),
        ("2026-03-02", "gpt"),
    ]


def test_since_is_included_and_until_is_not(week: Database) -> None:
    midnight, morning = at("2026-03-02T00:00:00"), at("2026-03-02T10:00:00")
    assert usage_total(week, since=midnight).interceptions == 2
    assert usage_total(week, until=midnight).interceptions == 1
    assert usage_total(week, since=midnight, until=morning).interceptions == 1
    assert usage_total(week, since=morning + 1) == UsageRow((), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert usage_by(week, ["user"], since=morning + 1) == []


def test_the_total_is_the_sum_of_the_groups(week: Database) -> None:
    assert usage_total(week) == UsageRow((), 3, 1, 30, 15, 100, 50, 2, 3, None, 0, 3, 195)


def test_a_limit_keeps_the_largest_groups_and_the_newest_days(week: Database) -> None:
    assert [row.group for row in usage_by(week, ["model"], limit=2)] == [("claude-x",), ("small",)]
    assert [row.group for row in usage_by(week, ["day"], limit=1)] == [("2026-03-02",)]
    assert len(usage_by(week, ["day"], limit=9)) == 2


@pytest.mark.parametrize("by", [[], ["moon"], ["user", "username; DROP TABLE api_keys"]])
def test_what_cannot_be_grouped_by_is_refused(database: Database, by: list[str]) -> None:
    with pytest.raises(ValueError, match="group by"):
        usage_by(database, by)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ada", "eve"]),
            st.sampled_from(["m", "n"]),
            st.integers(0, 3),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_sums_are_those_of_plain_counting(
    records: Any, tmp_path_factory: pytest.TempPathFactory, requests: list[tuple]
) -> None:
    path = tmp_path_factory.mktemp("sums") / "gateway.db"
    store = Store(path, 1)
    expected: dict[tuple[str, ...], list[int]] = {}
    for user, model, tokens, prompts, tools in requests:
        start = records.start(username=user, model=model)
        rest = [
            *(records.tokens(start.id) for _ in range(tokens)),
            *(records.prompt(start.id) for _ in range(prompts)),
            *(records.tool(start.id) for _ in range(tools)),
        ]
        store.write([start], rest)
        sums = expected.setdefault((model, user), [0, 0, 0, 0, 0])
        for n, value in enumerate((1, 10 * tokens, 5 * tokens, prompts, tools)):
            sums[n] += value
    store.close()
    database = open_database(path)
    found = {
        row.group: [
            row.interceptions,
            row.input_tokens,
            row.output_tokens,
            row.prompts,
            row.tool_calls,
        ]
        for row in usage_by(database, ["model", "user"])
    }
    database.close()
    assert found == expected
