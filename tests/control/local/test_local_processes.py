"""Several worker processes on one database, and the end of one of them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from aigateway.actors.control.local.schema import open_database

HERE = Path(__file__).parent
READER = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"


def writer(path: Path, count: int, kind: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "_writer_process.py"), str(path), str(count), kind],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def count(database: sqlite3.Connection, sql: str) -> int:
    return database.execute(f"SELECT count(*) FROM {sql}").fetchone()[0]


@pytest.mark.parametrize("kind", ["gevent", "threads"])
def test_several_processes_lose_nothing(
    path: Path, database: sqlite3.Connection, kind: str
) -> None:
    writers = [writer(path, 200, kind) for _ in range(3)]
    ids = [line for one in writers for line in one.communicate(timeout=60)[0].split()]
    assert [one.returncode for one in writers] == [0, 0, 0]
    assert len(ids) == 600
    assert count(database, "interceptions WHERE ended_at IS NOT NULL") == 600
    assert count(database, "user_prompts") == count(database, "token_usages") == 600


def test_several_processes_may_find_no_database(path: Path) -> None:
    writers = [writer(path, 5, "threads") for _ in range(3)]
    for one in writers:
        one.communicate(timeout=60)
    assert [one.returncode for one in writers] == [0, 0, 0]
    database = sqlite3.connect(path)
    assert count(database, "interceptions") == 15
    database.close()


def test_a_killed_process_loses_nothing_that_it_acknowledged(
    path: Path, database: sqlite3.Connection
) -> None:
    acknowledged = set()
    for _ in range(3):
        process = writer(path, 1_000_000, "threads")
        assert process.stdout is not None
        for _ in range(100):
            acknowledged.add(process.stdout.readline().strip())
        process.kill()
        rest = process.stdout.read()
        # The last line may be cut short.
        acknowledged.update(rest[: rest.rfind("\n") + 1].split())
        process.wait()
        process.stdout.close()
    ended = database.execute("SELECT id FROM interceptions WHERE ended_at IS NOT NULL")
    assert acknowledged <= {row[0] for row in ended}
    for table in ("user_prompts", "token_usages"):
        found = database.execute(f"SELECT interception_id FROM {table}")
        assert acknowledged <= {row[0] for row in found}
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_written_after_another_process_has_left_is_still_in_the_file(path: Path) -> None:
    # As in a worker whose control plane is started again beside its housekeeper.
    with closing(open_database(path)), closing(open_database(path)) as again:
        writer(path, 5, "threads").communicate(timeout=60)
        again.execute("INSERT INTO stored_ids VALUES ('id', 'user', 0)")
        found = subprocess.run(
            [sys.executable, "-c", READER, str(path), "SELECT count(*) FROM stored_ids"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert found.stdout == "1\n"


def test_a_locked_database_does_not_hold_up_other_greenlets(path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(HERE / "_hub_ticks.py"), str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        timeout=60,
    )
    answer, took = run.stdout.split()
    assert answer == "Accepted"
    # 0.1 s on an idle machine; with SQLite's own waiting each try would add its own patience.
    assert float(took) < 2
