"""``aigateway caps`` on the command line, and usage by group, project and key."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from click.testing import CliRunner

from aigateway.actors.control.local.caps import window_of
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.schema import Database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.usage import usage_by
from aigateway.actors.values.records import Attribution
from aigateway.http.cli.caps import command

USD = 10**9
NOW = time.time()


@pytest.fixture
def database(either: Database, address: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("CODER_AI_GATEWAY_LOCAL_DB", address)
    monkeypatch.delenv("CODER_CONFIG_PATH", raising=False)
    return either


def fill(
    database: Database, per: str, name: str, spent: float, of: float, *, ago: float = 0.0
) -> None:
    window = window_of("month", NOW - ago, "UTC")
    database.execute(
        "INSERT INTO cap_tills (scope, scope_id, name, period, starts_at, ends_at, cap_nano_usd,"
        " spent_nano_usd, reserved_nano_usd, running, next_id, next_until)"
        " VALUES (?, ?, ?, 'month', ?, ?, ?, ?, 250000000, 2, '', 0)",
        (
            per,
            f"id-{name}",
            name,
            window.starts_at,
            window.ends_at,
            int(of * USD),
            int(spent * USD),
        ),
    )


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result


def test_caps_are_shown_the_fullest_first_and_old_windows_not_at_all(database: Database) -> None:
    assert "No cap has been asked for" in run().stderr
    fill(database, "user", "ada", 5, 10)
    fill(database, "group", "research\x1b[31m", 12.5, 10)
    fill(database, "user", "ada", 9, 10, ago=62 * 86400.0)
    shown = run().stdout
    lines = [line.split() for line in shown.splitlines() if "$" in line]
    assert [line[0] for line in lines] == ["group", "user"]
    assert lines[1][1:8] == ["ada", "month", "$5.00", "$10.00", "50%", "$0.25", "2"]
    assert "125%" in lines[0]
    assert "\x1b" not in shown
    [only] = json.loads(run("--per", "user", "--json").stdout)
    assert (only["id"], only["name"], only["every"]) == ("id-ada", "ada", "month")
    assert (only["spent_nano_usd"], only["cap_nano_usd"], only["spent_part"]) == (
        5 * USD,
        10 * USD,
        0.5,
    )
    assert (only["reserved_nano_usd"], only["running"]) == (USD // 4, 2)
    assert only["starts_at"] < only["resets_at"]


def test_usage_is_summed_up_by_groups_together_by_project_and_by_key(
    database: Database, address: str, records: Any
) -> None:
    open_address(address).close()
    if "://" in address:
        from aigateway.actors.control.local.postgres_store import PostgresStore

        store: Any = PostgresStore(address, 1, 10.0)
    else:
        store = Store(address, 5.0)
    starts = [
        records.start(
            group_names="lab, team", attribution=Attribution(project="site"), api_key_id="a"
        ),
        records.start(group_names="lab", attribution=Attribution(project="site"), api_key_id="b"),
        records.start(api_key_id="b"),
    ]
    store.write(starts, [records.tokens(each.id) for each in starts])
    store.close()

    def by(name: str) -> dict[str, int]:
        return {row.group[0]: row.interceptions for row in usage_by(database, [name])}

    assert by("group") == {"lab, team": 1, "lab": 1, "": 1}
    assert by("project") == {"site": 2, "": 1}
    assert by("key") == {"a": 1, "b": 2}
