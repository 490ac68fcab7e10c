"""``aigateway retention`` on the command line."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from waiting import wait_until

from aigateway.actors.control.local.housekeeper import take_lease
from aigateway.actors.control.local.migrations import migrations, statements
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.postgres_store import PostgresStore
from aigateway.actors.control.local.schema import APPLICATION_ID, Database, open_database
from aigateway.actors.control.local.store import Store
from aigateway.actors.control.local.usage import usage_by
from aigateway.actors.control.local.usage_rolling import Rolling
from aigateway.http.cli.retention import command

DAY = 86_400

Run = Callable[..., Result]


@pytest.fixture
def run(address: str, commands_on: Callable[[str], Run], records: Any) -> Run:
    """Run it on a database with requests of 5, 45 and 100 days ago."""
    open_address(address).close()
    store = PostgresStore(address, 1, 10) if "://" in address else Store(address, 1)
    for days in (5, 45, 100):
        start = records.start(started_at=time.time() - days * DAY)
        store.write([start], [records.prompt(start.id), records.end(start.id)])
    store.close()
    return partial(commands_on(address), command)


def left(database: Database) -> tuple[int, int]:
    """Requests and prompts."""
    counts = [
        database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("interceptions", "user_prompts")
    ]
    return counts[0], counts[1]


def test_a_dry_run_says_what_would_go_and_deletes_nothing(run: Run, either: Database) -> None:
    result = run("--dry-run", "--content-days", "30", "--records-days", "90")
    assert result.exit_code == 0
    content, whole, sums = result.stdout.splitlines()
    assert content.startswith("content: of 2 requests before ")
    assert content.endswith("(30 days), 2 rows")
    assert whole.startswith("records: of 1 requests before ")
    assert whole.endswith("(90 days), 2 rows, 0 sums of an hour or a day")
    assert sums.startswith("usage: sums go with the records")
    assert run("--dry-run", "--content-days", "30").stdout.endswith(
        "\nusage: sums stay as they are\n"
    )
    assert left(either) == (3, 3)
    (row,) = json.loads(run("--dry-run", "--content-days", "30", "--json").stdout)
    assert (row["kind"], row["days"], row["interceptions"], row["rows"]) == ("content", 30, 2, 2)


def test_what_the_settings_say_goes(
    run: Run, either: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing is ever deleted" in run().stdout
    assert left(either) == (3, 3)
    monkeypatch.setenv("CODER_AI_GATEWAY_RETAIN_CONTENT_DAYS", "30")
    monkeypatch.setenv("CODER_AI_GATEWAY_RETAIN_RECORDS_DAYS", "90")
    result = run()
    assert result.exit_code == 0
    content, whole, sums = result.stdout.splitlines()
    assert (content, whole) == ("content: 1 requests", "records: 1 requests")
    assert sums.startswith("usage: sums go with the records")
    assert left(either) == (2, 1)
    assert run("--records-days", "30").exit_code == 0
    assert left(either) == (1, 1)


def test_sums_that_would_go_are_counted_and_usage_has_what_is_left(
    run: Run, either: Database
) -> None:
    rolling, now = Rolling(again=0), time.time()
    # A transaction of the server's own may be in the way.
    wait_until(
        lambda: not rolling.step(either, now) and not rolling.due(either, now), "all is summed up"
    )
    assert either.execute("SELECT count(*) FROM usage_buckets").fetchone()[0] >= 3
    days = ("--records-days", "90")
    (row,) = json.loads(run("--dry-run", *days, "--json").stdout)
    assert (row["interceptions"], row["usage_sums"]) == (1, 1)
    assert ", 1 sums of an hour or a day" in run("--dry-run", *days).stdout
    assert sum(each.interceptions for each in usage_by(either, ("user",))) == 3
    assert "usage: sums go with the records" in run(*days).stdout
    assert sum(each.interceptions for each in usage_by(either, ("user",))) == 2
    (row,) = json.loads(run("--dry-run", *days, "--json").stdout)
    assert (row["interceptions"], row["usage_sums"]) == (0, 0)


def test_it_does_not_work_beside_a_gateway_that_does(run: Run, either: Database) -> None:
    assert take_lease(either, "a gateway", time.time())
    result = run("--records-days", "30")
    assert result.exit_code == 1
    assert "a gateway is at it" in result.stderr
    assert left(either) == (3, 3)


def test_days_before_the_calendar_are_an_error(run: Run) -> None:
    for options in (("--dry-run",), ()):
        result = run(*options, "--records-days", "9999999")
        assert result.exit_code == 2
        assert "calendar" in result.stderr


def test_a_file_of_an_older_version_is_rewritten_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Any
) -> None:
    path = tmp_path / "old.db"
    monkeypatch.setenv("CODER_AI_GATEWAY_LOCAL_DB", str(path))
    old = sqlite3.connect(path)
    for step in migrations("sqlite")[:3]:
        for statement in statements(step.sql):
            old.execute(statement)
    old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    old.execute("PRAGMA user_version = 3")
    old.commit()
    old.close()
    open_database(path).close()
    store = Store(path, 1)
    for _ in range(20):
        start = records.start(started_at=time.time() - 40 * DAY)
        store.write([start], [records.prompt(start.id, prompt="word " * 20_000)])
    store.close()
    full = path.stat().st_size
    result = CliRunner().invoke(command, ["--content-days", "30"])
    assert "--vacuum" in result.stdout
    assert path.stat().st_size >= full
    result = CliRunner().invoke(command, ["--content-days", "30", "--vacuum"])
    assert result.exit_code == 0, result.output
    assert "The file is rewritten." in result.stdout
    assert path.stat().st_size < full / 4
    assert "--vacuum" not in CliRunner().invoke(command, ["--content-days", "30"]).stdout
